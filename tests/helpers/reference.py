"""A naive ACT for whole models: the model's own eager attention, its full maps rewritten before the value product.

Nothing of act-eval's fast path is used: soft-capping, sliding windows, ALiBi and learned sink logits are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import PreTrainedModel

from act_eval.attention.calibration import CalibrationSettings, find_sinks
from helpers.naive_methods import rewrite


class NaiveLayer:
    """Rewrites the attention maps of one layer: one prefill, then rows on its cache.

    Attributes:
        sinks: bool `[batch, heads, prefilled keys]`, the prefill's sinks; False in heads that are not calibrated.
        first_token: bool `[batch, prefilled keys]`.
    """

    def __init__(
        self, heads: tuple[int, ...], settings: CalibrationSettings, valid: Tensor | None, span: Tensor | None = None
    ) -> None:
        self.span = span
        self.heads = list(heads)
        self.settings = settings
        self.valid = valid
        self.seen = 0
        self.sinks: Tensor | None = None
        self.first_token: Tensor | None = None

    def rewrite(self, maps: Tensor) -> Tensor:
        """Calibrated maps for the maps `[batch, heads, n, k]` of one call."""
        first_call, self.seen = self.seen == 0, self.seen + maps.shape[-2]
        if first_call:
            self.sinks = torch.stack([self._prefill_sinks(row, maps[row]) for row in range(len(maps))])
            real = torch.ones(maps.shape[0], maps.shape[-2]) if self.valid is None else self.valid
            self.first_token = real.cumsum(-1).eq(1) & real.bool()
        dropped = max(0, self.seen - maps.shape[-1])
        masks = []
        for mask in (self.sinks, self.first_token[:, None]):
            on_cache = mask[..., dropped:]
            on_cache = torch.nn.functional.pad(on_cache, (0, maps.shape[-1] - on_cache.shape[-1]))
            masks.append(on_cache.expand(*maps.shape[:2], -1)[:, self.heads].numpy())
        method = self.settings.method
        rewritten = rewrite(method.name, maps[:, self.heads].numpy(), *masks, **method.parameters)
        maps = maps.clone()
        maps[:, self.heads] = torch.from_numpy(rewritten).to(maps.dtype)
        return maps

    def _prefill_sinks(self, row: int, maps: Tensor) -> Tensor:
        sinks = torch.zeros(len(maps), maps.shape[-1], dtype=torch.bool)
        if self.settings.method.uses_span and self.span is not None:
            sinks[self.heads, : self.span.shape[1]] = self.span[row]
        if not self.settings.method.uses_sinks:
            return sinks
        n = maps.shape[-2]
        real = torch.ones(n, dtype=torch.bool) if self.valid is None else self.valid[row].bool()
        among_real = maps[self.heads][:, real][..., :n][..., real]
        # In a sliding window, the mean is over the queries that see the key: those that give it any weight.
        seen_by = (among_real > 0).sum(-2)
        means = among_real.sum(-2) / seen_by.clamp(min=1)
        means[seen_by < self.settings.min_queries] = 0
        places, settings = real.nonzero().squeeze(-1), replace(self.settings, min_queries=1)
        sinks[torch.tensor(self.heads, dtype=torch.long)[:, None], places] = find_sinks(means, int(real.sum()), settings)
        return sinks


@contextmanager
def naive_act(
    model: PreTrainedModel,
    heads: Mapping[int, tuple[int, ...]],
    settings: CalibrationSettings,
    valid: Tensor | None = None,
    span: Tensor | None = None,
) -> Iterator[dict[int, NaiveLayer]]:
    """Calibrate one prefill of the model and what follows on its cache, on full maps.

    Args:
        model: a model whose eager attention applies dropout to its maps, as nearly all do: that is where they are rewritten.
        heads: the calibrated heads of each layer.
        settings: what to do; `decode` is "prefill".
        valid: `[batch, n]`, 0 for padding of the prefill; None for none.
        span: bool `[batch, n]`, the tokens of a part of the prompt; none of them is padding.
    """
    layers = {layer: NaiveLayer(layer_heads, settings, valid, span) for layer, layer_heads in heads.items() if layer_heads}
    current: list[int] = []
    dropout, softmax = torch.nn.functional.dropout, torch.nn.functional.softmax

    def precise_softmax(scores: Tensor, dim: int = -1, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        """In the model's own dtype where that is float64: many models compute it in float32."""
        return softmax(scores, dim=dim, dtype=None if scores.dtype == torch.float64 else dtype, **kwargs)

    def rewriting_dropout(maps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if current and maps.ndim == 4 and current[-1] in layers:
            maps = layers[current[-1]].rewrite(maps)
        return dropout(maps, *args, **kwargs)

    modules = [
        module
        for module in model.modules()
        if "Attention" in type(module).__name__ and isinstance(getattr(module, "layer_idx", None), int)
    ]

    def enter(module: Any, args: Any) -> None:
        current.append(module.layer_idx)

    def leave(module: Any, args: Any, output: Any) -> None:
        current.pop()

    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values()
    before = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = "eager"
    try:
        with (
            patch("torch.nn.functional.dropout", rewriting_dropout),
            patch("torch.nn.functional.softmax", precise_softmax),
        ):
            yield layers
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation
        for handle in handles:
            handle.remove()
