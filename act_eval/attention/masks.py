"""Which keys each query sees, read off the mask that the base backend gets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32, keys_in_window
from act_eval.attention.limits import DEFAULT_LIMITS, ComputeLimits

_HIDES = 9e3  # how far below others an additive mask hides a key


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which keys the queries of one forward pass see.

    Attributes:
        query_offset: key index of the first query; query `i` stands at key `query_offset + i`.
        keys: number of keys, `k`.
        real: bool `[batch or 1, n]`, False for queries that are padding.
        all_real: whether no query is padding.
        dtype: of the arithmetic, float32 or float64.
        causal: whether no query sees a key after itself.
        hidden: bool `[batch or 1, 1 or heads, n, k]`, True for keys that a query does not see, or None for "every key up to
            the query's own that is not padding".
        padding: bool `[batch, k]`, True for keys that are padding, where `hidden` is None; None if there are none.
        additive: float mask `[batch, 1 or heads, n, k]` that is added to the scores, or None.
    """

    query_offset: int
    keys: int
    real: Tensor
    all_real: bool
    dtype: torch.dtype
    causal: bool = True
    hidden: Tensor | None = None
    padding: Tensor | None = None
    additive: Tensor | None = None

    @classmethod
    def from_mask(
        cls,
        attention_mask: Tensor | None,
        query: Tensor,
        key: Tensor,
        query_offset: int = 0,
        window: int | None = None,
        limits: ComputeLimits = DEFAULT_LIMITS,
    ) -> Visibility:
        """Read off the mask that the base backend gets.

        Args:
            attention_mask: None (causal), bool or additive float `[batch, 1 or heads, n, k]`, or bool `[batch, k]`. A query
                does not see keys whose entries are 9e3 or more below the largest of its row, since a softmax leaves them no
                weight, and it sees none where the largest is below -9e3.
            query: `[batch, heads, n, head_dim]`.
            key: `[batch, key/value heads, k, head_dim]`.
            query_offset: key index of the first query.
            window: sliding window length for backends whose mask does not hold it, or None.
            limits: how much of the mask is compared at once.
        """
        n, k = query.shape[-2], key.shape[-2]
        own = torch.arange(query_offset, query_offset + n, device=query.device)
        keys = torch.arange(k, device=query.device)
        shape: dict[str, Any] = {"query_offset": query_offset, "keys": k, "dtype": at_least_float32(query[..., :0]).dtype}
        if attention_mask is None:
            real = torch.ones(1, n, dtype=torch.bool, device=query.device)
            hidden = None if window is None or window >= k else ~keys_in_window(own, keys, window)[None, None]
            return cls(**shape, real=real, all_real=True, hidden=hidden)
        if attention_mask.ndim == 2:
            attention_mask = (keys_in_window(own, keys, window) & attention_mask[:, None, :].bool())[:, None]
        attention_mask = attention_mask[..., :k]
        additive = None
        if attention_mask.dtype == torch.bool:
            visible = attention_mask
        else:
            visible = attention_mask > torch.finfo(attention_mask.dtype).min / 2
            adds_nothing = bool(((attention_mask == 0) | ~visible).all())
            if not adds_nothing:
                visible = _leaves_weight(attention_mask)
            additive = None if adds_nothing else attention_mask.expand(query.shape[0], -1, -1, -1)
        visible = visible.expand(query.shape[0], -1, -1, -1)
        real = visible[:, :, torch.arange(n, device=query.device), own].any(1)
        shape |= {"real": real, "all_real": bool(real.all())}
        padding = None if additive is not None else _key_padding(visible, real, query_offset, limits)
        if padding is not None:
            return cls(**shape, padding=padding)
        causal = not bool((visible & (keys > own[:, None])).any())
        return cls(**shape, causal=causal, hidden=~visible, additive=additive)

    @cached_property
    def padding_bias(self) -> Tensor:
        """What to add to the scores of keys so that padding gets no weight: `[batch, k]`."""
        assert self.padding is not None
        return self.padding.to(self.dtype) * lowest_score(self.dtype)

    @cached_property
    def hidden_keys(self) -> Tensor:
        """As `hidden`, but never None: bool `[batch or 1, 1 or heads, n, k]`. For decode steps, where n is small."""
        if self.hidden is not None:
            return self.hidden
        own = torch.arange(self.query_offset, self.query_offset + self.real.shape[-1], device=self.real.device)
        later = (torch.arange(self.keys, device=own.device) > own[:, None])[None, None]
        return later if self.padding is None else later | self.padding[:, None, None]

    @cached_property
    def bias(self) -> Tensor:
        """What to add to scores so that keys that are not seen get no weight, of the shape of `hidden_keys`."""
        bias = self.hidden_keys.to(self.dtype) * lowest_score(self.dtype)
        return bias if self.additive is None else torch.where(self.hidden_keys, bias, self.additive.to(self.dtype))

    @cached_property
    def first_token(self) -> Tensor:
        """True for the first token of a prefill: bool `[batch or 1, k]`."""
        mask = torch.zeros(len(self.real), self.keys, dtype=torch.bool, device=self.real.device)
        is_first = self.real & (self.real.cumsum(-1) == 1)
        mask[:, self.query_offset : self.query_offset + is_first.shape[-1]] = is_first
        return mask

    @cached_property
    def seen_by(self) -> Tensor:
        """How many real queries see each key: int64 `[batch or 1, 1 or heads, k]`."""
        if self.hidden is not None:
            return (~self.hidden & self.real[:, None, :, None]).sum(-2)
        # Of the real queries, those from the key's own on.
        earlier = self.real.cumsum(-1) - self.real.long()
        seen_by = self.real.sum(-1, keepdim=True).expand(-1, self.keys).clone()
        seen_by[:, self.query_offset : self.query_offset + self.real.shape[-1]] -= earlier
        if self.padding is not None:
            seen_by.masked_fill_(self.padding, 0)
        return seen_by[:, None]

    def places_of_rows(self, rows: Tensor) -> Tensor:
        """Where the entries of batch rows are in `real`, `first_token` and `seen_by`: int64, of the shape of `rows`."""
        return rows if self.real.shape[0] > 1 else torch.zeros_like(rows)

    def places_of_heads(self, heads: Tensor) -> Tensor:
        """Where the entries of query heads are in `hidden` and `seen_by`: int64, of the shape of `heads`."""
        return heads if self.hidden is not None and self.hidden.shape[1] > 1 else torch.zeros_like(heads)


