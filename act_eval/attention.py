"""The "act" attention function: the base backend for all heads, then the calibrated heads replaced.

transformers calls it through `AttentionInterface`. What a layer needs lives on its attention module while a context is
active (`LayerCalibration`, put there and taken away by `act_eval.act.ACT`), so models, devices and threads do not meet.

The unit of work is a *pair*: one row of the batch and one head that is calibrated in it. A pair's n x n map is never held
for a whole sequence. In prefill, one pass over the scores in row blocks gives each query's log-sum-exp and each key's mean
attention; the sinks are read off the means, and the output follows from the base backend's own output O in O(n * sinks):

    O' = c * (O - sum_s A[:, s] v_s) + beta * sum_s A[:, s] v_s,    c = 1 + (1 - beta) * m / (1 - m)

with m the row's mass on its sinks. Rows with most of their mass on sinks are computed over the other keys instead, since
the difference would lose its digits. Arithmetic on calibrated pairs is in float32 (float64 in a float64 model).

In layers with a sliding window, the mean attention of a key is over the queries whose window holds it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from act_eval.calibration import CalibrationSettings, at_least_float32, calibrate_decode_rows, find_sinks, redistribute
from act_eval.errors import InputError

MODULE_ATTRIBUTE = "act_calibration"
CACHE_ATTRIBUTE = "act_sinks"
NAME_PREFIX = "act_"

_BLOCK_ELEMENTS = 2**22
_SAFE_SINK_MASS = {torch.float32: 0.9, torch.float64: 0.9}
_SAFE_SINK_MASS_HALF = 0.5


def check_base(base: str) -> None:
    """Raise InputError unless transformers knows an attention backend of that name, with masks."""
    known = ["eager", *(name for name in ALL_ATTENTION_FUNCTIONS if not name.startswith(NAME_PREFIX))]
    known = sorted(name for name in known if name in ALL_MASK_ATTENTION_FUNCTIONS)
    if base not in known:
        raise InputError(f"there is no base attention {base!r}: choose one of {', '.join(known)}.")


def register(base: str) -> str:
    """Make the act attention function over a base backend known to transformers, with the backend's own masks.

    Registering the function without a mask function of the same name would give it no mask at all.

    Args:
        base: "eager", or a name that `AttentionInterface` knows, such as "sdpa".

    Returns:
        The name to put into a config's `_attn_implementation`.

    Raises:
        InputError: there is no such backend, or it has no masks.
    """
    check_base(base)
    name = NAME_PREFIX + base
    AttentionInterface.register(name, act_attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def base_attention(module: nn.Module, base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The base backend's attention function for a module.

    "eager" is in no registry: every modelling file has its own `eager_attention_forward`.

    Raises:
        InputError: the module's file has no eager attention function.
    """
    if base != "eager":
        return ALL_ATTENTION_FUNCTIONS[base]
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise InputError(f"{type(module).__name__} comes from a file without an eager attention function: choose another base.")


def act_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """An attention function for transformers' `AttentionInterface`, for modules inside an `ACT` context.

    Args:
        module: the attention module; holds its `LayerCalibration`.
        query: float `[batch, heads, n, head_dim]`.
        key, value: float `[batch, key/value heads, k, head_dim]`.
        attention_mask: None (causal), bool or additive float `[batch, 1 or heads, n, k]`, or bool `[batch, k]`.
        args, kwargs: whatever the base backend takes.

    Returns:
        The output, `[batch, n, heads, head_dim]`, and the base backend's attention weights; None in place of the weights
        where a head was calibrated, for they are not the weights that made the output.
    """
    calibration: LayerCalibration = getattr(module, MODULE_ATTRIBUTE)
    return calibration(module, query, key, value, attention_mask, *args, **kwargs)


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


