"""Sinks give their attention to the first token, the one sink that every row knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range


@dataclass(frozen=True)
class ToFirstToken(SelectiveMethod):
    """Sinks keep the share beta of their attention, and the first token takes the rest; all other keys stay as they are.

    `A'[s] = beta * A[s]` for sinks, and `A'[0] = A[0] + (1 - beta) * m`; `m` is the row's mass on its sinks. A row that gives
    the first token no weight, since a sliding window hides it, stays as it is.

    Args:
        beta: share of its attention that a sink keeps, in [0, 1]; 1 changes nothing.

    Raises:
        InputError: beta is out of range.
    """

    name: ClassVar[str] = "to-first-token"
    uses_first_token: ClassVar[bool] = True
    beta: float = 0.4

    def __post_init__(self) -> None:
        check_range(self, "beta", "the share of attention that a sink keeps", 0, 1)

    @property
    def changes_nothing(self) -> bool:
        return self.beta == 1

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        on_first = (weights * first_token_mask).sum(-1, keepdim=True)
        freed = (1 - self.beta) * (weights.sum(-1, keepdim=True) - on_first)
        rewritten = torch.where(first_token_mask, weights + freed, weights * self.beta)
        return torch.where(on_first > 0, rewritten, weights), torch.ones_like(other_mass)
