"""Calibrated attention outputs without the n x n map: what the attention function computes, on tensors.

The unit of work is a *pair*: one row of the batch and one head that is calibrated in it. A pair's map is never held for a
whole sequence. In prefill, one pass over the scores in row blocks gives each query's log-sum-exp and each key's mean
attention; the sinks are read off the means, and the output follows from the base backend's own output O in O(n * sinks):

    O' = c * (O - sum_s A[:, s] v_s) + beta * sum_s A[:, s] v_s,    c = 1 + (1 - beta) * m / (1 - m)

with m the row's mass on its sinks. Rows with most of their mass on sinks are computed over the other keys instead, since
the difference would lose its digits. Arithmetic is in float32 (float64 in a float64 model).

Pairs are worked on in chunks, and a chunk in blocks of its rows, small enough to stay in a CPU's caches; extra memory is that
of a chunk, linear in n. In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from act_eval.calibration import (
    CalibrationSettings,
    at_least_float32,
    calibrate_decode_rows,
    find_sinks,
    redistribute,
)

_BLOCK_ELEMENTS = {"cpu": 2**20}
_BLOCK_ELEMENTS_ELSEWHERE = 2**26
_BLOCK_ROWS = 64
_SAFE_SINK_MASS = {torch.float32: 0.9, torch.float64: 0.9}
_SAFE_SINK_MASS_HALF = 0.5


@dataclass(frozen=True)
class Visibility:
    """Which keys the queries of one forward pass see.

    Attributes:
        hidden: bool `[batch, 1 or heads, n, k]`, True for keys that a query does not see, or None for "every key up to the
            query's own that is not padding".
        padding: bool `[batch, k]`, True for keys that are padding, where `hidden` is None; None if there are none.
        additive: float mask of the same shape that is added to the scores, or None.
        first: key index of the first query; query `i` stands at key `first + i`.
        keys: number of keys.
        causal: no query sees a key after itself.
        real: bool `[batch or 1, n]`, False for queries that are padding.
        all_real: whether no query is padding.
    """

    hidden: Tensor | None
    padding: Tensor | None
    additive: Tensor | None
    first: int
    keys: int
    causal: bool
    real: Tensor
    all_real: bool

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
            if attention_mask is None and (window is None or window >= k):
                real = torch.ones(1, n, dtype=torch.bool, device=query.device)
                return cls(None, None, None, first, k, True, real, True)
            visible = keys <= own[:, None]
            if window is not None:
                visible &= keys > own[:, None] - window
            if attention_mask is None:
                real = torch.ones(1, n, dtype=torch.bool, device=query.device)
                return cls(~visible[None, None], None, None, first, k, True, real, True)
            attention_mask = (visible & attention_mask[:, None, :].bool())[:, None]
        attention_mask = attention_mask[..., :k]
        if attention_mask.dtype == torch.bool:
            hidden, additive = ~attention_mask, None
        else:
            hidden, additive = attention_mask <= torch.finfo(attention_mask.dtype).min / 2, attention_mask
        hidden = hidden.expand(query.shape[0], -1, -1, -1)
        additive = None if additive is None else additive.expand(query.shape[0], -1, -1, -1)
        real = ~hidden[:, :, torch.arange(n, device=query.device), own].all(1)
        later = keys > own[:, None]
        causal = bool((hidden | ~later).all())
        padding = hidden[:, 0, -1]
        if additive is None and causal and bool(((hidden == (later | padding[:, None, None])) | ~real[:, None, :, None]).all()):
            return cls(None, padding, None, first, k, True, real, bool(real.all()))
        return cls(hidden, None, additive, first, k, causal, real, bool(real.all()))

    @cached_property
    def seen_by(self) -> Tensor:
        """How many real queries see each key: int64 `[batch or 1, 1 or heads, k]`."""
        if self.hidden is not None:
            return (~self.hidden & self.real[:, None, :, None]).sum(-2)
        # Of the real queries, those from the key's own on.
        earlier = self.real.cumsum(-1) - self.real.long()
        seen_by = self.real.sum(-1, keepdim=True).expand(-1, self.keys).clone()
        seen_by[:, self.first : self.first + self.real.shape[-1]] -= earlier
        if self.padding is not None:
            seen_by.masked_fill_(self.padding, 0)
        return seen_by[:, None]


@dataclass(frozen=True)
class Pairs:
    """Some calibrated pairs and what each of their queries sees; pairs are the first dimension.

    Attributes:
        query: `[pairs, n, head_dim]`, already scaled, at least float32.
        key: `[pairs, k, head_dim]`, at least float32.
        value: all values, `[batch, key/value heads, k, head_dim]`: few of them are needed.
        rows, key_heads: int64 `[pairs]`, where each pair's values are.
        visibility: of the forward pass.
        mask_rows, mask_heads: int64 `[pairs]`, where each pair's entries of `visibility` are.
        softcap: soft cap of the scores, or None.
        safe_sink_mass: up to this mass on its sinks, a row may be computed from the base output.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    rows: Tensor
    key_heads: Tensor
    visibility: Visibility
    mask_rows: Tensor
    mask_heads: Tensor
    softcap: float | None
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
        """Take the pairs (`rows[i]`, `heads[i]`) out of what an attention function gets. See `act_attention`."""
        group = query.shape[1] // key.shape[1]
        key_heads = heads if group == 1 else heads // group
        key = take_pairs(key, rows, heads) if group == 1 else key[rows, key_heads]
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        many_heads = visibility.hidden is not None and visibility.hidden.shape[1] > 1
        return cls(
            query=at_least_float32(take_pairs(query, rows, heads)) * scaling,
            key=at_least_float32(key),
            value=value,
            rows=rows,
            key_heads=key_heads,
            visibility=visibility,
            mask_rows=rows if visibility.real.shape[0] > 1 else torch.zeros_like(rows),
            mask_heads=heads if many_heads else torch.zeros_like(heads),
            softcap=softcap,
            safe_sink_mass=_SAFE_SINK_MASS.get(query.dtype, _SAFE_SINK_MASS_HALF),
        )

    @cached_property
    def real(self) -> Tensor:
        """False for queries that are padding: bool `[pairs, n]`."""
        return self.visibility.real[self.mask_rows]

    def blocks(self, elements_per_row: int) -> Iterator[slice]:
        """Row blocks of bounded size: `pairs * rows * elements_per_row` stays below a constant, or one row at a time."""
        size = max(1, block_elements(self.query.device) // max(1, self.query.shape[0] * elements_per_row))
        n = self.query.shape[1]
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def scores(self, block: slice) -> Tensor:
        """Scores of a row block over the keys it may see: float32 `[pairs, rows, width]`.

        Keys that a query does not see get a finite number so low that a softmax gives them 0; a row that sees nothing
        (padding) stays finite.
        """
        visibility = self.visibility
        first_own, after = visibility.first + block.start, visibility.first + block.stop
        width = min(visibility.keys, after) if visibility.causal else visibility.keys
        scores = self._cap(self.query[:, block] @ self.key[:, :width].mT)
        least = torch.finfo(scores.dtype).min / 2
        if visibility.additive is not None:
            scores += visibility.additive[self.mask_rows, self.mask_heads, block, :width]
        if visibility.hidden is not None:
            return scores.masked_fill_(visibility.hidden[self.mask_rows, self.mask_heads, block, :width], least)
        # Sums are many times faster than fills with a mask that is broadcast.
        if block.stop - block.start > 1:
            own = scores[..., first_own:]
            own += torch.full(own.shape[-2:], least, dtype=own.dtype, device=own.device).triu(1)
        if visibility.padding is not None:
            scores += (visibility.padding[self.mask_rows, None, :width] * least).to(scores.dtype)
        return scores

    def visible(self, block: slice) -> Tensor:
        """Which keys the queries of a row block see: bool `[pairs or 1, rows, k]`."""
        if self.visibility.hidden is not None:
            return ~self.visibility.hidden[self.mask_rows, self.mask_heads, block]
        own = torch.arange(block.start, block.stop, device=self.query.device) + self.visibility.first
        visible = (torch.arange(self.visibility.keys, device=own.device) <= own[:, None])[None]
        return visible if self.visibility.padding is None else visible & ~self.visibility.padding[self.mask_rows, None]

    def scores_of_keys(self, block: slice, index: Tensor, present: Tensor) -> Tensor:
        """Scores of a row block over chosen keys: float32 `[pairs, rows, chosen]`, -inf where not seen or not present.

        Args:
            block: the rows.
            index: int64 `[pairs, chosen]`, key indices, none of padding.
            present: bool `[pairs, chosen]`, False for places that hold no key.
        """
        chosen = self.key.gather(1, index[..., None].expand(-1, -1, self.key.shape[-1]))
        scores = self._cap(self.query[:, block] @ chosen.mT)
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
        scores = self._cap(self.query[pair[:, None], position] @ self.key[pair].mT)
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
        return at_least_float32(self.value[self.rows[:, None], self.key_heads[:, None], index])

    def values_of_pairs(self, pair: Tensor) -> Tensor:
        """All values of chosen pairs, int64 `[chosen]`: at least float32 `[chosen, k, head_dim]`."""
        return at_least_float32(self.value[self.rows[pair], self.key_heads[pair]])

    def heavy(self, mass: Tensor, block: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows of a block with so much mass on their sinks that the base output does not do, in batches of bounded size.

        Args:
            mass: `[pairs, rows, 1]`.
            block: the rows.

        Returns:
            Batches of: the pairs that have such rows, int64 `[batch]`; the rows within the block, int64 `[batch, most]`; and
            whether a row is such a one, bool `[batch, most]`, since pairs have different numbers of them.
        """
        if float(mass.max()) <= self.safe_sink_mass:
            return
        heavy = (mass.squeeze(-1) > self.safe_sink_mass) & self.real[:, block]
        counts = heavy.sum(-1)
        most = int(counts.max())
        if most == 0:
            return
        (some,) = counts.nonzero(as_tuple=True)
        for pair in some.split(max(1, block_elements(mass.device) // (most * self.key.shape[1]))):
            is_heavy, row = heavy[pair].to(torch.uint8).topk(most, dim=-1)
            yield pair, row, is_heavy.bool()

    def _cap(self, scores: Tensor) -> Tensor:
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap


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

    def __getitem__(self, pairs: slice) -> SinkKeys:
        return SinkKeys(self.index[pairs], self.present[pairs])


def block_elements(device: torch.device) -> int:
    """How many scores are worked on at once."""
    return _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE)


def pairs_per_chunk(query: Tensor, key: Tensor) -> int:
    """How many pairs are worked on at once: so many that a few rows of each fill a block, and that their copies are small."""
    rows = min(query.shape[-2], _BLOCK_ROWS)
    elements = block_elements(query.device)
    return max(1, min(elements // (rows * key.shape[-2]), 4 * elements // (key.shape[-2] * key.shape[-1])))


def take_pairs(tensor: Tensor, rows: Tensor, heads: Tensor) -> Tensor:
    """`tensor[rows, heads]`, without a copy where that is all of it: `[pairs, ...]`.

    Args:
        tensor: `[batch, heads, ...]`, with as many heads as there are query heads.
        rows, heads: int64 `[pairs]`, distinct pairs in ascending order.
    """
    if len(rows) == tensor.shape[0] * tensor.shape[1]:
        return tensor.flatten(0, 1)
    if tensor.is_contiguous():
        return tensor.flatten(0, 1).index_select(0, rows * tensor.shape[1] + heads)
    return tensor[rows, heads]


def find_prefill_sinks(pairs: Pairs, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
    """The sinks of a prefill, from one pass over its scores.

    Returns:
        The sinks, bool `[pairs, k]`, and each query's log-sum-exp, at least float32 `[pairs, n]`.
    """
    means, log_normalizer = attention_statistics(pairs)
    n, first = pairs.query.shape[1], pairs.visibility.first
    if pairs.visibility.all_real and n == means.shape[-1]:
        return find_sinks(means, n, settings), log_normalizer
    real_keys = torch.zeros_like(means, dtype=torch.bool)
    real_keys[:, first : first + n] = pairs.real
    return find_sinks(means, pairs.real.sum(-1), settings, real_keys), log_normalizer


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
        received[:, : weights.shape[-1]] += (counts[:, None, block] @ weights).squeeze(1)
    seen_by = pairs.visibility.seen_by[pairs.mask_rows, pairs.mask_heads]
    return received / seen_by.clamp(min=1), log_normalizer


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax over the last dimension and its log-sum-exp, several times faster than `logsumexp` on a CPU."""
    weights = scores.softmax(-1)
    return weights, scores.amax(-1) - weights.amax(-1).log()


def calibrate_prefill(pairs: Pairs, output: Tensor, sinks: SinkKeys, log_normalizer: Tensor, beta: float) -> Tensor:
    """Calibrated outputs of a prefill, from the base backend's.

    Args:
        pairs: some calibrated pairs.
        output: at least float32 `[pairs, n, head_dim]`, the base backend's output.
        sinks: of these pairs.
        log_normalizer: `[pairs, n]`, each query's log-sum-exp.
        beta: share that a sink keeps.

    Returns:
        `[pairs, n, head_dim]`.
    """
    index, present = sinks.index, sinks.present
    sink_values = pairs.values_of_keys(index)
    calibrated = torch.empty_like(output)
    for block in pairs.blocks(index.shape[-1]):
        on_sinks = (pairs.scores_of_keys(block, index, present) - log_normalizer[:, block, None]).exp()
        mass = on_sinks.sum(-1, keepdim=True)
        from_sinks = on_sinks @ sink_values
        calibrated[:, block] = _combine(output[:, block], mass, from_sinks, beta, pairs.safe_sink_mass)
        for pair, row, is_heavy in pairs.heavy(mass, block):
            position = row + block.start
            shares = mass[pair[:, None], row], from_sinks[pair[:, None], row], output[pair[:, None], position]
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
        mass: `[chosen, rows, 1]`, the mass on the sinks.
        from_sinks: `[chosen, rows, head_dim]`, what the sinks contribute to the output.
        output: `[chosen, rows, head_dim]`, the base backend's output.
        beta: share that a sink keeps.
    """
    others = pairs.scores_of_queries(pair, position)
    index = sinks.index[pair][:, None].expand(-1, position.shape[1], -1)
    is_sink = sinks.present[pair][:, None]
    others.scatter_(-1, index, others.gather(-1, index).masked_fill(is_sink, -torch.inf))
    weights, others_normalizer = _softmax(others)
    rest = (others_normalizer - log_normalizer[pair[:, None], position]).exp()[..., None]
    over_others = weights @ pairs.values_of_pairs(pair)
    return torch.where(rest > 0, (1 - beta * mass) * over_others + beta * from_sinks, output)


def calibrate_on_cache(pairs: Pairs, output: Tensor, sinks: SinkKeys, beta: float) -> Tensor:
    """Calibrated outputs of rows on cached keys, with the sinks that the prefill found, from the base backend's.

    Args and returns: as `calibrate_prefill`.
    """
    k = pairs.key.shape[1]
    sink_values = pairs.values_of_keys(sinks.index)
    calibrated = torch.empty_like(output)
    for block in pairs.blocks(k):
        weights = pairs.scores(block).softmax(-1)
        weights = torch.nn.functional.pad(weights, (0, k - weights.shape[-1]))
        on_sinks = weights.gather(-1, sinks.index[:, None].expand(-1, weights.shape[1], -1)) * sinks.present[:, None]
        mass = on_sinks.sum(-1, keepdim=True)
        calibrated[:, block] = _combine(output[:, block], mass, on_sinks @ sink_values, beta, pairs.safe_sink_mass)
        for pair, row, is_heavy in pairs.heavy(mass, block):
            is_sink = torch.zeros_like(weights[pair, 0], dtype=torch.bool)
            is_sink.scatter_(-1, sinks.index[pair], sinks.present[pair])
            rows = redistribute(weights[pair[:, None], row], is_sink[:, None], beta) @ pairs.values_of_pairs(pair)
            calibrated[pair[:, None].expand_as(row)[is_heavy], (row + block.start)[is_heavy]] = rows[is_heavy]
    return calibrated


def calibrate_each_row(pairs: Pairs, settings: CalibrationSettings) -> Tensor:
    """Outputs of rows on cached keys, each with the sinks that it finds itself: at least float32 `[pairs, n, head_dim]`.

    See `act_eval.calibration.calibrate_decode_rows`.
    """
    calibrated = torch.empty_like(pairs.query)
    values = pairs.values_of_pairs(torch.arange(len(pairs.rows), device=pairs.rows.device))
    for block in pairs.blocks(pairs.key.shape[1]):
        weights = pairs.scores(block).softmax(-1)
        weights = torch.nn.functional.pad(weights, (0, pairs.key.shape[1] - weights.shape[-1]))
        calibrated[:, block] = calibrate_decode_rows(weights, pairs.visible(block), settings) @ values
    return calibrated