class VisibilityOfForward:
    """Remembers the visibility of the last mask, since all layers of a forward pass get the same mask object."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._mask: Tensor | None = None
        self._visibility: Visibility | None = None

    def __call__(self, attention_mask: Tensor | None, query: Tensor, key: Tensor, first: int, window: int | None) -> Visibility:
        shape = (query.shape[0], query.shape[-2], key.shape[-2], first, window, query.device)
        if self._visibility is None or self._mask is not attention_mask or self._key != shape:
            self._visibility = Visibility.of(attention_mask, query, key, first, window)
            self._mask, self._key = attention_mask, shape
        return self._visibility


@dataclass(frozen=True)
class LayerSinks:
    """The sinks that a prefill found in one layer, kept on the cache that it filled.

    Attributes:
        sinks: bool `[batch, heads, k]` by key index of the prefill; False in heads that are not calibrated.
        settings, heads: what they were found with.
    """

    sinks: Tensor
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]


def select_cache_rows(cache: Cache, rows: Tensor) -> Cache:
    """A cache that holds some rows of another one, in any order and number, with the sinks that the prefill found.

    Args:
        cache: left as it is.
        rows: int64 `[new batch]`, row indices.
    """
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(rows)
    layers: dict[int, LayerSinks] | None = getattr(cache, CACHE_ATTRIBUTE, None)
    if layers is not None:
        kept = {index: replace(layer, sinks=layer.sinks[rows.to(layer.sinks.device)]) for index, layer in layers.items()}
        setattr(selected, CACHE_ATTRIBUTE, kept)
    return selected


@dataclass
class LayerCalibration:
    """What one attention module needs inside an ACT context: its base backend and its calibrated heads.

    Attributes:
        layer: layer index, 0-based.
        base: the base backend's attention function.
        settings: what calibration does.
        heads: the calibrated heads: one tuple for all rows of the batch, or one for each row (or each group of rows, when the
            batch is a multiple: choices or beams of one prompt).
        visibility: shared by the layers of a model.
        cache, cached_length: the cache that the module was called with and how many tokens it held; set before each call.
        called: whether the attention function was reached in this call of the module.
    """

    layer: int
    base: Callable[..., tuple[Tensor, Tensor | None]]
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]
    visibility: VisibilityOfForward
    cache: Cache | None = None
    cached_length: int = 0
    called: bool = False
    _pairs: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def calibrates(self) -> bool:
        return any(self.heads)

    def before_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the attention module: note the cache before the module adds the new keys to it."""
        caches = (value for value in (*kwargs.values(), *args) if isinstance(value, Cache))
        cache = next(caches, None)
        self.cache = getattr(cache, "self_attention_cache", cache)
        self.cached_length = 0 if self.cache is None else int(self.cache.get_seq_length(self.layer))
        self.called = False

    def after_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the attention module: a calibrated layer that never got here would be a silent baseline."""
        self.cache = None
        if self.calibrates and not self.called:
            raise RuntimeError(
                f"{type(module).__name__} computed layer {self.layer} without calling transformers' attention interface, "
                "so ACT cannot be applied to this model."
            )

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """See `act_attention`."""
        self.called = True
        output, weights = self.base(module, query, key, value, attention_mask, *args, **kwargs)
        if not self.calibrates:
            return output, weights
        if kwargs.get("s_aux") is not None:
            raise NotImplementedError("ACT is not defined yet for attention with learned sink logits (gpt-oss).")
        if attention_mask is not None and not isinstance(attention_mask, Tensor):
            raise NotImplementedError("ACT cannot read the block masks of flex_attention: choose act_base=sdpa or eager.")
        with torch.autocast(query.device.type, enabled=False):
            self._replace_calibrated(output, query, key, value, attention_mask, **kwargs)
        return output, None

    def _replace_calibrated(
        self,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        **_: Any,
    ) -> None:
        """Write the calibrated pairs' outputs over the base backend's, and keep the sinks of a prefill on its cache."""
        n, k = query.shape[-2], key.shape[-2]
        dropped = max(0, self.cached_length + n - k)
        visibility = self.visibility(attention_mask, query, key, self.cached_length - dropped, sliding_window)
        rows, heads = self._pairs_of_batch(query.shape[0], query.device)
        pairs = _Pairs.gather(query, key, value, rows, heads, visibility, scaling, softcap)
        before = at_least_float32(output[rows, :, heads])
        if self.cached_length == 0:
            calibrated, sinks = _calibrate_prefill(pairs, before, self.settings)
            self._keep_sinks(sinks, query.shape, rows, heads)
        elif self.settings.decode == "prefill":
            sinks = self._prefill_sinks(query.shape[0])[rows, heads, dropped:][:, :k]
            sinks = torch.nn.functional.pad(sinks, (0, k - sinks.shape[-1]))
            calibrated = _decode(pairs, lambda weights, visible: redistribute(weights, sinks[:, None], self.settings.beta))
        else:
            calibrated = _decode(pairs, lambda weights, visible: calibrate_decode_rows(weights, visible, self.settings))
        output[rows, :, heads] = torch.where(pairs.real[..., None], calibrated, before).to(output.dtype)

    def _pairs_of_batch(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and head index of every calibrated pair of a batch: two int64 `[pairs]`."""
        if (batch, device) not in self._pairs:
            if batch % len(self.heads):
                raise ValueError(f"there are head profiles for {len(self.heads)} rows, but the batch has {batch} rows.")
            repeats = batch // len(self.heads)
            index = [(row, head) for row in range(batch) for head in self.heads[row // repeats]]
            self._pairs[batch, device] = tuple(torch.tensor(index, device=device).unbind(-1))  # type: ignore[assignment]
        return self._pairs[batch, device]

    def _keep_sinks(self, sinks: Tensor, query_shape: torch.Size, rows: Tensor, heads: Tensor) -> None:
        if self.cache is None or self.settings.decode != "prefill":
            return
        kept = sinks.new_zeros(*query_shape[:2], sinks.shape[-1])
        kept[rows, heads] = sinks
        layers = self.cache.__dict__.setdefault(CACHE_ATTRIBUTE, {})
        layers[self.layer] = LayerSinks(kept, self.settings, self.heads)

    def _prefill_sinks(self, batch: int) -> Tensor:
        """The prefill's sinks for a batch that continues it: bool `[batch, heads, k]`.

        A batch that is a multiple of the prefill's holds several continuations of each prompt (choices, beams), side by side.
        """
        kept: LayerSinks | None = getattr(self.cache, CACHE_ATTRIBUTE, {}).get(self.layer)
        if kept is None:
            raise RuntimeError(
                "the cache was filled outside this ACT context, so the sinks of its prompt are unknown: "
                'run the prompt inside the context too, or use decode="row".'
            )
        if kept.settings != self.settings or kept.heads != self.heads:
            raise RuntimeError("the cache was filled with other ACT settings or heads: run the prompt in this context too.")
        repeats, remainder = divmod(batch, kept.sinks.shape[0])
        if remainder:
            raise RuntimeError(
                f"the cache was filled by {kept.sinks.shape[0]} rows and now has {batch}: "
                "select its rows with `select_cache_rows`, which selects their sinks too."
            )
        return kept.sinks.repeat_interleave(repeats, 0)


@dataclass(frozen=True)
class _Pairs:
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
    ) -> _Pairs:
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


def _calibrate_prefill(pairs: _Pairs, output: Tensor, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
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


def _find_prefill_sinks(pairs: _Pairs, settings: CalibrationSettings) -> tuple[Tensor, Tensor]:
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
    pairs: _Pairs,
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


def _decode(pairs: _Pairs, calibrate_rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
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
