"""Sinks get more attention instead of less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, tiny


@dataclass(frozen=True)
class Boost(SelectiveMethod):
    """Multiply the attention of sinks by beta > 1, and let the other keys of the row give it in proportion.

    `A'[s] = b * A[s]` with `b = min(beta, 1 / m)`: where a row has more than `1 / beta` of its mass `m` on sinks, they take
    all of it. The opposite of ACT, to see which way the effect of a sink goes.

    Args:
        beta: what the attention of a sink is multiplied by, above 1 and at most 1000.

    Raises:
        InputError: beta is out of range.
    """

    name: ClassVar[str] = "boost"
    beta: float = 1.5

    def __post_init__(self) -> None:
        check_range(self, "beta", "what the attention of a sink is multiplied by", 1, 1000, without_least=True)

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        mass, least = weights.sum(-1, keepdim=True), tiny(weights)
        most = (mass + other_mass) / mass.clamp(min=least)
        factor = most.clamp(max=self.beta)
        return weights * factor, (1 - (factor - 1) * mass / other_mass.clamp(min=least)).clamp(min=0)
