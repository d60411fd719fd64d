"""Sinks lose all their attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.act import scale_sinks
from act_eval.methods.base import SelectiveMethod


@dataclass(frozen=True)
class Remove(SelectiveMethod):
    """Take sinks out of the row: they get no attention, and the other keys take it in proportion. ACT with beta 0.

    `A'[s] = 0` for sinks, and `A'[t] = A[t] / (1 - m)` for all other keys; `m` is the row's mass on its sinks. A row with no
    mass outside its sinks stays as it is.
    """

    name: ClassVar[str] = "remove"

    @property
    def constant_factor(self) -> float | None:
        return 0.0

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        return scale_sinks(weights, other_mass, 0)
