"""The sinks that a prefill found, kept on the cache that it filled, for the decode steps that follow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as remembered
from functools import cached_property, wraps
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache

from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.pairs import ChosenHeads
from act_eval.errors import InputError

CACHE_ATTRIBUTE = "act_sinks"
_WITHOUT_SINKS = "act_class_without_sinks"


class MaskOfPrefill:
    """A mask of the keys of a prefill, asked for with the keys that came after it.

    It is made with room for many of these at once, so that most decode steps take a view of it.

    Args:
        mask: bool `[..., k]`.
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask

    def on_cache(self, keys: slice) -> Tensor:
        """The mask of some keys, by their places from the prefill's first one on: bool `[..., keys]`, False for later ones."""
        if self._mask.shape[-1] < keys.stop:
            self._mask = torch.nn.functional.pad(self._mask, (0, 2 * keys.stop - self._mask.shape[-1]))
        return self._mask[..., keys]

    def of_rows(self, rows: Tensor) -> MaskOfPrefill:
        """The mask of some rows, int64 `[new batch]`, with as much room."""
        return MaskOfPrefill(self._mask[rows])


@dataclass(frozen=True)
class LayerSinks:
    """What a prefill found in one layer.

    Attributes:
        sinks: bool `[batch, heads, k]` by key index of the prefill; False in heads that are not calibrated. For methods that
            use a part of the prompt, its tokens.
        first_token: bool `[batch, k]`, True for the first token of each row.
        calibrated: bool `[batch, heads]`.
        settings, heads: what they were found with.
        limits: how much is computed at once.
    """

    sinks: Tensor
    first_token: Tensor
    calibrated: Tensor
    settings: CalibrationSettings
    heads: tuple[tuple[int, ...], ...]
    limits: ComputeLimits

    @cached_property
    def to_change(self) -> ChosenHeads:
        """The heads in which what follows is calibrated: those with sinks, or all that a method without sinks calibrates."""
        return ChosenHeads(self.sinks.any(-1) if self.settings.method.marks_keys else self.calibrated)

    @cached_property
    def to_compute(self) -> ChosenHeads:
        """The heads that decode steps compute anew: those that change.

        Where heads with sinks are not few, it is all heads: that saves the base backend's work, and costs less than picking
        them out of the cache at every step.
        """
        if self.settings.method.marks_keys and self.to_change.share >= self.limits.share_of_heads_to_pick:
            return ChosenHeads(torch.ones_like(self.to_change.mask))
        return self.to_change

    def select(self, rows: Tensor) -> LayerSinks:
        """Take some rows, int64 `[new batch]`, in any order and number, without waiting for the device that has them."""
        rows, k = rows.to(self.sinks.device), self.sinks.shape[-1]
        sinks, first_token = with_room = tuple(mask.of_rows(rows) for mask in self._with_room)
        selected = replace(
            self,
            sinks=sinks.on_cache(slice(k)),
            first_token=first_token.on_cache(slice(k))[:, 0],
            calibrated=self.calibrated[rows],
        )
        vars(selected).update(to_compute=self.to_compute.of_rows(rows), _with_room=with_room)
        return selected

    def crop(self, length: int) -> LayerSinks:
        """Forget the keys from a length on, in whose place others may come."""
        if length >= self.sinks.shape[-1]:
            return self
        return replace(self, sinks=self.sinks[..., :length], first_token=self.first_token[:, :length])

    def on_cache(self, heads: Tensor | None, dropped: int, keys: int) -> tuple[Tensor, Tensor]:
        """Find sinks and first token by key index of the cache: bool `[batch, some heads, keys]` and `[batch, 1, keys]`.

        Args:
            heads: int64 `[some heads]`, or None for all.
            dropped: how many of the oldest keys a sliding cache has let go.
            keys: how many keys the cache and the new tokens have.
        """
        present = slice(dropped, dropped + keys)
        sinks, first_token = (mask.on_cache(present) for mask in self._with_room)
        return sinks if heads is None else sinks.index_select(1, heads), first_token

    @cached_property
    def _with_room(self) -> tuple[MaskOfPrefill, MaskOfPrefill]:
        return MaskOfPrefill(self.sinks), MaskOfPrefill(self.first_token[:, None])


