"""ACT: sinks keep the share beta of their attention, and the other keys of the row take the rest in proportion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, tiny


@dataclass(frozen=True)
class ToOtherTokens(SelectiveMethod):
    """ACT itself: `A'[s] = beta * A[s]` for sinks, and `A'[t] = A[t] * (1 + (1 - beta) * m / (1 - m))` for all other keys.

    `m` is the row's mass on its sinks. A row with no mass outside its sinks stays as it is.

    Based on "Unveiling and Harnessing Hidden Attention Sinks" (https://arxiv.org/abs/2406.15765), section 4.

    Args:
        beta: share of its attention that a sink keeps, in [0, 1]; 1 changes nothing.

    Raises:
        InputError: beta is out of range.
    """

    name: ClassVar[str] = "act"
    beta: float = 0.4

    def __post_init__(self) -> None:
        check_range(self, "beta", "the share of attention that a sink keeps", 0, 1)

    @property
    def changes_nothing(self) -> bool:
        return self.beta == 1

    @property
    def constant_factor(self) -> float | None:
        return self.beta

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        return scale_sinks(weights, other_mass, self.beta)


def scale_sinks(weights: Tensor, other_mass: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """Let sinks keep a share of their weights, and all other keys of a row take what is freed in proportion.

    Args:
        weights: `[..., n, sinks]`.
        other_mass: `[..., n, 1]`, the sum over all other keys.
        kept: the share.

    Returns:
        As `SelectiveMethod.rewrite_selected`.
    """
    mass, least = weights.sum(-1, keepdim=True), tiny(weights)
    share = torch.where(other_mass >= least, kept, torch.ones_like(other_mass))
    return weights * share, 1 + (1 - share) * mass / other_mass.clamp(min=least)
