"""The "act" attention function: the base backend for all heads, then the calibrated heads replaced.

transformers calls it through `AttentionInterface`. What a layer needs lives on its attention module while a context is
active (`LayerCalibration`, put there and taken away by `act.ACT`), so models, devices and threads do not meet.

`LayerCalibration` reads from top to bottom as one call of its module: the cache is noted, arguments are checked, heads are
chosen, the base backend runs, unless all of its output would be written over, and the outputs of the chosen heads are
replaced, in a prefill or in a decode step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache

from act_eval.attention import blockwise, whole_maps
from act_eval.attention.cache import LayerSinks, keep_sinks, kept_sinks
from act_eval.attention.calibration import CalibrationSettings, calibrate_decode_rows
from act_eval.attention.call import AttentionCall
from act_eval.attention.limits import DEFAULT_LIMITS, ComputeLimits
from act_eval.attention.log_sum_exp import LogSumExp, can_be_noted
from act_eval.attention.masks import LastVisibility
from act_eval.attention.pairs import ChosenHeads
from act_eval.attention.shared_heads import rewrite_rows
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.errors import InputError
from act_eval.methods.base import Method

MODULE_ATTRIBUTE = "act_calibration"

# Tensors among the keyword arguments of attention functions that change no weight, or that are taken into account.
_KNOWN_TENSORS = {"s_aux", "position_ids", "cache_position"}


@torch.compiler.disable
def act_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention for transformers' `AttentionInterface`, in modules inside an `ACT` context.

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


@dataclass
class LayerCalibration:
    """What one attention module needs inside an ACT context: its base backend and its calibrated heads.

    Attributes:
        always_runs_base: whether the base backend runs where all of its output is written over, too.
        layer: layer index, 0-based.
        base_name: name of the base backend, such as "sdpa".
        base: its attention function; or the `LayerCalibration` of another group of the layer's heads, which has it.
        settings: what calibration does.
        heads: the calibrated heads: one tuple for all rows of the batch, or one for each row (or each group of rows, when the
            batch is a multiple: choices or beams of one prompt).
        visibility: which keys are seen, shared by the layers of a model.
        visibility_of_continuations: as much for the continuations of packed rows.
        num_heads: query heads of the layer, in all processes together.
        division: the processes among which the heads are divided.
        group: number of the group of heads that these are, where groups are calibrated in different ways, each by a
            `LayerCalibration` of its own.
        limits: how much is computed at once.
        own_heads: the query heads that this process has, by their numbers in the model; set in each call. `heads` are numbered
            so too, but all tensors are about the process's own heads alone, counted from 0.
        cache, cached_length: the cache that the module was called with and how many tokens it held; set before each call.
        called: whether the attention function was reached in this call of the module.
        context_length: of packed rows, how many tokens of each are its context; set by `packing.packed_tokens`.
        span: the tokens of the part of the prompt that the method is about, see `AttentionCall`; set by `spans.span_tokens`.
    """

    always_runs_base: ClassVar[bool] = False

    layer: int
    base_name: str
    base: Callable[..., tuple[Tensor, Tensor | None]]
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]
    visibility: LastVisibility
    visibility_of_continuations: LastVisibility
    num_heads: int
    division: HeadDivision
    group: int = 0
    limits: ComputeLimits = DEFAULT_LIMITS
    own_heads: range = range(0)
    cache: Cache | None = None
    cached_length: int = 0
    called: bool = False
    context_length: int | None = None
    span: Tensor | None = None
    _chosen: dict[tuple[int, torch.device], ChosenHeads] = field(default_factory=dict)

    @property
    def calibrates(self) -> bool:
        """Whether a head of this layer is calibrated in some row."""
        return any(self.heads)

    @property
    def place(self) -> tuple[int, int]:
        """Where these heads are in the order in which a forward pass comes to them: layer and group."""
        return self.layer, self.group

    @property
    def of_all_groups(self) -> Iterator[LayerCalibration]:
        """This one, and those of the other groups of heads below it."""
        yield self
        if isinstance(self.base, LayerCalibration):
            yield from self.base.of_all_groups

    @property
    def reports(self) -> bool:
        """Whether this process says what is measured of its heads: where all processes have all heads, the first one does."""
        return len(self.own_heads) < self.num_heads or self.division.rank == 0

    def before_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the cache before the attention module adds the new keys to it: its forward pre-hook."""
        # By what it can do, since hybrid models in transformers 4.57 have caches of their own classes.
        caches = (value for value in (*kwargs.values(), *args) if hasattr(value, "get_seq_length"))
        cache = next(caches, None)
        self.cache = getattr(cache, "self_attention_cache", cache)
        own = self.cache is not None and not getattr(module, "is_kv_shared_layer", False)
        self.cached_length = int(self.cache.get_seq_length(self.layer)) if own else 0  # type: ignore[union-attr]
        self.called = False

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
        """Compute attention; arguments and results are those of `act_attention`."""
        self.called = True
        self._check_arguments(module, kwargs)
        if not self.calibrates:
            return self.base(module, query, key, value, attention_mask, *args, **kwargs)
        self.own_heads = self.division.own_heads(query.shape[1], self.num_heads, module)
        self._locate_keys(module, query.shape[-2], key.shape[-2])
        return self.calibrate(self._choose_heads(query), module, query, key, value, attention_mask, *args, **kwargs)

    def _check_arguments(self, module: nn.Module, arguments: dict[str, Any]) -> None:
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
        if self.calibrates and arguments.get("dropout"):
            raise InputError(
                f"{type(module).__name__} drops attention weights at random in training mode, which ACT does not: call "
                "model.eval(), or load the model with an attention dropout of 0."
            )
        if "s_aux" in tensors and self.base_name == "sdpa":
            raise InputError(
                f"{type(module).__name__} has learned sink logits, which sdpa attention drops: choose act_base=eager."
            )

    def _locate_keys(self, module: nn.Module, new_tokens: int, keys: int) -> None:
        """Find the cached length of a layer that has no cache of its own, and check that keys are tokens.

        Raises:
            RuntimeError: there are more keys than tokens, as where keys stand for groups of tokens (DeepSeek-V4), or the model
                keeps them in a cache that ACT does not know.
        """
        if getattr(module, "is_kv_shared_layer", False) and self.cache is not None:
            # Keys and values are those of an earlier layer (Gemma 3n), which has put the new tokens into the cache already.
            self.cached_length = int(self.cache.get_seq_length()) - new_tokens
        if keys <= self.cached_length + new_tokens:
            return
        static_lengths = {getattr(layer, "max_cache_len", None) for layer in getattr(self.cache, "layers", ())}
        if keys not in static_lengths:
            raise RuntimeError(
                f"{type(module).__name__} attends to {keys} keys, but there are {new_tokens} new tokens and "
                f"{self.cached_length} in a cache that ACT knows, so it cannot tell which token a key belongs to."
            )

    def _choose_heads(self, query: Tensor) -> ChosenHeads:
        """The heads to compute of this process's own: those of the profile, or in a decode step those with the prefill's sinks.

        Raises:
            ValueError: there are profiles for rows, and the batch is no multiple of them.
        """
        batch, heads = query.shape[:2]
        if self.cached_length and self.settings.decode == "prefill":
            return self._kept_sinks(batch).to_compute
        if (batch, query.device) not in self._chosen:
            if batch % len(self.heads):
                raise ValueError(
                    f"there are head profiles for {len(self.heads)} rows, but the batch has {batch}, which is no multiple: "
                    "give one profile for each row, or one for all."
                )
            mask = torch.zeros(len(self.heads), heads, dtype=torch.bool)
            for row, row_heads in enumerate(self.heads):
                mask[row, [head - self.own_heads.start for head in row_heads if head in self.own_heads]] = True
            mask = mask.repeat_interleave(batch // len(self.heads), 0)
            self._chosen[batch, query.device] = ChosenHeads(mask.to(query.device), known=mask)
        return self._chosen[batch, query.device]

    def calibrate(
        self,
        chosen: ChosenHeads,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention with the chosen heads calibrated; the other arguments and results are those of `act_attention`."""
        runs_base, log_sum_exp = self._runs_base(chosen, query, key, kwargs.get("softcap")), None
        if not runs_base:
            output = value.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        elif self.cached_length or not can_be_noted(query, self.base_name):
            output, weights = self.base(module, query, key, value, attention_mask, *args, **kwargs)
            if self.cached_length and not chosen.any:
                return output, weights
        else:
            with LogSumExp() as noted:
                output, _ = self.base(module, query, key, value, attention_mask, *args, **kwargs)
            log_sum_exp = noted.of_queries(query)
        self.replace_calibrated(
            chosen,
            output,
            query,
            key,
            value,
            attention_mask,
            has_base_output=runs_base,
            log_sum_exp=log_sum_exp,
            **kwargs,
        )
        return output, None

    def _runs_base(self, chosen: ChosenHeads, query: Tensor, key: Tensor, softcap: float | None) -> bool:
        """Whether the base backend runs: not where all heads are computed anew."""
        if self.always_runs_base or (self.base_name == "sdpa" and softcap is not None):
            return True  # which refuses the soft cap
        if isinstance(self.base, LayerCalibration) and any(layer.calibrates for layer in self.base.of_all_groups):
            return True  # whose heads may all be those of other processes, but whose sinks decode steps ask for
        if self.cached_length:
            return not chosen.all
        if query.device.type != "cpu" or not chosen.same_in_all_rows:
            return True
        length = self.context_length
        n, k = (query.shape[-2], key.shape[-2]) if length is None else (length, length)
        if chosen.all:
            return not whole_maps.fit(query.shape[1] // key.shape[1], n, k, query.device, self.limits)
        leaves_others = self.settings.method.uses_sinks and self.settings.decode == "prefill"
        many = chosen.share >= self.limits.share_of_heads_to_pick
        return not (leaves_others and many and whole_maps.fit(query.shape[1], n, k, query.device, self.limits))

    def replace_calibrated(
        self,
        chosen: ChosenHeads,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        s_aux: Tensor | None = None,
        has_base_output: bool = True,
        log_sum_exp: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Write the chosen heads' calibrated outputs over the base backend's, and keep the sinks of a prefill on its cache.

        Args:
            chosen: the heads.
            output: `[batch, n, heads, head_dim]`.
            query, key, value, attention_mask, scaling, softcap, sliding_window, s_aux: as the base backend gets them.
            has_base_output: whether the base backend ran; if not, all of the output is written.
            log_sum_exp: `[batch, heads, n]`, of each query's scores, where the base backend's kernel has given it.
        """
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self.base_name == "sdpa":
            softcap = None  # sdpa has none: transformers 5 refuses it, 4.57 runs the model without
        make_call = partial(
            AttentionCall,
            scaling=scaling,
            softcap=softcap,
            learned_sinks=s_aux,
            limits=self.limits,
            has_base_output=has_base_output,
            span=self.span,
        )
        with torch.autocast(query.device.type, enabled=False):
            if self.context_length is not None:
                assert attention_mask is not None
                self._packed_rows(chosen, output, query, key, value, attention_mask, log_sum_exp, make_call)
                return
            dropped = max(0, self.cached_length + query.shape[-2] - key.shape[-2])
            visibility = self.visibility(self.place, attention_mask, query, key, self.cached_length - dropped, sliding_window)
            call = make_call(query, key, value, output, visibility, log_sum_exp=log_sum_exp)
            if self.cached_length == 0:
                sinks = self._prefill(call, chosen)
                if self.cache is not None and self.settings.decode == "prefill":
                    keep_sinks(self.cache, self.layer, self.group, sinks)
            else:
                kept = self._kept_sinks(query.shape[0]) if self.settings.decode == "prefill" else None
                self._decode(call, chosen, kept, dropped)

    def _packed_rows(
        self,
        chosen: ChosenHeads,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        log_sum_exp: Tensor | None,
        make_call: Callable[..., AttentionCall],
    ) -> None:
        """Calibrate contexts as prefills, and the continuations that follow them in their rows with the contexts' sinks."""
        assert self.context_length is not None
        of_context, after = slice(self.context_length), slice(self.context_length, None)
        part = query[:, :, of_context], key[:, :, of_context], value[:, :, of_context], output[:, of_context]
        visibility = self.visibility(self.place, attention_mask, *part[:2], 0, None, (of_context, of_context))
        log_sum_exp = None if log_sum_exp is None else log_sum_exp[..., of_context]
        sinks = self._prefill(make_call(*part, visibility, log_sum_exp=log_sum_exp), chosen)
        if query.shape[2] == self.context_length:
            return
        part = query[:, :, after], key, value, output[:, after]
        visibility = self.visibility_of_continuations(
            self.place, attention_mask, *part[:2], self.context_length, None, (after, slice(None))
        )
        call = make_call(*part, visibility)
        if not call.has_base_output:
            chosen = ChosenHeads(torch.ones_like(chosen.mask))
        elif self.settings.decode == "prefill":
            chosen = sinks.to_change
        if chosen.any:
            self._decode(call, chosen, sinks, dropped=0)

    def _prefill(self, call: AttentionCall, chosen: ChosenHeads) -> LayerSinks:
        """Calibrate a block of queries with the sinks of its own, and return these for what follows."""
        sinks = chosen.mask.new_zeros(*call.query.shape[:2], call.key.shape[-2])
        sinks[chosen.indices] = self.calibrate_prefill(call, chosen)
        first_token = call.visibility.first_token.expand(len(sinks), -1)
        return LayerSinks(sinks, first_token, chosen.mask, self.settings, self.heads, self.limits)

    def calibrate_prefill(self, call: AttentionCall, chosen: ChosenHeads) -> Tensor:
        """Write calibrated outputs over those of a block of queries.

        Returns:
            The sinks of the chosen heads, bool `[row_heads, k]`.
        """
        if not chosen.any:  # other processes have the calibrated heads
            return chosen.mask.new_zeros(0, call.key.shape[-2])
        return choose_kernels(call, self.settings.method, chosen).calibrate_prefill(call, *chosen.indices, self.settings)

    def _decode(self, call: AttentionCall, chosen: ChosenHeads, kept: LayerSinks | None, dropped: int) -> None:
        """Calibrate queries on keys of a prefill.

        Args:
            call: the queries and all keys.
            chosen: the heads.
            kept: what the prefill found; not needed where rows decide by themselves.
            dropped: how many of the oldest keys a sliding cache has let go.
        """
        if self.settings.decode == "prefill":
            assert kept is not None
            sinks, first_token = kept.on_cache(chosen.heads, dropped, call.key.shape[-2])

            def calibrate_rows(weights: Tensor, hidden: Tensor) -> Tensor:
                if weights.shape[-2] == 1:
                    return self.settings.method.rewrite(weights, sinks[:, :, None], first_token[:, :, None])
                return rewrite_rows(self.settings.method, weights, sinks, first_token.expand_as(sinks))

        else:

            def calibrate_rows(weights: Tensor, hidden: Tensor) -> Tensor:
                return calibrate_decode_rows(weights, ~hidden, self.settings)

        attended = blockwise.attend_on_cache(call, chosen.heads, calibrate_rows)
        of_heads = chosen.mask if chosen.heads is None else chosen.mask.index_select(1, chosen.heads)
        call.write_heads(chosen.heads, attended, None if chosen.all else of_heads)

    def _kept_sinks(self, batch: int) -> LayerSinks:
        return kept_sinks(self.cache, self.layer, self.group, batch, self.settings, self.heads)

    def after_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Raise RuntimeError where a calibrated layer would be a silent baseline: the attention module's forward hook."""
        self.cache = None
        if self.calibrates and not self.called:
            raise RuntimeError(
                f"{type(module).__name__} computed layer {self.layer} without calling transformers' attention interface, "
                "so ACT cannot be applied to this model."
            )


def choose_kernels(call: AttentionCall, method: Method, chosen: ChosenHeads) -> ModuleType:
    """The module whose `calibrate_prefill` does a prefill.

    `triton_kernels` on CUDA where they can; else `whole_maps` where rows share heads and maps are small; else `blockwise`.
    """
    if not call.has_base_output:
        return whole_maps
    if call.query.is_cuda and find_spec("triton") is not None:
        from act_eval.attention import triton_kernels

        if triton_kernels.is_supported(call, method):
            return triton_kernels
    (heads, n), (key_heads, k) = call.query.shape[1:3], call.key.shape[1:3]
    fits = whole_maps.fit(heads // key_heads, n, k, call.query.device, call.limits)
    return whole_maps if fits and chosen.same_in_all_rows else blockwise
