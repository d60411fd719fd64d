"""The "act" attention function: the base backend for all heads, then the calibrated heads replaced.

transformers calls it through `AttentionInterface`. What a layer needs lives on its attention module while a context is
active (`LayerCalibration`, put there and taken away by `act_eval.act.ACT`), so models, devices and threads do not meet.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from act_eval.calibration import CalibrationSettings, calibrate_decode_rows
from act_eval.errors import InputError
from act_eval.kernels import attend_on_cache, calibrate_prefill
from act_eval.methods.base import Method
from act_eval.pairs import AttentionCall, Visibility

MODULE_ATTRIBUTE = "act_calibration"
CACHE_ATTRIBUTE = "act_sinks"
NAME_PREFIX = "act_"

_FEW_PAIRS = 0.1

# Tensors among the keyword arguments of attention functions that change no weight, or that are taken into account.
_KNOWN_TENSORS = {"s_aux", "position_ids", "cache_position"}


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
        function = ALL_ATTENTION_FUNCTIONS[base]
        return partial(_call_under_its_own_name, function, base) if "flash" in base else function
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise InputError(f"{type(module).__name__} comes from a file without an eager attention function: choose another base.")


def _call_under_its_own_name(
    function: Callable[..., tuple[Tensor, Tensor | None]], base: str, module: nn.Module, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Call a flash attention function with its own name in the module's config: it loads its kernels by that name."""
    config: Any = module.config
    name = config._attn_implementation_internal
    config._attn_implementation_internal = base
    try:
        return function(module, *args, **kwargs)
    finally:
        config._attn_implementation_internal = name


@torch.compiler.disable
def act_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """An attention function for transformers' `AttentionInterface`, for modules inside an `ACT` context.

    A compiled model runs it as it is, between its compiled parts: what it computes depends on the sinks that it finds.

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


def fused_kernels(call: AttentionCall, method: Method) -> ModuleType | None:
    """`act_eval.triton_kernels`, where there is a CUDA device and Triton, and the kernels can do this call and method."""
    if not call.query.is_cuda or find_spec("triton") is None:
        return None
    from act_eval import triton_kernels

    return triton_kernels if triton_kernels.is_supported(call, method) else None


def dense_mask(attention_mask: Any, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask that a backend got, read out where it is a block mask of flex_attention: bool `[batch, 1, n, k]`."""
    if attention_mask is None or isinstance(attention_mask, Tensor):
        return attention_mask
    from torch.nn.attention.flex_attention import create_mask

    return create_mask(attention_mask.mask_mod, query.shape[0], 1, query.shape[-2], key.shape[-2], device=str(query.device))


