"""What calibration needs of one call of the attention function: which keys each query sees, and the calibrated pairs.

The unit of work is a *pair*: one row of the batch and one head that is calibrated in it. Pairs are worked on in chunks, and a
chunk in blocks of its rows, small enough to stay in a CPU's caches; extra memory is that of a chunk, linear in n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32
from act_eval.attention.masks import Visibility, _least

_BLOCK_ELEMENTS = {"cpu": 2**20}
_BLOCK_ELEMENTS_ELSEWHERE = 2**26
_BLOCK_ROWS = 64
_LARGEST_SAFE_FACTOR = {torch.float32: 10.0, torch.float64: 10.0}
_LARGEST_SAFE_FACTOR_HALF = 2.0


@dataclass(frozen=True)
class ChosenPairs:
    """Some pairs of a batch row and a query head.

    Attributes:
        chosen: bool `[batch, heads]`.
    """

    chosen: Tensor

    @cached_property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.chosen.any())

    @cached_property
    def all(self) -> bool:
        """Whether all are chosen."""
        return bool(self.chosen.all())

    @cached_property
    def indices(self) -> tuple[Tensor, Tensor]:
        """Row and head index of every pair: two int64 `[pairs]`."""
        rows, heads = self.chosen.nonzero(as_tuple=True)
        return rows, heads

    @cached_property
    def heads(self) -> Tensor | None:
        """The heads that are chosen in some row, int64 `[some heads]`, or None for all heads."""
        in_some_row = self.chosen.any(0)
        return None if bool(in_some_row.all()) else in_some_row.nonzero().squeeze(-1)


@dataclass(frozen=True)
class AttentionCall:
    """What one call of the attention function got and what its base backend gave.

    Attributes:
        query: `[batch, heads, n, head_dim]`.
        key, value: `[batch, key/value heads, k, head_dim]`.
        output: `[batch, n, heads, head_dim]`, the base backend's; calibrated outputs are written over it.
        visibility: which keys the queries see.
        scaling: of the scores.
        softcap: soft cap of the scores, or None.
        learned_sinks: `[heads]`, the logit that each head has learned and that joins every row's softmax (gpt-oss), or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    visibility: Visibility
    scaling: float
    softcap: float | None
    learned_sinks: Tensor | None = None

    def chunks(self, rows: Tensor, heads: Tensor) -> Iterator[tuple[slice, Pairs]]:
        """The pairs (`rows[i]`, `heads[i]`), some at a time: so many that a few rows of each fill a block of scores.

        Args:
            rows, heads: int64 `[pairs]`, distinct pairs in ascending order.
        """
        k, dim = self.key.shape[-2:]
        elements = block_elements(self.query.device)
        size = max(1, min(elements // (min(self.query.shape[-2], _BLOCK_ROWS) * k), 4 * elements // (k * dim)))
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            yield chunk, self._gather(rows[chunk], heads[chunk])

    def write(self, pairs: Pairs, calibrated: Tensor) -> None:
        """Replace the outputs of some pairs, `[pairs, n, head_dim]`, but not those of padding."""
        if not self.visibility.all_real:
            calibrated = torch.where(pairs.real[..., None], calibrated, pairs.output)
        output = self.output.transpose(1, 2)
        if len(pairs.rows) == output.shape[0] * output.shape[1]:
            output.copy_(calibrated.view_as(output))
        else:
            output[pairs.rows, pairs.heads] = calibrated.to(output.dtype)

    def write_heads(self, heads: Tensor | None, attended: Tensor, chosen: Tensor | None) -> None:
        """Replace the outputs of some heads, or of all.

        Args:
            heads: int64 `[some heads]`, or None for all.
            attended: `[batch, some heads, n, head_dim]`.
            chosen: bool `[batch, heads]`, which pairs to replace, or None for all.
        """
        attended = attended.transpose(1, 2).to(self.output.dtype)
        if chosen is not None:
            before = self.output if heads is None else self.output.index_select(2, heads)
            chosen = chosen if heads is None else chosen.index_select(1, heads)
            attended = torch.where(chosen[:, None, :, None], attended, before)
        if heads is None:
            self.output.copy_(attended)
        else:
            self.output.index_copy_(2, heads, attended)

    def _gather(self, rows: Tensor, heads: Tensor) -> Pairs:
        group = self.query.shape[1] // self.key.shape[1]
        visibility = self.visibility
        many_heads = visibility.hidden is not None and visibility.hidden.shape[1] > 1
        return Pairs(
            query=at_least_float32(_take(self.query, rows, heads)) * self.scaling,
            key=at_least_float32(_take_key_heads(self.key, rows, heads, group)),
            output=at_least_float32(_take(self.output.transpose(1, 2), rows, heads)),
            value=self.value,
            rows=rows,
            heads=heads,
            group=group,
            visibility=visibility,
            mask_rows=rows if visibility.real.shape[0] > 1 else torch.zeros_like(rows),
            mask_heads=heads if many_heads else torch.zeros_like(heads),
            softcap=self.softcap,
            learned_sinks=None if self.learned_sinks is None else at_least_float32(self.learned_sinks[heads]),
            largest_safe_factor=largest_safe_factor(self.query.dtype),
        )


@dataclass(frozen=True)
class Pairs:
    """Some calibrated pairs and what each of their queries sees; pairs are the first dimension.

    Attributes:
        query: `[pairs, n, head_dim]`, already scaled, at least float32.
        key: `[pairs, k, head_dim]`, at least float32.
        output: `[pairs, n, head_dim]`, the base backend's, at least float32.
        value: all values, `[batch, key/value heads, k, head_dim]`: few of them are needed.
        rows, heads: int64 `[pairs]`, which pairs these are.
        group: query heads per key/value head.
        visibility: of the forward pass.
        mask_rows, mask_heads: int64 `[pairs]`, where each pair's entries of `visibility` are.
        softcap: soft cap of the scores, or None.
        learned_sinks: `[pairs]`, at least float32, the learned logit of each pair's head, or None.
        largest_safe_factor: a row whose keys are scaled by at most this may be computed from the base output.
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

    @cached_property
    def key_heads(self) -> Tensor:
        """The key/value heads of `heads`: int64 `[pairs]`."""
        return self.heads if self.group == 1 else self.heads // self.group

    @cached_property
    def real(self) -> Tensor:
        """False for queries that are padding: bool `[pairs, n]`."""
        return self.visibility.real[self.mask_rows]

    @cached_property
    def first_token(self) -> Tensor:
        """True for the first token of a prefill: bool `[pairs, k]`."""
        return self.visibility.first_token[self.mask_rows]

    def times_share_of_keys(self, tensor: Tensor, pair: Tensor | slice, log_normalizer: Tensor) -> Tensor:
        """Sums over keys, taken with weights that sum to 1, as the model weighs them beside its learned sink logits.

        Args:
            tensor: `[chosen, rows, any]`, a sum over keys for each row.
            pair: the pairs, int64 `[chosen]`, or a slice of them.
            log_normalizer: `[chosen, rows]`, log-sum-exp of each row's scores over its keys, without the learned sink.

        Returns:
            The tensor, times the share of its attention that each row has on keys; as it is without learned sinks.
        """
        if self.learned_sinks is None:
            return tensor
        return tensor * (log_normalizer - self.learned_sinks[pair, None]).sigmoid()[..., None]

    def blocks(self, elements_per_row: int) -> Iterator[slice]:
        """Row blocks of bounded size: `pairs * rows * elements_per_row` stays below a constant, or one row at a time."""
        return row_blocks(self.query.shape[1], self.query.shape[0] * elements_per_row, self.query.device)

    def scores(self, block: slice) -> Tensor:
        """Scores of a row block over the keys it may see: float32 `[pairs, rows, width]`.

        Keys that a query does not see get a finite number so low that a softmax gives them 0; a row that sees nothing
        (padding) stays finite.
        """
        visibility = self.visibility
        first_own, after = visibility.first + block.start, visibility.first + block.stop
        width = min(visibility.keys, after) if visibility.causal else visibility.keys
        scores = cap(self.query[:, block] @ self.key[:, :width].mT, self.softcap)
        least = _least(scores.dtype)
        if visibility.additive is not None:
            scores += visibility.additive[self.mask_rows, self.mask_heads, block, :width]
        if visibility.hidden is not None:
            return scores.masked_fill_(visibility.hidden[self.mask_rows, self.mask_heads, block, :width], least)
        # Sums are many times faster than fills with a mask that is broadcast.
        if block.stop - block.start > 1:
            own = scores[..., first_own:]
            own += torch.full(own.shape[-2:], least, dtype=own.dtype, device=own.device).triu(1)
        if visibility.padding is not None:
            scores += visibility.padding_bias[:, :width].index_select(0, self.mask_rows)[:, None]
        return scores

    def scores_of_keys(self, block: slice, index: Tensor, present: Tensor) -> Tensor:
        """Scores of a row block over chosen keys: float32 `[pairs, rows, chosen]`, -inf where not seen or not present.

        Args:
            block: the rows.
            index: int64 `[pairs, chosen]`, key indices, none of padding.
            present: bool `[pairs, chosen]`, False for places that hold no key.
        """
        chosen = self.key.gather(1, index[..., None].expand(-1, -1, self.key.shape[-1]))
        scores = cap(self.query[:, block] @ chosen.mT, self.softcap)
        wide = index[:, None].expand(-1, scores.shape[1], -1)
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[self.mask_rows, self.mask_heads, block].gather(-1, wide)
        if self.visibility.hidden is None:
            own = torch.arange(block.start, block.stop, device=index.device) + self.visibility.first
            hidden = wide > own[:, None]
        else:
            hidden = self.visibility.hidden[self.mask_rows[:, None], self.mask_heads[:, None], block, index].mT
        return scores.masked_fill(hidden | ~present[:, None], -torch.inf)

    def scores_of_queries(self, pair: Tensor, position: Tensor) -> Tensor:
        """Scores of chosen queries over all keys: `[chosen, rows, k]`, -inf where a key is not seen.

        Args:
            pair: int64 `[chosen]`.
            position: int64 `[chosen, rows]`, queries of each of these pairs.
        """
        scores = cap(self.query[pair[:, None], position] @ self.key[pair].mT, self.softcap)
        mask = self.mask_rows[pair][:, None], self.mask_heads[pair][:, None], position
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[mask]
        if self.visibility.hidden is None:
            hidden = torch.arange(scores.shape[-1], device=pair.device) > position[..., None] + self.visibility.first
            if self.visibility.padding is not None:
                hidden |= self.visibility.padding[self.mask_rows[pair], None]
        else:
            hidden = self.visibility.hidden[mask]
        return scores.masked_fill(hidden, -torch.inf)

    def values_of_keys(self, index: Tensor) -> Tensor:
        """Values of chosen keys, int64 `[pairs, chosen]`: at least float32 `[pairs, chosen, head_dim]`."""
        if not self.value.is_contiguous():
            return at_least_float32(self.value[self.rows[:, None], self.key_heads[:, None], index])
        # A look-up in a table is several times faster on a CPU than indexing.
        _, heads, k, dim = self.value.shape
        place = ((self.rows * heads + self.key_heads) * k)[:, None] + index
        return at_least_float32(torch.nn.functional.embedding(place, self.value.view(-1, dim)))

    def values_of_pairs(self, pair: Tensor) -> Tensor:
        """All values of chosen pairs, int64 `[chosen]`: at least float32 `[chosen, k, head_dim]`."""
        return at_least_float32(self.value[self.rows[pair], self.key_heads[pair]])

    def heavy(self, factor: Tensor, block: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of a block whose keys are scaled so much that the base output does not do, in batches of bounded size.

        Args:
            factor: `[pairs, rows, 1]`, what the keys are scaled by that were not selected.
            block: the rows.

        Returns:
            Batches of: the pairs that have such rows, int64 `[batch]`; the rows within the block, int64 `[batch, most]`; and
            whether a row is such a one, bool `[batch, most]`, since pairs have different numbers of them.
        """
        if float(factor.max()) <= self.largest_safe_factor:
            return
        heavy = (factor.squeeze(-1) > self.largest_safe_factor) & self.real[:, block]
        counts = heavy.sum(-1)
        most = int(counts.max())
        if most == 0:
            return
        (some,) = counts.nonzero(as_tuple=True)
        elements, k = block_elements(factor.device), self.key.shape[1]
        for pair in some.split(max(1, elements // (most * k))):
            is_heavy, row = heavy[pair].to(torch.uint8).topk(most, dim=-1)
            size = max(1, elements // (len(pair) * k))
            yield from ((pair, *part) for part in zip(row.split(size, -1), is_heavy.bool().split(size, -1), strict=True))


def _take(tensor: Tensor, rows: Tensor, heads: Tensor) -> Tensor:
    """`tensor[rows, heads]`, without a copy where that is all of it: `[pairs, ...]`.

    Args:
        tensor: `[batch, heads, ...]`, with as many heads as there are query heads.
        rows, heads: int64 `[pairs]`, distinct pairs in ascending order.
    """
    if len(rows) == tensor.shape[0] * tensor.shape[1]:
        return tensor.flatten(0, 1)
    return _select(tensor, rows, heads)


def _take_key_heads(tensor: Tensor, rows: Tensor, heads: Tensor, group: int) -> Tensor:
    """`tensor[rows, heads // group]`: as `_take`, from a tensor with one head for each `group` query heads."""
    return _take(tensor, rows, heads) if group == 1 else _select(tensor, rows, heads // group)


def _select(tensor: Tensor, rows: Tensor, heads: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor.flatten(0, 1).index_select(0, rows * tensor.shape[1] + heads)
    return tensor[rows, heads]


def largest_safe_factor(dtype: torch.dtype) -> float:
    """Up to which factor on its other keys a row may be computed from the base output, in a model of that dtype."""
    return _LARGEST_SAFE_FACTOR.get(dtype, _LARGEST_SAFE_FACTOR_HALF)


def block_elements(device: torch.device) -> int:
    """How many scores are worked on at once."""
    return _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE)


def row_blocks(n: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
    """Blocks of `n` rows that hold a bounded number of elements, or one row each."""
    size = max(1, block_elements(device) // max(1, elements_per_row))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores as they are, or softly capped (Gemma 2)."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap
