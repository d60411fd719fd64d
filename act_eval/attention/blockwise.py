"""Calibrated attention outputs without the n x n map, in torch.

A head's map is never held for a whole sequence. In prefill, one pass over the scores in blocks of queries gives each query's
log-sum-exp and each key's mean attention, and the sinks are read off the means. A method that decides on few keys S, and scales
all others by one factor c (`SelectiveMethod`), then gives the output from the base backend's own output O in O(n * |S|):

    O' = c * (O - sum_s A[:, s] v_s) + sum_s A'[:, s] v_s

For ACT, S are the sinks, A'[:, s] = beta * A[:, s] and c = 1 + (1 - beta) * m / (1 - m), with m the row's mass on its sinks.
Where c is large, nearly all mass is on S, and the difference would lose its digits: such rows, and all rows of other methods,
are computed from their weights, a block at a time. Arithmetic is in float32 (float64 in a float64 model).

Where a head has a learned sink logit (gpt-oss), a row has the share g < 1 of its attention on its keys. A, its softmax over the
keys alone, then gives the real weights as g * A; methods treat rows alike up to a factor, so that everything above holds for A,
with g as a factor on each sum over keys (`RowHeadPairs.times_share_of_keys`).

In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.

Prefills whose maps are small go another way, `whole_maps`, where rows calibrate the same heads.

`triton_kernels` has `attention_statistics` and `calibrate_prefill` under the same names, with the same arguments and results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from act_eval.attention.calibration import CalibrationSettings, find_sinks
from act_eval.attention.call import AttentionCall
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import RowHeadPairs, SelectedKeys
from act_eval.attention.shared_heads import SharedHeads
from act_eval.methods.base import Method, SelectiveMethod

_COPIES = 4  # of a block of weights, which a method may need at once


def calibrate_prefill(call: AttentionCall, rows: Tensor, heads: Tensor, settings: CalibrationSettings) -> Tensor:
    """Find the sinks of a prefill and write the calibrated outputs over the base backend's.

    Args:
        call: a prefill, with the base backend's output.
        rows, heads: int64 `[row_heads]`, batch row and head of the calibrated pairs, in ascending order.
        settings: when a key is a sink, and what becomes of the rows.

    Returns:
        The sinks, or the tokens of the part of the prompt that the method uses, bool `[row_heads, k]`; False everywhere for
        methods that use neither.
    """
    sinks = torch.zeros(len(rows), call.key.shape[-2], dtype=torch.bool, device=rows.device)
    for chunk, row_heads in call.chunks(rows, heads):
        log_normalizer = None
        if settings.method.uses_sinks:
            means, log_normalizer = _chunk_statistics(row_heads)
            sinks[chunk] = find_prefill_sinks(means, call.visibility, row_heads.rows, row_heads.heads, settings)
        elif settings.method.uses_span:
            sinks[chunk] = call.tokens_of_span()[row_heads.rows]
        calibrated = _calibrated_outputs(row_heads, sinks[chunk], log_normalizer, settings.method)
        if calibrated is not None:
            call.write(row_heads, calibrated)
    return sinks


def attention_statistics(call: AttentionCall, rows: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Walk over the scores of a prefill once.

    Args:
        call: a prefill.
        rows, heads: int64 `[row_heads]`, batch row and head of the pairs to look at, in ascending order.

    Returns:
        Each key's mean attention over the real queries that see it, at least float32 `[row_heads, k]`, and each query's
        log-sum-exp, `[row_heads, n]`.
    """
    n, k = call.query.shape[-2], call.key.shape[-2]
    means, log_normalizer = (torch.empty(len(rows), size, dtype=call.visibility.dtype, device=rows.device) for size in (k, n))
    for chunk, row_heads in call.chunks(rows, heads):
        means[chunk], log_normalizer[chunk] = _chunk_statistics(row_heads)
    return means, log_normalizer


def _chunk_statistics(row_heads: RowHeadPairs) -> tuple[Tensor, Tensor]:
    """As `attention_statistics`, for pairs that are gathered already."""
    log_normalizer = torch.empty_like(row_heads.query[..., 0])
    received = torch.zeros_like(row_heads.key[..., 0])
    counts = torch.ones_like(log_normalizer) if row_heads.visibility.all_real else row_heads.real.to(log_normalizer.dtype)
    for block in row_heads.blocks(row_heads.key.shape[1]):
        weights, log_normalizer[:, block] = _softmax(row_heads.scores(block))
        counted = row_heads.times_share_of_keys(counts[:, block, None], slice(None), log_normalizer[:, block])
        received[:, : weights.shape[-1]] += (counted.mT @ weights).squeeze(1)
    return received / row_heads.seen_by.clamp(min=1), log_normalizer


def find_prefill_sinks(
    means: Tensor, visibility: Visibility, rows: Tensor, heads: Tensor, settings: CalibrationSettings
) -> Tensor:
    """Read the sinks of a prefill off its keys' mean attention.

    Args:
        means: `[row_heads, k]`, as `attention_statistics` gives them, of any module.
        visibility: of the call that they come from.
        rows, heads: int64 `[row_heads]`, the batch row and the head of each.
        settings: when a key is a sink.

    Returns:
        bool `[row_heads, k]`, False for padding.
    """
    n, offset = visibility.real.shape[-1], visibility.query_offset
    seen_by = None
    if settings.min_queries > 1:
        seen_by = visibility.seen_by[visibility.places_of_rows(rows), visibility.places_of_heads(heads)]
    if visibility.all_real and n == visibility.keys:
        return find_sinks(means, n, settings, seen_by=seen_by)
    real = visibility.real[visibility.places_of_rows(rows)]
    real_keys = torch.zeros_like(means, dtype=torch.bool)
    real_keys[:, offset : offset + n] = real
    return find_sinks(means, real.sum(-1), settings, real_keys, seen_by)


