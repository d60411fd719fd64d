"""ACT as its definition says, on full attention maps in float64, with none of the project's code.

Everything in an attention module but the attention itself is the model's: projections, norms and rotations. Which keys a query
sees follows from the lengths of the prompts and the sliding windows in the model's config, not from the masks that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


class FullMaps:
    """Attention of prompts that are padded on the left: one prefill, then further tokens on its cache.

    Attributes:
        lengths: of the prompts, in tokens.
        heads: the calibrated heads of each layer; all heads of all layers by default.
        windows: of each layer: how many keys a query sees at most, or None for all.
        sinks: in each layer, for each prompt, bool `[heads, n]`: the keys of the prompt that are calibrated.
        margin: for each prompt, how near the mean of any key of a calibrated head comes to the threshold, as a share of it.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        lengths: Sequence[int],
        *,
        alpha: float,
        beta: float,
        keep: str = "first-sink",
        heads: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        self.windows = [config.sliding_window if kind == "sliding_attention" else None for kind in kinds]
        self.lengths, self.alpha, self.beta, self.keep, self.heads = lengths, alpha, beta, keep, heads
        self.seen = [0] * len(kinds)
        self.sinks: list[list[Tensor]] = [[] for _ in kinds]
        self.margin = [float("inf")] * len(lengths)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        """The attention function that transformers calls; key and value are what a cache still holds of them."""
        layer, width, n = module.layer_idx, max(self.lengths), query.shape[2]
        self.seen[layer] += n
        total = self.seen[layer]
        query_places, key_places = torch.arange(total - n, total), torch.arange(total - key.shape[2], total)
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1).double() for states in (key, value))
        scores = query.double() @ key.mT * scaling
        output = torch.zeros(query.shape, dtype=torch.float64)
        for row, length in enumerate(self.lengths):
            start = width - length
            seen = (key_places <= query_places[:, None]) & (key_places >= start)
            if self.windows[layer] is not None:
                seen &= query_places[:, None] - key_places < self.windows[layer]
            real = query_places >= start  # what padding computes is never looked at
            maps = scores[row][:, real].masked_fill(~seen[real], float("-inf")).softmax(-1)
            if total == width:
                self.sinks[layer].append(self._find_sinks(layer, row, maps[..., start:]))
            sinks = torch.zeros(maps.shape[0], total, dtype=torch.bool)
            sinks[:, start:width] = self.sinks[layer][row]
            output[row][:, real] = self._calibrated(maps, sinks[:, None, key_places]) @ value[row]
        return output.transpose(1, 2).to(query.dtype), None

    def _find_sinks(self, layer: int, row: int, maps: Tensor) -> Tensor:
        """The calibrated keys of maps `[heads, n, n]`: bool `[heads, n]`."""
        n = maps.shape[-1]
        seen_by = torch.arange(n, 0, -1).clamp(max=self.windows[layer] or n)
        means, threshold = maps.sum(-2) / seen_by, self.alpha / n
        sinks = means > threshold
        if self.heads is not None:
            others = [head for head in range(len(maps)) if head not in self.heads.get(layer, ())]
            sinks[others], means[others] = False, float("inf")
        self.margin[row] = min(self.margin[row], float((means / threshold - 1).abs().min()))
        for of_head in sinks:
            if self.keep == "first-token":
                of_head[0] = False
            elif of_head.any():
                of_head[of_head.nonzero()[0]] = False
        return sinks

    def _calibrated(self, maps: Tensor, sinks: Tensor) -> Tensor:
        """Rows of maps with their sinks at beta times their weight, and the rest raised in proportion."""
        on_sinks = (maps * sinks).sum(-1, keepdim=True)
        on_others = (maps * ~sinks).sum(-1, keepdim=True)
        calibrated = torch.where(sinks, self.beta * maps, maps * (1 + (1 - self.beta) * on_sinks / on_others))
        return torch.where(on_others > 0, calibrated, maps)


@contextmanager
def attention_function(name: str, function: AttentionFunction) -> Iterator[None]:
    """Let transformers find another function under the name of an attention backend."""
    ALL_ATTENTION_FUNCTIONS[name] = function  # above what is registered
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
