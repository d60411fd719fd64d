"""A part of the prompt gets more attention, by a constant added to its scores, as InstABoost and GUIDE do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, times_share


@dataclass(frozen=True)
class BiasSpan(SelectiveMethod):
    """Add a constant to the scores of the tokens of a part of the prompt, before the softmax. `act_span` names the part.

    On the map: `A'[s] = g * A[s] / D` for tokens of the part, and `A'[t] = A[t] / D` for all other keys, with `g = exp(bias)`
    and `D = 1 + (g - 1) * m`; `m` is the row's mass on the part. Looks for no sinks.

    Based on "Instruction Following by Boosting Attention of Large Language Models" (InstABoost,
    https://arxiv.org/abs/2506.13734), which multiplies the attention by g, and "Enhancing LLM's Instruction Following via
    Attention Guidance" (GUIDE, https://arxiv.org/abs/2409.19001), which adds the bias.

    Args:
        bias: what is added, in nats, in [-20, 20]; below 0 the part gets less attention, 0 changes nothing.

    Raises:
        InputError: bias is out of range.
    """

    name: ClassVar[str] = "bias-span"
    uses_sinks: ClassVar[bool] = False
    uses_span: ClassVar[bool] = True
    bias: float

    def __post_init__(self) -> None:
        check_range(self, "bias", "what is added to the scores of a part of the prompt, in nats", -20, 20)

    @property
    def changes_nothing(self) -> bool:
        return self.bias == 0

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        return times_share(weights, other_mass, math.exp(self.bias))