def keep_sinks(cache: Cache, layer: int, group: int, sinks: LayerSinks) -> None:
    """Keep what a prefill found in a group of heads of a layer on the cache that it filled, for as long as that is used.

    Where the cache's own methods take, order or repeat its rows, or let its last keys go, the same is done to what is kept.
    """
    if CACHE_ATTRIBUTE not in vars(cache):
        cls: Any = type(cache)
        cache.__class__ = _with_moving_sinks(cls)
        setattr(cache, CACHE_ATTRIBUTE, {})
    getattr(cache, CACHE_ATTRIBUTE)[layer, group] = sinks


def kept_sinks(
    cache: Cache | None,
    layer: int,
    group: int,
    batch: int,
    settings: CalibrationSettings,
    heads: tuple[tuple[int, ...], ...],
) -> LayerSinks:
    """What the prefill of a cache found in a group of heads of a layer, for a batch that continues it.

    A batch that is a multiple of the prefill's holds several continuations of each prompt (choices, beams), side by side.

    Args:
        cache: the cache of a decode step.
        layer: layer index.
        group: number of the group.
        batch: number of rows.
        settings, heads: what the step is calibrated with.

    Raises:
        RuntimeError: the cache holds no sinks of this layer, or they were found with other settings or heads, or the batch is
            no multiple of the prefill's.
    """
    kept: LayerSinks | None = getattr(cache, CACHE_ATTRIBUTE, {}).get((layer, group))
    if kept is None:
        raise RuntimeError(
            "the cache was filled outside this ACT context, so the sinks of its prompt are unknown: "
            'run the prompt inside the context too, or use decode="row".'
        )
    if kept.settings != settings or kept.heads != heads:
        raise RuntimeError("the cache was filled with other ACT settings or heads: run the prompt in this context too.")
    repeats, remainder = divmod(batch, kept.sinks.shape[0])
    if remainder:
        raise RuntimeError(
            f"the cache was filled by {kept.sinks.shape[0]} rows and now has {batch}: "
            "change its rows with methods of its own, such as `batch_select_indices`, which take their sinks along."
        )
    return kept if repeats == 1 else kept.select(torch.arange(batch) // repeats)


def select_cache_rows(cache: Cache, rows: Tensor) -> Cache:
    """Make a cache that holds some rows of another one, in any order and number, with the sinks that the prefill found.

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
    return selected


@remembered
def _with_moving_sinks(cls: Any) -> Any:
    """A class of caches as it is, but that its methods which change rows or keys do the same to the sinks.

    A class, and not functions on one cache, which copies of it would share.
    """
    if hasattr(cls, _WITHOUT_SINKS):
        return cls
    moving = {"reorder_cache": _select, "batch_select_indices": _select, "batch_repeat_interleave": _repeat, "crop": _crop}
    methods = {name: _followed(getattr(cls, name), move) for name, move in moving.items() if hasattr(cls, name)}
    described = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    pickled = {"__reduce__": lambda self: (_new_with_moving_sinks, (cls,), vars(self))}
    return type(cls.__name__, (cls,), {**described, **methods, **pickled, _WITHOUT_SINKS: cls})


def _new_with_moving_sinks(cls: Any) -> Any:
    return object.__new__(_with_moving_sinks(cls))


def _followed(method: Callable[..., Any], move: Callable[[Any, LayerSinks, Any], LayerSinks]) -> Callable[..., Any]:
    """A method of caches of one argument, after which the sinks are moved."""

    @wraps(method)
    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        (argument,) = (*args, *kwargs.values())
        found = getattr(self, CACHE_ATTRIBUTE, {})
        # Anew, since copies of a cache share what they hold.
        setattr(self, CACHE_ATTRIBUTE, {place: move(self, sinks, argument) for place, sinks in found.items()})
        return result

    return moved


def _select(cache: Any, sinks: LayerSinks, rows: Any) -> LayerSinks:
    rows = torch.as_tensor(rows, device=sinks.sinks.device)
    return sinks.select(rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows)


def _repeat(cache: Any, sinks: LayerSinks, repeats: int) -> LayerSinks:
    return sinks.select(torch.arange(len(sinks.sinks)).repeat_interleave(repeats))


def _crop(cache: Any, sinks: LayerSinks, _: int) -> LayerSinks:
    return sinks.crop(int(cache.get_seq_length()))