class LastVisibility:
    """Remembers the visibility of the last mask, since all layers of a forward pass get the same mask object."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._mask: Any = None
        self._visibility: Visibility | None = None

    def __call__(self, attention_mask: Any, query: Tensor, key: Tensor, first: int, window: int | None) -> Visibility:
        shape = (query.shape[0], query.shape[-2], key.shape[-2], first, window, query.device)
        if self._visibility is None or self._mask is not attention_mask or self._key != shape:
            self._visibility = Visibility.of(dense_mask(attention_mask, query, key), query, key, first, window)
            self._mask, self._key = attention_mask, shape
        return self._visibility


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
class LayerSinks:
    """What a prefill found in one layer, kept on the cache that it filled.

    Attributes:
        sinks: bool `[batch, heads, k]` by key index of the prefill; False in heads that are not calibrated.
        first_token: bool `[batch, k]`, True for the first token of each row.
        calibrated: bool `[batch, heads]`.
        settings, heads: what they were found with.
    """

    sinks: Tensor
    first_token: Tensor
    calibrated: Tensor
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]

    @cached_property
    def pairs(self) -> ChosenPairs:
        """The pairs that decode steps compute anew: those with sinks, or all that are calibrated by a method without sinks.

        Where pairs with sinks are not few, it is all pairs: that saves the base backend's work, and costs less than picking
        them out of the cache at every step.
        """
        if not self.settings.method.uses_sinks:
            return ChosenPairs(self.calibrated)
        have_sinks = self.sinks.any(-1)
        if float(have_sinks.float().mean()) >= _FEW_PAIRS:
            return ChosenPairs(torch.ones_like(have_sinks))
        return ChosenPairs(have_sinks)

    def select(self, rows: Tensor) -> LayerSinks:
        """Some rows, int64 `[new batch]`, in any order and number."""
        rows = rows.to(self.sinks.device)
        tensors = {name: getattr(self, name)[rows] for name in ("sinks", "first_token", "calibrated")}
        return replace(self, **tensors)

    def on_cache(self, heads: Tensor | None, dropped: int, keys: int) -> tuple[Tensor, Tensor]:
        """Sinks and first token by key index of the cache: bool `[batch, some heads, keys]` and `[batch, 1, keys]`.

        Args:
            heads: int64 `[some heads]`, or None for all.
            dropped: how many of the oldest keys a sliding cache has let go.
            keys: how many keys the cache and the new tokens have.
        """
        sinks = self.sinks if heads is None else self.sinks[:, heads]
        masks = (mask[..., dropped:] for mask in (sinks, self.first_token[:, None]))
        on_cache, first_token = (torch.nn.functional.pad(mask, (0, keys - mask.shape[-1])) for mask in masks)
        return on_cache, first_token


def select_cache_rows(cache: Cache, rows: Tensor) -> Cache:
    """A cache that holds some rows of another one, in any order and number, with the sinks that the prefill found.

    Args:
        cache: left as it is.
        rows: int64 `[new batch]`, row indices.

    Raises:
        InputError: the cache is of a class of the model's own, as those of hybrid models are in transformers 4.57.
    """
    if not hasattr(cache, "layers"):
        raise InputError(
            f"transformers {transformers.__version__} keeps what this model remembers in a {type(cache).__name__}, whose rows "
            "ACT cannot select: update transformers."
        )
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in selected.layers:
        # Layers of linear attention have dictionaries of states.
        layer.__dict__.update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    selected.reorder_cache(rows)
    layers: dict[int, LayerSinks] | None = getattr(cache, CACHE_ATTRIBUTE, None)
    if layers is not None:
        setattr(selected, CACHE_ATTRIBUTE, {index: layer.select(rows) for index, layer in layers.items()})
    return selected


@dataclass
class LayerCalibration:
    """What one attention module needs inside an ACT context: its base backend and its calibrated heads.

    Attributes:
        layer: layer index, 0-based.
        base_name: name of the base backend, such as "sdpa".
        base: its attention function.
        settings: what calibration does.
        heads: the calibrated heads: one tuple for all rows of the batch, or one for each row (or each group of rows, when the
            batch is a multiple: choices or beams of one prompt).
        visibility: shared by the layers of a model.
        cache, cached_length: the cache that the module was called with and how many tokens it held; set before each call.
        called: whether the attention function was reached in this call of the module.
    """

    layer: int
    base_name: str
    base: Callable[..., tuple[Tensor, Tensor | None]]
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]
    visibility: LastVisibility
    cache: Cache | None = None
    cached_length: int = 0
    called: bool = False
    _pairs: dict[tuple[int, torch.device], ChosenPairs] = field(default_factory=dict)

    @property
    def calibrates(self) -> bool:
        return any(self.heads)

    def before_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the attention module: note the cache before the module adds the new keys to it."""
        # By what it can do, since hybrid models in transformers 4.57 have caches of their own classes.
        caches = (value for value in (*kwargs.values(), *args) if hasattr(value, "get_seq_length"))
        cache = next(caches, None)
        self.cache = getattr(cache, "self_attention_cache", cache)
        own = self.cache is not None and not getattr(module, "is_kv_shared_layer", False)
        self.cached_length = int(self.cache.get_seq_length(self.layer)) if own else 0  # type: ignore[union-attr]
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
        self.check_arguments(module, kwargs)
        if not self.calibrates:
            return self.base(module, query, key, value, attention_mask, *args, **kwargs)
        self._locate_keys(module, query.shape[-2], key.shape[-2])
        return self.calibrate(self._pairs_to_compute(query), module, query, key, value, attention_mask, *args, **kwargs)

    def check_arguments(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        """Raise InputError where the attention depends on something that the base backend or ACT does not take into account.

        Args:
            module: the attention module.
            arguments: the keyword arguments that it gives to its attention function.
        """
        tensors = {name for name, value in arguments.items() if isinstance(value, Tensor)}
        if tensors - _KNOWN_TENSORS:
            raise InputError(
                f"{type(module).__name__} gives its attention function {', '.join(sorted(tensors - _KNOWN_TENSORS))}, which "
                "ACT does not take into account, so ACT cannot be applied to this model."
            )
        if "s_aux" in tensors and self.base_name == "sdpa":
            raise InputError(
                f"{type(module).__name__} has learned sink logits, which sdpa attention drops: choose act_base=eager."
            )

    def calibrate(
        self,
        pairs: ChosenPairs,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The output with some pairs calibrated; the other arguments and what is returned: see `act_attention`."""
        if self.cached_length and pairs.all:
            output = value.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        else:
            output, weights = self.base(module, query, key, value, attention_mask, *args, **kwargs)
            if not pairs.any:
                return output, weights
        self.replace_calibrated(pairs, output, query, key, value, attention_mask, **kwargs)
        return output, None

    def replace_calibrated(
        self,
        pairs: ChosenPairs,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Write the calibrated pairs' outputs over the base backend's, and keep the sinks of a prefill on its cache.

        Args:
            pairs: which ones.
            output: `[batch, n, heads, head_dim]`.
            query, key, value, attention_mask, scaling, softcap, sliding_window, s_aux: as the base backend gets them.
        """
        dropped = max(0, self.cached_length + query.shape[-2] - key.shape[-2])
        visibility = self.visibility(attention_mask, query, key, self.cached_length - dropped, sliding_window)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self.base_name == "sdpa":
            softcap = None  # sdpa has none: transformers 5 refuses it, 4.57 runs the model without
        call = AttentionCall(query, key, value, output, visibility, scaling, softcap, s_aux)
        with torch.autocast(query.device.type, enabled=False):
            if self.cached_length == 0:
                self._prefill(call, pairs)
            else:
                self._decode(call, pairs, dropped)

    def _prefill(self, call: AttentionCall, calibrated: ChosenPairs) -> None:
        rows, heads = calibrated.indices
        triton_kernels = fused_kernels(call, self.settings.method)
        if triton_kernels is not None:
            found = triton_kernels.find_and_turn_down_sinks(call, rows, heads, self.settings)
        else:
            found = call.query.new_zeros(len(rows), call.key.shape[-2], dtype=torch.bool)
            for chunk, pairs in call.chunks(rows, heads):
                found[chunk], outputs = calibrate_prefill(pairs, self.settings)
                if outputs is not None:
                    call.write(pairs, outputs)
        if self.cache is not None and self.settings.decode == "prefill":
            kept = found.new_zeros(*call.query.shape[:2], found.shape[-1])
            kept[rows, heads] = found
            layers = self.cache.__dict__.setdefault(CACHE_ATTRIBUTE, {})
            first_token = call.visibility.first_token.expand(len(kept), -1)
            layers[self.layer] = LayerSinks(kept, first_token, calibrated.chosen, self.settings, self.heads)

    def _decode(self, call: AttentionCall, pairs: ChosenPairs, dropped: int) -> None:
        """`dropped` is how many of the oldest keys a sliding cache has let go."""
        if self.settings.decode == "prefill":
            kept = self._prefill_sinks(call.query.shape[0])
            sinks, first = kept.on_cache(pairs.heads, dropped, call.key.shape[-2])
            attended = attend_on_cache(
                call,
                pairs.heads,
                lambda weights, hidden: self.settings.method.rewrite(weights, sinks[:, :, None], first[:, :, None]),
            )
        else:
            attended = attend_on_cache(
                call, pairs.heads, lambda weights, hidden: calibrate_decode_rows(weights, ~hidden, self.settings)
            )
        call.write_heads(pairs.heads, attended, None if pairs.all else pairs.chosen)

    def _pairs_to_compute(self, query: Tensor) -> ChosenPairs:
        batch, heads = query.shape[:2]
        if self.cached_length and self.settings.decode == "prefill":
            return self._prefill_sinks(batch).pairs
        if (batch, query.device) not in self._pairs:
            if batch % len(self.heads):
                raise ValueError(f"there are head profiles for {len(self.heads)} rows, but the batch has {batch} rows.")
            chosen = torch.zeros(len(self.heads), heads, dtype=torch.bool)
            for row, row_heads in enumerate(self.heads):
                chosen[row, list(row_heads)] = True
            chosen = chosen.repeat_interleave(batch // len(self.heads), 0).to(query.device)
            self._pairs[batch, query.device] = ChosenPairs(chosen)
        return self._pairs[batch, query.device]

    def _locate_keys(self, module: nn.Module, new_tokens: int, keys: int) -> None:
        """Find the cached length of a layer that has no cache of its own, and check that keys are tokens.

        Raises:
            RuntimeError: there are more keys than tokens, as where keys stand for groups of tokens (DeepSeek-V4), or the model
                keeps them in a cache that ACT does not know.
        """
        if getattr(module, "is_kv_shared_layer", False) and self.cache is not None:
            # Keys and values are those of an earlier layer (Gemma 3n), which has put the new tokens into the cache already.
            self.cached_length = int(self.cache.get_seq_length()) - new_tokens
        static_lengths = {getattr(layer, "max_cache_len", None) for layer in getattr(self.cache, "layers", ())}
        if keys > self.cached_length + new_tokens and keys not in static_lengths:
            raise RuntimeError(
                f"{type(module).__name__} attends to {keys} keys, but there are {new_tokens} new tokens and "
                f"{self.cached_length} in a cache that ACT knows, so it cannot tell which token a key belongs to."
            )

    def _prefill_sinks(self, batch: int) -> LayerSinks:
        """The prefill's sinks for a batch that continues it.

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
        return kept if repeats == 1 else kept.select(torch.arange(batch) // repeats)
