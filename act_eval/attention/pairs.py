"""Pairs of a batch row and a query head: the unit in which heads are calibrated.

Different rows of a batch may calibrate different heads, so that work is divided by (row, head). Tensors about such pairs have
them as their first dimension, called `row_heads` in shapes. Pairs are worked on in chunks, and a chunk in blocks of its
queries, small enough to stay in a CPU's caches (`ComputeLimits`); extra memory is that of a chunk, linear in n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility, lowest_score


@dataclass(frozen=True)
class ChosenHeads:
    """Some heads of each row of a batch.

    What is asked of them is found out on the CPU, so that a device is waited for once, or not at all where the CPU knew.

    Attributes:
        mask: bool `[batch, heads]`, True for the heads that are chosen in a row.
        known: the same on the CPU, or None to copy it from there when it is needed.
    """

    mask: Tensor
    known: Tensor | None = field(default=None, repr=False)

    @cached_property
    def _on_cpu(self) -> Tensor:
        return self.mask.cpu() if self.known is None else self.known

    @cached_property
    def any(self) -> bool:
        """Whether a head is chosen in some row."""
        return bool(self._on_cpu.any())

    @cached_property
    def all(self) -> bool:
        """Whether all heads are chosen in all rows."""
        return bool(self._on_cpu.all())

    @cached_property
    def share(self) -> float:
        """How many of the heads of all rows are chosen, as a share in [0, 1]."""
        return float(self._on_cpu.float().mean())

    @cached_property
    def same_in_all_rows(self) -> bool:
        """Whether all rows choose the same heads."""
        return bool((self._on_cpu == self._on_cpu[:1]).all())

    @cached_property
    def indices(self) -> tuple[Tensor, Tensor]:
        """Row and head index of every choice, in ascending order: two int64 `[row_heads]`."""
        rows, heads = self._on_cpu.nonzero(as_tuple=True)
        return rows.to(self.mask.device), heads.to(self.mask.device)

    @cached_property
    def heads(self) -> Tensor | None:
        """The heads that are chosen in some row, int64 `[some heads]`, or None for all heads."""
        in_some_row = self._on_cpu.any(0)
        return None if bool(in_some_row.all()) else in_some_row.nonzero().squeeze(-1).to(self.mask.device)

    def of_rows(self, rows: Tensor) -> ChosenHeads:
        """The heads of some rows, int64 `[new batch]`, without waiting for the device that has them.

        What decode steps ask is therefore answered as for all rows: `any` and `heads` may be of rows that were left out.
        """
        some = ChosenHeads(self.mask[rows])
        vars(some).update({name: getattr(self, name) for name in ("any", "all", "heads")})
        return some


@dataclass(frozen=True)
class SelectedKeys:
    """Some keys of each of some heads, by key index; the first dimensions, called any, are `row_heads` or batch and heads.

    Attributes:
        index: int64 `[any, most]`.
        present: bool `[any, most]`, False for places that hold no key, since heads have different numbers of them.
        first_token_mask: bool `[any, most]`, True for the first token.
    """

    index: Tensor
    present: Tensor
    first_token_mask: Tensor

    @classmethod
    def from_masks(cls, selected: Tensor, first_token_mask: Tensor) -> SelectedKeys | None:
        """Pack the keys of masks, bool `[any, k]`: selected keys and first tokens. None if no key is selected."""
        most = int(selected.sum(-1).max()) if selected.numel() else 0
        if most == 0:
            return None
        present, index = selected.to(torch.uint8).topk(most, dim=-1)
        return cls(index, present.bool(), first_token_mask.gather(-1, index))


@dataclass(frozen=True)
class RowHeadPairs:
    """What the heads of some (row, head) pairs got and gave in one prefill, and what each of their queries sees.

    Attributes:
        query: `[row_heads, n, head_dim]`, already scaled, at least float32.
        key: `[row_heads, k, head_dim]`, at least float32.
        output: `[row_heads, n, head_dim]`, the base backend's, at least float32.
        value: all values, `[batch, key/value heads, k, head_dim]`: few of them are needed.
        rows, heads: int64 `[row_heads]`, batch row and query head of each pair.
        group: query heads per key/value head.
        visibility: which keys the queries of the forward pass see.
        mask_rows, mask_heads: int64 `[row_heads]`, where each pair's entries of `visibility` are.
        softcap: soft cap of the scores, or None.
        learned_sinks: `[row_heads]`, at least float32, the learned logit of each pair's head, or None.
        largest_safe_factor: a row of attention whose other keys are scaled by at most this may be computed from the output.
        limits: how much is computed at once.
    """

    query: Tensor
    key: Tensor
    output: Tensor
    value: Tensor
    rows: Tensor
    heads: Tensor
    group: int
    visibility: Visibility
    mask_rows: Tensor
    mask_heads: Tensor
    softcap: float | None
    learned_sinks: Tensor | None
    largest_safe_factor: float
    limits: ComputeLimits

    @cached_property
    def key_heads(self) -> Tensor:
        """The key/value heads of `heads`: int64 `[row_heads]`."""
        return self.heads if self.group == 1 else self.heads // self.group

    @cached_property
    def real(self) -> Tensor:
        """False for queries that are padding: bool `[row_heads, n]`."""
        return self.visibility.real[self.mask_rows]

    @cached_property
    def first_token(self) -> Tensor:
        """True for the first token of a prefill: bool `[row_heads, k]`."""
        return self.visibility.first_token[self.mask_rows]

    @cached_property
    def seen_by(self) -> Tensor:
        """How many real queries see each key: int64 `[row_heads, k]`."""
        return self.visibility.seen_by[self.mask_rows, self.mask_heads]

    def blocks(self, elements_per_query: int) -> Iterator[slice]:
        """Split the queries into blocks of bounded size: of all pairs together, or one query of each at a time."""
        return self.limits.row_blocks(self.query.shape[1], self.query.shape[0] * elements_per_query, self.query.device)

    def scores(self, block: slice) -> Tensor:
        """Compute the scores of a block of queries over the keys it may see: at least float32 `[row_heads, block, width]`.

        Keys that a query does not see get a finite number so low that a softmax gives them 0; a query that sees nothing
        (padding) stays finite.
        """
        visibility = self.visibility
        first_own, after = visibility.query_offset + block.start, visibility.query_offset + block.stop
        width = min(visibility.keys, after) if visibility.causal else visibility.keys
        scores = soft_cap(self.query[:, block] @ self.key[:, :width].mT, self.softcap)
        lowest = lowest_score(scores.dtype)
        if visibility.additive is not None:
            scores += visibility.additive[self.mask_rows, self.mask_heads, block, :width]
        if visibility.hidden is not None:
            return scores.masked_fill_(visibility.hidden[self.mask_rows, self.mask_heads, block, :width], lowest)
        # Sums are many times faster than fills with a mask that is broadcast.
        if block.stop - block.start > 1:
            own = scores[..., first_own:]
            own += torch.full(own.shape[-2:], lowest, dtype=own.dtype, device=own.device).triu(1)
        if visibility.padding is not None:
            scores += visibility.padding_bias[:, :width].index_select(0, self.mask_rows)[:, None]
        return scores

    def scores_of_keys(self, block: slice, index: Tensor, present: Tensor) -> Tensor:
        """Compute the scores of a block of queries over chosen keys.

        Args:
            block: the queries.
            index: int64 `[row_heads, chosen]`, key indices, none of padding.
            present: bool `[row_heads, chosen]`, False for places that hold no key.

        Returns:
            At least float32 `[row_heads, block, chosen]`, -inf for keys that are not seen or not present.
        """
        chosen = self.key.gather(1, index[..., None].expand(-1, -1, self.key.shape[-1]))
        scores = soft_cap(self.query[:, block] @ chosen.mT, self.softcap)
        wide = index[:, None].expand(-1, scores.shape[1], -1)
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[self.mask_rows, self.mask_heads, block].gather(-1, wide)
        if self.visibility.hidden is None:
            own = torch.arange(block.start, block.stop, device=index.device) + self.visibility.query_offset
            hidden = wide > own[:, None]
        else:
            hidden = self.visibility.hidden[self.mask_rows[:, None], self.mask_heads[:, None], block, index].mT
        return scores.masked_fill(hidden | ~present[:, None], -torch.inf)

    def scores_of_queries(self, row_head: Tensor, position: Tensor) -> Tensor:
        """Compute the scores of chosen queries over all keys.

        Args:
            row_head: int64 `[chosen]`, pairs by their index here.
            position: int64 `[chosen, queries]`, indices of queries of each of these pairs.

        Returns:
            At least float32 `[chosen, queries, k]`, -inf for keys that are not seen.
        """
        scores = soft_cap(self.query[row_head[:, None], position] @ self.key[row_head].mT, self.softcap)
        mask = self.mask_rows[row_head][:, None], self.mask_heads[row_head][:, None], position
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[mask]
        if self.visibility.hidden is None:
            own = position[..., None] + self.visibility.query_offset
            hidden = torch.arange(scores.shape[-1], device=row_head.device) > own
            if self.visibility.padding is not None:
                hidden |= self.visibility.padding[self.mask_rows[row_head], None]
        else:
            hidden = self.visibility.hidden[mask]
        return scores.masked_fill(hidden, -torch.inf)

    def values_of_keys(self, index: Tensor) -> Tensor:
        """Take the values of chosen keys, int64 `[row_heads, chosen]`: at least float32 `[row_heads, chosen, head_dim]`."""
        if not self.value.is_contiguous():
            return at_least_float32(self.value[self.rows[:, None], self.key_heads[:, None], index])
        # A look-up in a table is several times faster on a CPU than indexing.
        _, heads, k, dim = self.value.shape
        place = ((self.rows * heads + self.key_heads) * k)[:, None] + index
        return at_least_float32(torch.nn.functional.embedding(place, self.value.view(-1, dim)))

    def all_values(self, row_head: Tensor | slice = slice(None)) -> Tensor:
        """Take the values of all keys of some pairs, int64 `[chosen]`, or of all: at least float32 `[chosen, k, head_dim]`."""
        return at_least_float32(self.value[self.rows[row_head], self.key_heads[row_head]])

    def times_share_of_keys(self, tensor: Tensor, row_head: Tensor | slice, log_normalizer: Tensor) -> Tensor:
        """Turn sums over keys, taken with weights that sum to 1, into what they are beside the learned sink logits.

        Args:
            tensor: `[chosen, queries, any]`, a sum over keys for each query.
            row_head: pairs by their index here, int64 `[chosen]` or a slice.
            log_normalizer: `[chosen, queries]`, log-sum-exp of each query's scores over its keys, without the learned sink.

        Returns:
            The tensor, times the share of its attention that each query gives to keys; as it is without learned sinks.
        """
        if self.learned_sinks is None:
            return tensor
        return tensor * (log_normalizer - self.learned_sinks[row_head, None]).sigmoid()[..., None]

    def rows_losing_precision(self, factor: Tensor, block: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Find the queries of a block that lose digits when computed from the base output, in batches of bounded size.

        Args:
            factor: `[row_heads, block, 1]`, what the keys are scaled by that were not selected; large where they have little
                of the row's attention.
            block: the queries.

        Returns:
            Batches of: the pairs that have such queries, int64 `[batch]`; queries by their index in the block, int64
            `[batch, most]`; and bool `[batch, most]`, False for places that hold no query, since pairs have different numbers.
        """
        if float(factor.max()) <= self.largest_safe_factor:
            return
        loses_precision = (factor.squeeze(-1) > self.largest_safe_factor) & self.real[:, block]
        counts = loses_precision.sum(-1)
        most = int(counts.max())
        if most == 0:
            return
        (some,) = counts.nonzero(as_tuple=True)
        elements, k = self.limits.elements(factor.device), self.key.shape[1]
        for row_head in some.split(max(1, elements // (most * k))):
            present, query = loses_precision[row_head].to(torch.uint8).topk(most, dim=-1)
            size = max(1, elements // (len(row_head) * k))
            yield from ((row_head, *part) for part in zip(query.split(size, -1), present.bool().split(size, -1), strict=True))


def soft_cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores as they are, or softly capped (Gemma 2)."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