class LastVisibility:
    """The visibility of the last mask, remembered, since all layers of a forward pass get the same mask object.

    It is not remembered from one forward pass to the next, before which a mask may have been written over.
    """

    def __init__(self, limits: ComputeLimits) -> None:
        self._limits = limits
        self._place: tuple[int, int] | None = None
        self._shape: tuple[Any, ...] | None = None
        self._mask: Any = None
        self._visibility: Visibility | None = None

    def __call__(
        self,
        place: tuple[int, int],
        attention_mask: Any,
        query: Tensor,
        key: Tensor,
        query_offset: int,
        window: int | None,
        part: tuple[slice, slice] | None = None,
    ) -> Visibility:
        """The visibility of a mask, which may be a block mask of flex_attention; see `Visibility.from_mask`.

        Args:
            place: the layer, and the group of its heads, which are asked about in ascending order in a forward pass: where it
                is no later than the last one, another pass has begun.
            attention_mask, query, key, query_offset, window: as there.
            part: the queries and the keys of a mask of four dimensions that `query` and `key` are; all by default.
        """
        shape = (query.shape[0], query.shape[-2], key.shape[-2], query_offset, window, query.device, part)
        if attention_mask is not None and self._place is not None and place <= self._place:
            self._visibility = None
        self._place = place
        if self._visibility is None or self._mask is not attention_mask or self._shape != shape:
            mask = _dense_mask(attention_mask, query, key) if part is None else attention_mask[..., part[0], part[1]]
            self._visibility = Visibility.from_mask(mask, query, key, query_offset, window, self._limits)
            self._mask, self._shape = attention_mask, shape
        return self._visibility


def lowest_score(dtype: torch.dtype) -> float:
    """A score so low that a softmax gives it 0, and that two of them still have a finite sum."""
    return torch.finfo(dtype).min / 2


def _leaves_weight(additive: Tensor) -> Tensor:
    """Which keys an additive mask leaves some weight: bool of its shape.

    Biases of scores are smaller than the numbers that hide keys, the smallest of which in use is -1e4.
    """
    largest = additive.amax(-1, keepdim=True)
    return (additive > largest - _HIDES) & (largest > -_HIDES)


def _key_padding(visible: Tensor, real: Tensor, query_offset: int, limits: ComputeLimits) -> Tensor | None:
    """Which keys are padding, bool `[batch, k]`, if a mask is nothing but causality and padding, and else None.

    Args:
        visible: bool `[batch, 1 or heads, n, k]`.
        real: bool `[batch, n]`, False for queries that are padding.
        query_offset: key index of the first query.
        limits: how much of the mask is compared at once.
    """
    batch, heads, n, k = visible.shape
    padding = ~visible[:, 0, -1]
    keys = torch.arange(k, device=visible.device)
    own = torch.arange(query_offset, query_offset + n, device=visible.device)
    for rows in own.split(max(1, limits.mask_elements // (batch * heads * k))):
        block = visible[:, :, rows - query_offset]
        expected = (keys <= rows[:, None]) & ~padding[:, None, None]
        if bool(((block != expected) & real[:, None, rows - query_offset, None]).any()):
            return None
    return padding


def _dense_mask(attention_mask: Any, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask that a backend got, read out where it is a block mask of flex_attention: bool `[batch, 1, n, k]`."""
    if attention_mask is None or isinstance(attention_mask, Tensor):
        return attention_mask
    from torch.nn.attention.flex_attention import create_mask

    return create_mask(attention_mask.mask_mod, query.shape[0], 1, query.shape[-2], key.shape[-2], device=str(query.device))
