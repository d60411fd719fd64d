"""The "act" attention function: the base backend for all heads, then the calibrated heads replaced.

transformers calls it through `AttentionInterface`. What a layer needs lives on its attention module while a context is
active (`LayerCalibration`, put there and taken away by `act.ACT`), so models, devices and threads do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from act_eval.attention.blockwise import attend_on_cache, calibrate_prefill
from act_eval.attention.cache import CACHE_ATTRIBUTE, LayerSinks
from act_eval.attention.calibration import CalibrationSettings, calibrate_decode_rows
from act_eval.attention.masks import LastVisibility
from act_eval.attention.pairs import AttentionCall, ChosenPairs
from act_eval.errors import InputError
from act_eval.methods.base import Method

MODULE_ATTRIBUTE = "act_calibration"


# Tensors among the keyword arguments of attention functions that change no weight, or that are taken into account.
_KNOWN_TENSORS = {"s_aux", "position_ids", "cache_position"}


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
    """The module `triton_kernels`, where there is a CUDA device and Triton, and the kernels can do this call and method."""
    if not call.query.is_cuda or find_spec("triton") is None:
        return None
    from act_eval.attention import triton_kernels

    return triton_kernels if triton_kernels.is_supported(call, method) else None


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
