"""Which keys each query sees, read off the mask that the base backend gets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32

_MASK_ELEMENTS = 2**22


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
        dtype: of the arithmetic.
    """

    hidden: Tensor | None
    padding: Tensor | None
    additive: Tensor | None
    first: int
    keys: int
    causal: bool
    real: Tensor
    all_real: bool
    dtype: torch.dtype

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
        dtype = at_least_float32(query[..., :0]).dtype
        own = torch.arange(first, first + n, device=query.device)
        keys = torch.arange(k, device=query.device)
        if attention_mask is None or attention_mask.ndim == 2:
            if attention_mask is None and (window is None or window >= k):
                real = torch.ones(1, n, dtype=torch.bool, device=query.device)
                return cls(None, None, None, first, k, True, real, True, dtype)
            visible = keys <= own[:, None]
            if window is not None:
                visible &= keys > own[:, None] - window
            if attention_mask is None:
                real = torch.ones(1, n, dtype=torch.bool, device=query.device)
                return cls(~visible[None, None], None, None, first, k, True, real, True, dtype)
            attention_mask = (visible & attention_mask[:, None, :].bool())[:, None]
        attention_mask = attention_mask[..., :k]
        if attention_mask.dtype == torch.bool:
            visible, additive = attention_mask, None
        else:
            visible = attention_mask > torch.finfo(attention_mask.dtype).min / 2
            adds_nothing = bool(((attention_mask == 0) | ~visible).all())
            additive = None if adds_nothing else attention_mask.expand(query.shape[0], -1, -1, -1)
        visible = visible.expand(query.shape[0], -1, -1, -1)
        real = visible[:, :, torch.arange(n, device=query.device), own].any(1)
        padding = None if additive is not None else _key_padding(visible, real, first)
        if padding is not None:
            return cls(None, padding, None, first, k, True, real, bool(real.all()), dtype)
        causal = not bool((visible & (keys > own[:, None])).any())
        return cls(~visible, None, additive, first, k, causal, real, bool(real.all()), dtype)

    @cached_property
    def padding_bias(self) -> Tensor:
        """What to add to the scores of keys so that padding gets no weight: `[batch, k]`."""
        assert self.padding is not None
        return self.padding.to(self.dtype) * _least(self.dtype)

    @cached_property
    def hidden_keys(self) -> Tensor:
        """As `hidden`, but never None: bool `[batch or 1, 1 or heads, n, k]`. For decode steps, where n is small."""
        if self.hidden is not None:
            return self.hidden
        own = torch.arange(self.first, self.first + self.real.shape[-1], device=self.real.device)
        later = (torch.arange(self.keys, device=own.device) > own[:, None])[None, None]
        return later if self.padding is None else later | self.padding[:, None, None]

    @cached_property
    def bias(self) -> Tensor:
        """What to add to scores so that keys that are not seen get no weight, of the shape of `hidden_keys`."""
        bias = self.hidden_keys.to(self.dtype) * _least(self.dtype)
        return bias if self.additive is None else torch.where(self.hidden_keys, bias, self.additive.to(self.dtype))

    @cached_property
    def first_token(self) -> Tensor:
        """True for the first token of a prefill: bool `[batch or 1, k]`."""
        mask = torch.zeros(len(self.real), self.keys, dtype=torch.bool, device=self.real.device)
        is_first = self.real & (self.real.cumsum(-1) == 1)
        mask[:, self.first : self.first + is_first.shape[-1]] = is_first
        return mask

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


def _key_padding(visible: Tensor, real: Tensor, first: int) -> Tensor | None:
    """Which keys are padding, bool `[batch, k]`, if a mask is nothing but causality and padding, and else None.

    Args:
        visible: bool `[batch, 1 or heads, n, k]`.
        real: bool `[batch, n]`, False for queries that are padding.
        first: key index of the first query.
    """
    batch, heads, n, k = visible.shape
    padding = ~visible[:, 0, -1]
    keys = torch.arange(k, device=visible.device)
    for rows in torch.arange(first, first + n, device=visible.device).split(max(1, _MASK_ELEMENTS // (batch * heads * k))):
        block = visible[:, :, rows - first]
        expected = (keys <= rows[:, None]) & ~padding[:, None, None]
        if bool(((block != expected) & real[:, None, rows - first, None]).any()):
            return None
    return padding


def _least(dtype: torch.dtype) -> float:
    """A score so low that a softmax gives it 0, and that two of them still have a finite sum."""
    return torch.finfo(dtype).min / 2


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
