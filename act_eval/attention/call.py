"""One call of the attention function: what it got, and the output that calibrated heads are written into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32
from act_eval.attention.limits import DEFAULT_LIMITS, ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import RowHeadPairs


@dataclass(frozen=True)
class AttentionCall:
    """What one call of the attention function got and what its base backend gave.

    Attributes:
        query: `[batch, heads, n, head_dim]`.
        key, value: `[batch, key/value heads, k, head_dim]`.
        output: `[batch, n, heads, head_dim]`, the base backend's; calibrated outputs are written over it.
        log_sum_exp: `[batch, heads, n]`, of each query's scores, as the base backend's kernel computed it; for padding it may
            be any number, or not one. None where it is not known.
        has_base_output: whether the base backend ran; if not, all of `output` has to be written.
        visibility: which keys the queries see.
        scaling: what scores are multiplied by.
        softcap: soft cap of the scores, or None.
        learned_sinks: `[heads]`, the logit that each head has learned and that joins every row's softmax (gpt-oss), or None.
        limits: how much is computed at once.
        span: bool `[rows, at most n]`, the tokens of the part of the prompt that the method is about, among the queries of a
            prefill; None where nobody said which they are. Of fewer rows than the batch has, each stands for as many in a row.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    visibility: Visibility
    scaling: float
    softcap: float | None
    learned_sinks: Tensor | None = None
    limits: ComputeLimits = DEFAULT_LIMITS
    log_sum_exp: Tensor | None = None
    has_base_output: bool = True
    span: Tensor | None = None

    def tokens_of_span(self) -> Tensor:
        """The tokens of the part of the prompt by key index, False for padding: bool `[batch, k]`.

        Raises:
            RuntimeError: nobody said which they are, or it was said of other rows.
        """
        batch, (n, k) = self.query.shape[0], (self.query.shape[-2], self.key.shape[-2])
        if self.span is None:
            raise RuntimeError(
                "the method changes the attention of a part of the prompt, but it was not said which tokens these are: run the "
                "prompt inside `span_tokens(model, mask)`."
            )
        rows, width = self.span.shape
        if batch % rows or width > n:
            raise RuntimeError(
                f"the part of the prompt was given for {rows} rows of {width} tokens, but the prompt has {batch} rows of {n}."
            )
        offset = self.visibility.query_offset
        span = self.span.to(self.query.device).repeat_interleave(batch // rows, 0)
        span = torch.nn.functional.pad(span, (0, n - width)) & self.visibility.real.expand(batch, -1)
        return torch.nn.functional.pad(span, (offset, k - n - offset))

    def chunks(self, rows: Tensor, heads: Tensor) -> Iterator[tuple[slice, RowHeadPairs]]:
        """Gather the pairs (`rows[i]`, `heads[i]`), so many at a time that a few queries of each fill a block of scores.

        Args:
            rows, heads: int64 `[row_heads]`, distinct pairs in ascending order.

        Returns:
            Of each chunk: its place in `rows` and `heads`, and its pairs.
        """
        k, dim = self.key.shape[-2:]
        elements = self.limits.elements(self.query.device)
        queries = min(self.query.shape[-2], self.limits.rows_of_block)
        size = max(1, min(elements // (queries * k), 4 * elements // (k * dim)))
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            yield chunk, self._gather(rows[chunk], heads[chunk])

    def write(self, row_heads: RowHeadPairs, calibrated: Tensor) -> None:
        """Replace the outputs of a chunk, `[row_heads, n, head_dim]`, but not those of padding."""
        if not self.visibility.all_real:
            calibrated = torch.where(row_heads.real[..., None], calibrated, row_heads.output)
        output = self.output.transpose(1, 2)
        if len(row_heads.rows) == output.shape[0] * output.shape[1]:
            output.copy_(calibrated.view_as(output))
        else:
            output[row_heads.rows, row_heads.heads] = calibrated.to(output.dtype)

    def write_heads(self, heads: Tensor | None, attended: Tensor, chosen: Tensor | None, rows: slice = slice(None)) -> None:
        """Replace the outputs of some heads, or of all, in some rows of the batch.

        Args:
            heads: int64 `[some heads]`, or None for all.
            attended: `[rows, some heads, n, head_dim]`.
            chosen: bool `[rows, some heads]`, the heads of each row to replace, or None for all.
            rows: of the batch.
        """
        output, attended = self.output[rows], attended.transpose(1, 2).to(self.output.dtype)
        if chosen is not None:
            before = output if heads is None else output.index_select(2, heads)
            attended = torch.where(chosen[:, None, :, None], attended, before)
        if heads is None:
            output.copy_(attended)
        else:
            output.index_copy_(2, heads, attended)

    def _gather(self, rows: Tensor, heads: Tensor) -> RowHeadPairs:
        group = self.query.shape[1] // self.key.shape[1]
        visibility = self.visibility
        return RowHeadPairs(
            query=at_least_float32(_take(self.query, rows, heads)) * self.scaling,
            key=at_least_float32(_take_key_heads(self.key, rows, heads, group)),
            output=at_least_float32(_take(self.output.transpose(1, 2), rows, heads)),
            value=self.value,
            rows=rows,
            heads=heads,
            group=group,
            visibility=visibility,
            mask_rows=visibility.places_of_rows(rows),
            mask_heads=visibility.places_of_heads(heads),
            softcap=self.softcap,
            learned_sinks=None if self.learned_sinks is None else at_least_float32(self.learned_sinks[heads]),
            largest_safe_factor=self.limits.largest_safe_factor(self.query.dtype),
            limits=self.limits,
        )


def _take(tensor: Tensor, rows: Tensor, heads: Tensor) -> Tensor:
    """Select `tensor[rows, heads]`, `[row_heads, ...]`, without a copy where that is all of the tensor.

    Args:
        tensor: `[batch, heads, ...]`, with as many heads as there are query heads.
        rows, heads: int64 `[row_heads]`, distinct pairs in ascending order.
    """
    if len(rows) == tensor.shape[0] * tensor.shape[1]:
        return tensor.flatten(0, 1)
    return _select(tensor, rows, heads)


def _take_key_heads(tensor: Tensor, rows: Tensor, heads: Tensor, group: int) -> Tensor:
    """Select `tensor[rows, heads // group]`, as `_take`, from a tensor with one head for each `group` query heads."""
    return _take(tensor, rows, heads) if group == 1 else _select(tensor, rows, heads // group)


def _select(tensor: Tensor, rows: Tensor, heads: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor.flatten(0, 1).index_select(0, rows * tensor.shape[1] + heads)
    return tensor[rows, heads]
