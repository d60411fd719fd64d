"""Rows get softer as a whole, sinks or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from act_eval.methods.base import Method, check_range, tiny


@dataclass(frozen=True)
class Temperature(Method):
    """Divide the scores of a row by theta before the softmax, except the first token, which keeps its weight.

    On the map: `A'[t]` is proportional to `A[t] ** (1 / theta)` over all keys but the first token, which together keep their
    mass. Does ACT do more than soften attention? This softens it without looking for sinks. The paper's ablation has theta 1.1.

    Args:
        theta: the temperature, in [0.01, 100]; above 1 softens, below 1 sharpens, 1 changes nothing.

    Raises:
        InputError: theta is out of range.
    """

    name: ClassVar[str] = "temperature"
    uses_sinks: ClassVar[bool] = False
    uses_first_token: ClassVar[bool] = True
    theta: float = 1.1

    def __post_init__(self) -> None:
        check_range(self, "theta", "the temperature of a softmax", 0.01, 100)

    @property
    def changes_nothing(self) -> bool:
        return self.theta == 1

    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        others = attention.masked_fill(first_token_mask, 0)
        # Relative to the largest: a power of the weights themselves may be too small or too large to be told from 0.
        largest = others.amax(-1, keepdim=True).clamp(min=tiny(others))
        softened = (others / largest) ** (1 / self.theta)
        mass = others.sum(-1, keepdim=True) / softened.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(first_token_mask, attention, softened * mass)
