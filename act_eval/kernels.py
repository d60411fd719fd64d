"""Calibrated attention outputs without the n x n map.

A pair's map is never held for a whole sequence. In prefill, one pass over the scores in row blocks gives each query's
log-sum-exp and each key's mean attention; the sinks are read off the means, and the output follows from the base backend's own
output O in O(n * sinks):

    O' = c * (O - sum_s A[:, s] v_s) + beta * sum_s A[:, s] v_s,    c = 1 + (1 - beta) * m / (1 - m)

with m the row's mass on its sinks. Rows with most of their mass on sinks are computed over the other keys instead, since
the difference would lose its digits. Arithmetic is in float32 (float64 in a float64 model).

Where a head has a learned sink logit (gpt-oss), a row has the share g < 1 of its attention on its keys. A, its softmax over the
keys alone, then gives the real weights as g * A; calibration scales with them, so that everything above holds with m taken from
A, and g as a factor on each sum over keys (`Pairs.times_share_of_keys`).

In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from act_eval.calibration import CalibrationSettings, at_least_float32, find_sinks
from act_eval.pairs import AttentionCall, Pairs, cap, row_blocks


@dataclass(frozen=True)
class SinkKeys:
    """The sinks of some pairs, by key index.

    Attributes:
        index: int64 `[pairs, most]`.
        present: bool `[pairs, most]`, False for places that hold no sink, since pairs have different numbers of them.
    """

    index: Tensor
    present: Tensor

    @classmethod
    def of(cls, sinks: Tensor) -> SinkKeys | None:
        """From a mask, bool `[pairs, k]`; None if no pair has a sink."""
        most = int(sinks.sum(-1).max()) if sinks.numel() else 0
        if most == 0:
            return None
        present, index = sinks.to(torch.uint8).topk(most, dim=-1)
        return cls(index, present.bool())


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


def calibrate_prefill(pairs: Pairs, sinks: SinkKeys, log_normalizer: Tensor, beta: float) -> Tensor:
    """Calibrated outputs of a prefill, from the base backend's.

    Args:
        pairs: some calibrated pairs.
        sinks: of these pairs.
        log_normalizer: `[pairs, n]`, each query's log-sum-exp.
        beta: share that a sink keeps.

    Returns:
        `[pairs, n, head_dim]`.
    """
    index, present = sinks.index, sinks.present
    sink_values = pairs.values_of_keys(index)
    calibrated = torch.empty_like(pairs.output)
    for block in pairs.blocks(index.shape[-1]):
        on_sinks = (pairs.scores_of_keys(block, index, present) - log_normalizer[:, block, None]).exp()
        mass = on_sinks.sum(-1, keepdim=True)
        from_sinks = pairs.times_share_of_keys(on_sinks @ sink_values, slice(None), log_normalizer[:, block])
        calibrated[:, block] = _combine(pairs.output[:, block], mass, from_sinks, beta, pairs.safe_sink_mass)
        for pair, row, is_heavy in pairs.heavy(mass, block):
            position = row + block.start
            shares = mass[pair[:, None], row], from_sinks[pair[:, None], row], pairs.output[pair[:, None], position]
            rows = _calibrate_over_other_keys(pairs, pair, position, sinks, log_normalizer, *shares, beta)
            calibrated[pair[:, None].expand_as(row)[is_heavy], position[is_heavy]] = rows[is_heavy]
    return calibrated


def _combine(output: Tensor, mass: Tensor, from_sinks: Tensor, beta: float, safe_sink_mass: float) -> Tensor:
    """The formula of this module, for rows with at most `safe_sink_mass` on their sinks (the result is finite for all)."""
    scale = 1 + (1 - beta) * mass / (1 - mass).clamp(min=1 - safe_sink_mass)
    return torch.addcmul(scale * output, beta - scale, from_sinks)


def _calibrate_over_other_keys(
    pairs: Pairs,
    pair: Tensor,
    position: Tensor,
    sinks: SinkKeys,
    log_normalizer: Tensor,
    mass: Tensor,
    from_sinks: Tensor,
    output: Tensor,
    beta: float,
) -> Tensor:
    """Calibrated outputs of chosen queries, by attention over the keys that are no sinks: `[chosen, rows, head_dim]`.

    Exact however little mass lies outside the sinks. Where it is zero in float32, the output stays as it is.

    Args:
        pair: int64 `[chosen]`.
        position: int64 `[chosen, rows]`, queries of each of these pairs.
        sinks: of all pairs.
        log_normalizer: `[pairs, n]`.
        mass: `[chosen, rows, 1]`, the mass on the sinks, as a share of the mass on keys.
        from_sinks: `[chosen, rows, head_dim]`, what the sinks contribute to the output.
        output: `[chosen, rows, head_dim]`, the base backend's output.
        beta: share that a sink keeps.
    """
    others = pairs.scores_of_queries(pair, position)
    index = sinks.index[pair][:, None].expand(-1, position.shape[1], -1)
    is_sink = sinks.present[pair][:, None]
    others.scatter_(-1, index, others.gather(-1, index).masked_fill(is_sink, -torch.inf))
    weights, others_normalizer = _softmax(others)
    normalizer = log_normalizer[pair[:, None], position]
    rest = (others_normalizer - normalizer).exp()[..., None]
    over_others = pairs.times_share_of_keys(weights @ pairs.values_of_pairs(pair), pair, normalizer)
    return torch.where(rest > 0, (1 - beta * mass) * over_others + beta * from_sinks, output)


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