def _calibrated_outputs(row_heads: RowHeadPairs, sinks: Tensor, log_normalizer: Tensor | None, method: Method) -> Tensor | None:
    """Compute the outputs of a chunk, `[row_heads, n, head_dim]`, or None where nothing changes.

    Args:
        row_heads: the chunk.
        sinks: bool `[row_heads, k]`.
        log_normalizer: `[row_heads, n]`, each query's log-sum-exp, or None where the sinks were found without it.
        method: what becomes of the rows.
    """
    if not isinstance(method, SelectiveMethod):
        return _from_weights(row_heads, sinks, method)
    selected = SelectedKeys.from_masks(method.selected(sinks, row_heads.first_token), row_heads.first_token)
    if selected is None:
        return None
    if log_normalizer is None:
        _, log_normalizer = _chunk_statistics(row_heads)
    return _from_base_output(row_heads, sinks, selected, log_normalizer, method)


def _from_weights(row_heads: RowHeadPairs, sinks: Tensor, method: Method) -> Tensor:
    """Compute outputs from all weights, a block of queries at a time; arguments and result as `_calibrated_outputs`."""
    values = row_heads.all_values()
    calibrated = torch.empty_like(row_heads.output)
    for block in row_heads.blocks(_COPIES * row_heads.key.shape[1]):
        weights, log_normalizer = _softmax(row_heads.scores(block))
        width = weights.shape[-1]
        rewritten = method.rewrite(weights, sinks[:, None, :width], row_heads.first_token[:, None, :width])
        calibrated[:, block] = row_heads.times_share_of_keys(rewritten @ values[:, :width], slice(None), log_normalizer)
    return calibrated


def _from_base_output(
    row_heads: RowHeadPairs, sinks: Tensor, selected: SelectedKeys, log_normalizer: Tensor, method: SelectiveMethod
) -> Tensor:
    """Compute outputs by the formula of this module, and from all weights where it would lose digits.

    Args:
        row_heads: the chunk.
        sinks: bool `[row_heads, k]`.
        selected: the keys that the method decides on.
        log_normalizer: `[row_heads, n]`, each query's log-sum-exp.
        method: what becomes of the rows.

    Returns:
        `[row_heads, n, head_dim]`.
    """
    index, present, first_token_mask = selected.index, selected.present, selected.first_token_mask[:, None]
    values = row_heads.values_of_keys(index)
    least = torch.finfo(row_heads.output.dtype).eps
    calibrated = torch.empty_like(row_heads.output)
    for block in row_heads.blocks(index.shape[-1]):
        weights = (row_heads.scores_of_keys(block, index, present) - log_normalizer[:, block, None]).exp()
        other_mass = (1 - weights.sum(-1, keepdim=True)).clamp(min=least)
        rewritten, factor = method.rewrite_selected(weights, first_token_mask, other_mass)
        change = (rewritten - factor * weights) @ values
        change = row_heads.times_share_of_keys(change, slice(None), log_normalizer[:, block])
        calibrated[:, block] = torch.addcmul(change, factor, row_heads.output[:, block])
        for row_head, query, loses_precision in row_heads.rows_losing_precision(factor, block):
            position = query + block.start
            rows = _rows_from_weights(row_heads, row_head, position, sinks, log_normalizer, method)
            place = row_head[:, None].expand_as(query)[loses_precision], position[loses_precision]
            calibrated[place] = rows[loses_precision]
    return calibrated


def _rows_from_weights(
    row_heads: RowHeadPairs, row_head: Tensor, position: Tensor, sinks: Tensor, log_normalizer: Tensor, method: Method
) -> Tensor:
    """Compute the outputs of chosen queries from all their weights: `[chosen, queries, head_dim]`.

    Args:
        row_heads: the chunk.
        row_head: int64 `[chosen]`, pairs by their index in the chunk.
        position: int64 `[chosen, queries]`, indices of queries of each of these pairs.
        sinks: bool `[row_heads, k]`, of the whole chunk.
        log_normalizer: `[row_heads, n]`, of the whole chunk.
        method: what becomes of the rows.
    """
    weights = row_heads.scores_of_queries(row_head, position).softmax(-1)
    rewritten = method.rewrite(weights, sinks[row_head, None], row_heads.first_token[row_head, None])
    outputs = rewritten @ row_heads.all_values(row_head)
    return row_heads.times_share_of_keys(outputs, row_head, log_normalizer[row_head[:, None], position])


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax over the last dimension and its log-sum-exp, several times faster than `logsumexp` on a CPU."""
    weights = scores.softmax(-1)
    return weights, scores.amax(-1) - weights.amax(-1).log()


def attend_on_cache(call: AttentionCall, heads: Tensor | None, calibrate_rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute the outputs of decode rows from attention weights that are calibrated before they meet the values.

    Args:
        call: queries on cached keys; its output is not needed.
        heads: int64 `[chosen]`, or None for all heads.
        calibrate_rows: from attention weights, at least float32 `[batch, chosen, rows, k]`, and which keys each row does not
            see, bool `[batch or 1, 1 or chosen, rows, k]`, to new weights.

    Returns:
        At least float32 `[batch, chosen, n, head_dim]`.
    """
    shared, outputs = SharedHeads.of_call(call, heads), list[Tensor]()
    batch, num_heads, n, _ = shared.query.shape
    for block in call.limits.row_blocks(n, batch * num_heads * shared.key.shape[-2], shared.key.device):
        outputs.append(shared.sum_values(calibrate_rows(shared.weights(block), shared.hidden[:, :, block])))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
