"""Calibrated attention outputs without the n x n map.

A pair's map is never held for a whole sequence. In prefill, one pass over the scores in row blocks gives each query's
log-sum-exp and each key's mean attention, and the sinks are read off the means. A method that decides on few keys S, and scales
all others by one factor c (`SelectiveMethod`), then gives the output from the base backend's own output O in O(n * S):

    O' = c * (O - sum_s A[:, s] v_s) + sum_s A'[:, s] v_s

For ACT, S are the sinks, A'[:, s] = beta * A[:, s] and c = 1 + (1 - beta) * m / (1 - m), with m the row's mass on its sinks.
Where c is large, nearly all mass is on S, and the difference would lose its digits: such rows, and all rows of other methods,
are computed from their weights, a block at a time. Arithmetic is in float32 (float64 in a float64 model).

Where a head has a learned sink logit (gpt-oss), a row has the share g < 1 of its attention on its keys. A, its softmax over the
keys alone, then gives the real weights as g * A; methods treat rows alike up to a factor, so that everything above holds for A,
with g as a factor on each sum over keys (`Pairs.times_share_of_keys`).

In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from act_eval.attention.calibration import CalibrationSettings, at_least_float32, find_sinks
from act_eval.attention.pairs import AttentionCall, Pairs, cap, row_blocks
from act_eval.methods.base import Method, SelectiveMethod

_COPIES = 4  # of a block of weights, which a method may need at once


@dataclass(frozen=True)
class SelectedKeys:
    """Some keys of some pairs, by key index.

    Attributes:
        index: int64 `[pairs, most]`.
        present: bool `[pairs, most]`, False for places that hold no key, since pairs have different numbers of them.
        first: bool `[pairs, most]`, True for the first token.
    """

    index: Tensor
    present: Tensor
    first: Tensor

    @classmethod
    def of(cls, selected: Tensor, first: Tensor) -> SelectedKeys | None:
        """From masks, bool `[pairs, k]`: the keys, and the first token; None if no pair has a key."""
        most = int(selected.sum(-1).max()) if selected.numel() else 0
        if most == 0:
            return None
        present, index = selected.to(torch.uint8).topk(most, dim=-1)
        return cls(index, present.bool(), first.gather(-1, index))


def find_prefill_sinks(pairs: Pairs, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
    """The sinks of a prefill, from one pass over its scores.

    Returns:
        The sinks, bool `[pairs, k]`, and each query's log-sum-exp, at least float32 `[pairs, n]`.
    """
    means, log_normalizer = attention_statistics(pairs)
    n, first = pairs.query.shape[1], pairs.visibility.first
    if pairs.visibility.all_real and n == means.shape[-1]:
        return find_sinks(means, n, settings), log_normalizer
    return sinks_of_means(means, pairs.real, first, settings), log_normalizer


def sinks_of_means(means: Tensor, real: Tensor, first: int, settings: CalibrationSettings) -> Tensor:
    """The sinks of a prefill with padding: bool `[pairs, k]`.

    Args:
        means: `[pairs, k]`, each key's mean attention.
        real: bool `[pairs, n]`, False for queries that are padding.
        first: key index of the first query.
        settings: what to do.
    """
    real_keys = torch.zeros_like(means, dtype=torch.bool)
    real_keys[:, first : first + real.shape[-1]] = real
    return find_sinks(means, real.sum(-1), settings, real_keys)


def attention_statistics(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """One pass over a prefill's scores.

    Returns:
        Each key's mean attention over the real queries that see it, at least float32 `[pairs, k]`, and each query's
        log-sum-exp, `[pairs, n]`.
    """
    log_normalizer = torch.empty_like(pairs.query[..., 0])
    received = torch.zeros_like(pairs.key[..., 0])
    counts = torch.ones_like(log_normalizer) if pairs.visibility.all_real else pairs.real.to(log_normalizer.dtype)
    for block in pairs.blocks(pairs.key.shape[1]):
        weights, log_normalizer[:, block] = _softmax(pairs.scores(block))
        counted = pairs.times_share_of_keys(counts[:, block, None], slice(None), log_normalizer[:, block])
        received[:, : weights.shape[-1]] += (counted.mT @ weights).squeeze(1)
    seen_by = pairs.visibility.seen_by[pairs.mask_rows, pairs.mask_heads]
    return received / seen_by.clamp(min=1), log_normalizer


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax over the last dimension and its log-sum-exp, several times faster than `logsumexp` on a CPU."""
    weights = scores.softmax(-1)
    return weights, scores.amax(-1) - weights.amax(-1).log()


def calibrate_prefill(pairs: Pairs, settings: CalibrationSettings) -> tuple[Tensor, Tensor | None]:
    """Find the sinks of a prefill and calibrate it.

    Args:
        pairs: some calibrated pairs, with the base backend's output.
        settings: what to do.

    Returns:
        The sinks, bool `[pairs, k]`, False everywhere for methods that do not use them; and the calibrated outputs, `[pairs, n,
        head_dim]`, or None where there is nothing to calibrate.
    """
    method, first = settings.method, pairs.first_token
    sinks, log_normalizer = torch.zeros_like(first), None
    if method.uses_sinks:
        sinks, log_normalizer = find_prefill_sinks(pairs, settings)
    if not isinstance(method, SelectiveMethod):
        return sinks, _from_weights(pairs, sinks, method)
    selected = SelectedKeys.of(method.selected(sinks, first), first)
    if selected is None:
        return sinks, None
    if log_normalizer is None:
        _, log_normalizer = attention_statistics(pairs)
    return sinks, _from_base_output(pairs, sinks, selected, log_normalizer, method)


