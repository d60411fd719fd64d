"""The sinks that a prefill found, kept on the cache that it filled."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import transformers
from torch import Tensor
from transformers import Cache

from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.pairs import ChosenPairs
from act_eval.errors import InputError

CACHE_ATTRIBUTE = "act_sinks"


_FEW_PAIRS = 0.1


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
