"""The attention of the first token up or down, as ZeroTuning does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, times_share


@dataclass(frozen=True)
class ScaleFirstToken(SelectiveMethod):
    """Multiply the attention of the first token by gamma, and normalise the row again. Looks for no sinks.

    `A'[0] = gamma * A[0] / D` and `A'[t] = A[t] / D` with `D = 1 + (gamma - 1) * A[0]`.

    Based on "ZeroTuning: Unlocking the Initial Token's Power to Enhance Large Language Models Without Training"
    (https://arxiv.org/abs/2505.11739), which finds a gamma for each task, above 1 for some and below 1 for others, and the
    heads that profit; here it is one number, and the heads are the profile's.

    Args:
        gamma: what the attention of the first token is multiplied by, in [0.001, 1000]; 1 changes nothing.

    Raises:
        InputError: gamma is out of range.
    """

    name: ClassVar[str] = "scale-first-token"
    uses_sinks: ClassVar[bool] = False
    uses_first_token: ClassVar[bool] = True
    gamma: float

    def __post_init__(self) -> None:
        check_range(self, "gamma", "what the attention of the first token is multiplied by", 0.001, 1000)

    @property
    def changes_nothing(self) -> bool:
        return self.gamma == 1

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        return times_share(weights, other_mass, self.gamma)
