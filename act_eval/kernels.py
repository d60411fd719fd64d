"""Calibrated attention outputs without the n x n map: what the attention function computes, on tensors.

The unit of work is a *pair*: one row of the batch and one head that is calibrated in it. A pair's map is never held for a
whole sequence. In prefill, one pass over the scores in row blocks gives each query's log-sum-exp and each key's mean
attention; the sinks are read off the means, and the output follows from the base backend's own output O in O(n * sinks):

    O' = c * (O - sum_s A[:, s] v_s) + beta * sum_s A[:, s] v_s,    c = 1 + (1 - beta) * m / (1 - m)

with m the row's mass on its sinks. Rows with most of their mass on sinks are computed over the other keys instead, since
the difference would lose its digits. Arithmetic is in float32 (float64 in a float64 model).

In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from act_eval.calibration import CalibrationSettings, at_least_float32, find_sinks

_BLOCK_ELEMENTS = 2**22
_SAFE_SINK_MASS = {torch.float32: 0.9, torch.float64: 0.9}
_SAFE_SINK_MASS_HALF = 0.5


@dataclass(frozen=True)
class Visibility:
    """Which keys the queries of one forward pass see.

    Attributes:
        mask: bool `[batch, 1 or heads, n, k]`, or None for "every key up to the query's own".
        additive: float mask of the same shape that is added to the scores, or None.
        first: key index of the first query; query `i` stands at key `first + i`.
        causal: no query sees a key after itself.
        real: bool `[batch or 1, n]`, False for queries that are padding.
        seen_by: int64 `[batch or 1, 1 or heads, k]`, how many real queries see each key.
    """

    mask: Tensor | None
    additive: Tensor | None
    first: int
    causal: bool
    real: Tensor
    seen_by: Tensor

    @classmethod
    def of(cls, attention_mask: Tensor | None, query: Tensor, key: Tensor, first: int, window: int | None) -> Visibility:
        """Read off the mask that the base backend gets.

        Args:
            attention_mask: as `act_attention` gets it.
            query, key: as `act_attention` gets them.
            first: key index of the first query.
            window: sliding window length for backends whose mask does not hold it, or None.
        """
        n, k = query.shape[-2], key.shape[-2]
        own = torch.arange(first, first + n, device=query.device)
        keys = torch.arange(k, device=query.device)
        if attention_mask is None or attention_mask.ndim == 2:
            visible = keys <= own[:, None]
            if window is not None:
                visible &= keys > own[:, None] - window
            if attention_mask is None:
                real = torch.ones(1, n, dtype=torch.bool, device=query.device)
                mask = None if window is None else visible[None, None]
                return cls(mask, None, first, True, real, visible.sum(-2)[None, None])
            attention_mask = (visible & attention_mask[:, None, :].bool())[:, None]
        attention_mask = attention_mask[..., :k]
        if attention_mask.dtype == torch.bool:
            mask, additive = attention_mask, None
        else:
            mask, additive = attention_mask > torch.finfo(attention_mask.dtype).min / 2, attention_mask
        batch = query.shape[0]
        mask = mask.expand(batch, -1, -1, -1)
        additive = None if additive is None else additive.expand(batch, -1, -1, -1)
        real = mask[:, :, torch.arange(n, device=query.device), own].any(1)
        causal = not bool((mask & (keys > own[:, None])).any())
        seen_by = (mask & real[:, None, :, None]).sum(-2)
        return cls(mask, additive, first, causal, real, seen_by)


@dataclass(frozen=True)
class Pairs:
    """Queries, keys and values of the calibrated pairs, and what each query sees; pairs are the first dimension.

    Attributes:
        query: `[pairs, n, head_dim]`, already scaled.
        key, value: `[pairs, k, head_dim]`.
        real: bool `[pairs, n]`, False for queries that are padding.
        seen_by: `[pairs, k]`, how many real queries see each key.
        safe_sink_mass: up to this mass on its sinks, a row may be computed from the base output.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    real: Tensor
    seen_by: Tensor
    softcap: float | None
    visibility: Visibility
    rows: Tensor
    mask_heads: Tensor
    safe_sink_mass: float

    @classmethod
    def gather(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Tensor,
        heads: Tensor,
        visibility: Visibility,
        scaling: float | None,
        softcap: float | None,
    ) -> Pairs:
        key_heads = heads // (query.shape[1] // key.shape[1])
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        shared_rows = rows if visibility.real.shape[0] > 1 else torch.zeros_like(rows)
        mask_heads = heads if visibility.seen_by.shape[1] > 1 else torch.zeros_like(heads)
        return cls(
            query=at_least_float32(query[rows, heads]) * scaling,
            key=at_least_float32(key[rows, key_heads]),
            value=at_least_float32(value[rows, key_heads]),
            real=visibility.real[shared_rows],
            seen_by=visibility.seen_by[shared_rows, mask_heads],
            softcap=softcap,
            visibility=visibility,
            rows=shared_rows,
            mask_heads=mask_heads,
            safe_sink_mass=_SAFE_SINK_MASS.get(query.dtype, _SAFE_SINK_MASS_HALF),
        )

    def blocks(self, elements_per_row: int) -> Iterator[slice]:
        """Row blocks of bounded size: `pairs * rows * elements_per_row` stays below a constant, or one row at a time."""
        size = max(1, _BLOCK_ELEMENTS // max(1, self.query.shape[0] * elements_per_row))
        n = self.query.shape[1]
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def visible(self, block: slice, width: int) -> Tensor:
        """Which of the first `width` keys the queries of a row block see: bool `[pairs or 1, rows, width]`."""
        if self.visibility.mask is None:
            own = torch.arange(block.start, block.stop, device=self.query.device) + self.visibility.first
            return (torch.arange(width, device=own.device) <= own[:, None])[None]
        return self.visibility.mask[self.rows, self.mask_heads, block, :width]

    def scores(self, block: slice) -> Tensor:
        """Scores of a row block over the keys it may see: float32 `[pairs, rows, width]`, -inf where a key is not seen."""
        width = min(self.key.shape[1], self.visibility.first + block.stop) if self.visibility.causal else self.key.shape[1]
        scores = self._cap(self.query[:, block] @ self.key[:, :width].mT)
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[self.rows, self.mask_heads, block, :width]
        return scores.masked_fill(~self.visible(block, width), -torch.inf)

    def scores_of_keys(self, block: slice, index: Tensor, present: Tensor) -> Tensor:
        """Scores of a row block over chosen keys: float32 `[pairs, rows, chosen]`, -inf where not seen or not present.

        Args:
            block: the rows.
            index: int64 `[pairs, chosen]`, key indices.
            present: bool `[pairs, chosen]`, False for places that hold no key.
        """
        chosen = self.key.gather(1, index[..., None].expand(-1, -1, self.key.shape[-1]))
        scores = self._cap(self.query[:, block] @ chosen.mT)
        wide = index[:, None].expand(-1, scores.shape[1], -1)
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[self.rows, self.mask_heads, block].gather(-1, wide)
        if self.visibility.mask is None:
            own = torch.arange(block.start, block.stop, device=index.device) + self.visibility.first
            visible = wide <= own[:, None]
        else:
            visible = self.visibility.mask[self.rows, self.mask_heads, block].gather(-1, wide)
        return scores.masked_fill(~(visible & present[:, None]), -torch.inf)

    def scores_of_query(self, pair: Tensor, position: Tensor) -> Tensor:
        """Scores of single queries over all keys: float32 `[queries, k]`, -inf where a key is not seen.

        Args:
            pair, position: int64 `[queries]`, the pair and the row of each query.
        """
        scores = self._cap((self.key[pair] @ self.query[pair, position][..., None]).squeeze(-1))
        if self.visibility.additive is not None:
            scores = scores + self.visibility.additive[self.rows[pair], self.mask_heads[pair], position]
        if self.visibility.mask is None:
            visible = torch.arange(scores.shape[-1], device=pair.device) <= position[:, None] + self.visibility.first
        else:
            visible = self.visibility.mask[self.rows[pair], self.mask_heads[pair], position]
        return scores.masked_fill(~visible, -torch.inf)

    def _cap(self, scores: Tensor) -> Tensor:
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap


def calibrate_prefill(pairs: Pairs, output: Tensor, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
    """Find the sinks of a prefill and calibrate its outputs.

    Args:
        pairs: the calibrated pairs.
        output: float32 `[pairs, n, head_dim]`, the base backend's output.
        settings: what to do.

    Returns:
        The calibrated output, float32 `[pairs, n, head_dim]`, and the sinks, bool `[pairs, k]`.
    """
    log_normalizer, sinks = _find_prefill_sinks(pairs, settings)
    most = int(sinks.sum(-1).max())
    if most == 0:
        return output, sinks
    index = sinks.to(torch.uint8).topk(most, dim=-1).indices
    present = sinks.gather(-1, index)
    sink_values = pairs.value.gather(1, index[..., None].expand(-1, -1, pairs.value.shape[-1]))
    beta = settings.beta
    calibrated = torch.empty_like(output)
    for block in pairs.blocks(most):
        on_sinks = (pairs.scores_of_keys(block, index, present) - log_normalizer[:, block, None]).exp()
        mass = on_sinks.sum(-1, keepdim=True)
        from_sinks = on_sinks @ sink_values
        rest = (1 - mass).clamp(min=1 - pairs.safe_sink_mass)
        scale = 1 + (1 - beta) * mass / rest
        calibrated[:, block] = scale * (output[:, block] - from_sinks) + beta * from_sinks
        heavy = (mass.squeeze(-1) > pairs.safe_sink_mass) & pairs.real[:, block]
        pair, position = heavy.nonzero(as_tuple=True)
        for chunk in torch.arange(len(pair), device=pair.device).split(max(1, _BLOCK_ELEMENTS // pairs.key[0].numel())):
            row = position[chunk]
            calibrated[pair[chunk], row + block.start] = _calibrate_over_other_keys(
                pairs,
                pair[chunk],
                row + block.start,
                sinks,
                log_normalizer,
                mass[pair[chunk], row],
                from_sinks[pair[chunk], row],
                output[pair[chunk], row + block.start],
                beta,
            )
    return calibrated, sinks


def _find_prefill_sinks(pairs: Pairs, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
    """One pass over a prefill's scores: each query's log-sum-exp, float32 `[pairs, n]`, and the sinks, bool `[pairs, k]`."""
    k = pairs.key.shape[1]
    log_normalizer = torch.empty_like(pairs.query[..., 0])
    received = torch.zeros_like(pairs.key[..., 0])
    for block in pairs.blocks(k):
        scores = pairs.scores(block)
        block_normalizer = scores.logsumexp(-1)
        block_normalizer = torch.where(block_normalizer == -torch.inf, 0, block_normalizer)
        log_normalizer[:, block] = block_normalizer
        weights = (scores - block_normalizer[..., None]).exp() * pairs.real[:, block, None]
        received[:, : scores.shape[-1]] += weights.sum(-2)
    means = received / pairs.seen_by.clamp(min=1)
    real_keys = torch.zeros_like(received, dtype=torch.bool)
    first = pairs.visibility.first
    real_keys[:, first : first + pairs.query.shape[1]] = pairs.real
    return log_normalizer, find_sinks(means, pairs.real.sum(-1), settings, real_keys)


def _calibrate_over_other_keys(
    pairs: Pairs,
    pair: Tensor,
    position: Tensor,
    sinks: Tensor,
    log_normalizer: Tensor,
    mass: Tensor,
    from_sinks: Tensor,
    output: Tensor,
    beta: float,
) -> Tensor:
    """Calibrated outputs of single queries, by attention over the keys that are no sinks: float32 `[queries, head_dim]`.

    Exact however little mass lies outside the sinks. Where it is zero in float32, the output stays as it is.

    Args:
        pair, position: int64 `[queries]`.
        sinks: bool `[pairs, k]`.
        log_normalizer: float32 `[pairs, n]`.
        mass: `[queries, 1]`, the mass on the sinks.
        from_sinks: `[queries, head_dim]`, what the sinks contribute to the output.
        output: `[queries, head_dim]`, the base backend's output.
        beta: share that a sink keeps.
    """
    others = pairs.scores_of_query(pair, position).masked_fill(sinks[pair], -torch.inf)
    others_normalizer = others.logsumexp(-1, keepdim=True)
    rest = (others_normalizer - log_normalizer[pair, position, None]).exp()
    weights = (others - torch.where(rest > 0, others_normalizer, 0)).exp()
    over_others = (weights[:, None] @ pairs.value[pair]).squeeze(1)
    return torch.where(rest > 0, (1 - beta * mass) * over_others + beta * from_sinks, output)


def calibrate_decode(pairs: Pairs, calibrate_rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Outputs of rows on cached keys, by calibrating their weights: float32 `[pairs, n, head_dim]`.

    Args:
        pairs: the calibrated pairs.
        calibrate_rows: from weights `[pairs, rows, k]` and bool visibility to calibrated weights.
    """
    k = pairs.key.shape[1]
    outputs = []
    for block in pairs.blocks(k):
        scores = pairs.scores(block)
        scores = torch.nn.functional.pad(scores, (0, k - scores.shape[-1]), value=-torch.inf)
        weights = torch.where(scores.isneginf().all(-1, keepdim=True), 0, scores.softmax(-1))
        outputs.append(calibrate_rows(weights, pairs.visible(block, k)) @ pairs.value)
    return torch.cat(outputs, dim=1)