def _from_weights(pairs: Pairs, sinks: Tensor, method: Method) -> Tensor:
    """Outputs from all weights, a block of rows at a time: `[pairs, n, head_dim]`. Takes bool `[pairs, k]`, the sinks."""
    values = pairs.values_of_pairs(torch.arange(len(pairs.rows), device=pairs.rows.device))
    calibrated = torch.empty_like(pairs.output)
    for block in pairs.blocks(_COPIES * pairs.key.shape[1]):
        weights, log_normalizer = _softmax(pairs.scores(block))
        width = weights.shape[-1]
        rewritten = method.rewrite(weights, sinks[:, None, :width], pairs.first_token[:, None, :width])
        calibrated[:, block] = pairs.times_share_of_keys(rewritten @ values[:, :width], slice(None), log_normalizer)
    return calibrated


def _from_base_output(
    pairs: Pairs, sinks: Tensor, selected: SelectedKeys, log_normalizer: Tensor, method: SelectiveMethod
) -> Tensor:
    """Outputs by the formula of this module, and from all weights where it would lose digits: `[pairs, n, head_dim]`.

    Args:
        pairs: some calibrated pairs.
        sinks: bool `[pairs, k]`.
        selected: the keys that the method decides on.
        log_normalizer: `[pairs, n]`, each query's log-sum-exp.
        method: what becomes of the rows.
    """
    index, present, is_first = selected.index, selected.present, selected.first[:, None]
    values = pairs.values_of_keys(index)
    least = torch.finfo(pairs.output.dtype).eps
    calibrated = torch.empty_like(pairs.output)
    for block in pairs.blocks(index.shape[-1]):
        weights = (pairs.scores_of_keys(block, index, present) - log_normalizer[:, block, None]).exp()
        rest = (1 - weights.sum(-1, keepdim=True)).clamp(min=least)
        rewritten, factor = method.rewrite_selected(weights, is_first, rest)
        change = (rewritten - factor * weights) @ values
        change = pairs.times_share_of_keys(change, slice(None), log_normalizer[:, block])
        calibrated[:, block] = torch.addcmul(change, factor, pairs.output[:, block])
        for pair, row, is_heavy in pairs.heavy(factor, block):
            position = row + block.start
            rows = _rows_from_weights(pairs, pair, position, sinks, log_normalizer, method)
            calibrated[pair[:, None].expand_as(row)[is_heavy], position[is_heavy]] = rows[is_heavy]
    return calibrated


def _rows_from_weights(
    pairs: Pairs, pair: Tensor, position: Tensor, sinks: Tensor, log_normalizer: Tensor, method: Method
) -> Tensor:
    """Outputs of chosen queries from all their weights: `[chosen, rows, head_dim]`.

    Args:
        pair: int64 `[chosen]`.
        position: int64 `[chosen, rows]`, queries of each of these pairs.
        sinks: bool, of all pairs `[pairs, k]`.
        log_normalizer: `[pairs, n]`.
        method: what becomes of the rows.
    """
    weights = pairs.scores_of_queries(pair, position).softmax(-1)
    rewritten = method.rewrite(weights, sinks[pair, None], pairs.first_token[pair, None])
    return pairs.times_share_of_keys(rewritten @ pairs.values_of_pairs(pair), pair, log_normalizer[pair[:, None], position])


def attend_on_cache(call: AttentionCall, heads: Tensor | None, calibrate_rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Outputs of rows on cached keys, from attention weights that are calibrated before they meet the values.

    Args:
        call: rows of a decode step; its output is not needed.
        heads: int64 `[chosen]`, or None for all heads.
        calibrate_rows: from attention weights, at least float32 `[batch, chosen, rows, k]`, and which keys each row does not
            see, bool `[batch or 1, 1 or chosen, rows, k]`, to new weights.

    Returns:
        At least float32 `[batch, chosen, n, head_dim]`.
    """
    query, key, value = call.query, call.key, call.value
    hidden, bias, learned_sinks = call.visibility.hidden_keys, call.visibility.bias, call.learned_sinks
    if heads is not None:
        key_heads = heads // (query.shape[1] // key.shape[1])
        query, key, value = (
            tensor.index_select(1, some) for tensor, some in ((query, heads), (key, key_heads), (value, key_heads))
        )
        if bias.shape[1] > 1:
            hidden, bias = hidden.index_select(1, heads), bias.index_select(1, heads)
        learned_sinks = None if learned_sinks is None else learned_sinks.index_select(0, heads)
    query, key, value = at_least_float32(query) * call.scaling, at_least_float32(key), at_least_float32(value)
    outputs = []
    for block in row_blocks(query.shape[-2], query.shape[0] * query.shape[1] * key.shape[-2], query.device):
        scores = cap(_grouped_matmul(query[:, :, block], key.mT), call.softcap)
        weights = _softmax_with_learned_sinks(scores + bias[:, :, block], learned_sinks)
        outputs.append(_grouped_matmul(calibrate_rows(weights, hidden[:, :, block]), value))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _softmax_with_learned_sinks(scores: Tensor, learned_sinks: Tensor | None) -> Tensor:
    """Attention weights for scores `[batch, chosen, rows, k]`; with learned sinks, `[chosen]`, rows sum to less than 1."""
    if learned_sinks is None:
        return scores.softmax(-1)
    column = learned_sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


def _grouped_matmul(rows: Tensor, table: Tensor) -> Tensor:
    """`[batch, heads, n, a]` times `[batch, key/value heads, a, b]`, without a copy of the latter for each query head."""
    batch, heads, n, _ = rows.shape
    return (rows.reshape(batch, table.shape[1], -1, rows.shape[-1]) @ table).view(batch, heads, n, -1)
