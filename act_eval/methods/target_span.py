"""A part of the prompt gets a share of each row at least, as SpotLight wants it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, tiny


@dataclass(frozen=True)
class TargetSpan(SelectiveMethod):
    """Raise the attention of the tokens of a part of the prompt to the share psi of each row, where it is less.

    Where the row's mass `m` on the part is below psi, `A'[s] = A[s] * psi / m` for its tokens, and
    `A'[t] = A[t] * (1 - psi) / (1 - m)` for all other keys. Other rows stay as they are, and so do rows that see nothing of the
    part. `act_span` names the part. Looks for no sinks.

    Based on "Spotlight Your Instructions: Instruction-following with Dynamic Attention Steering"
    (https://arxiv.org/abs/2505.12025). Its bias of log(psi / m) leaves a share below psi, `psi / (1 + psi - m)`; here it is
    psi.

    Args:
        psi: the least share, above 0 and at most 0.99.

    Raises:
        InputError: psi is out of range.
    """

    name: ClassVar[str] = "target-span"
    uses_sinks: ClassVar[bool] = False
    uses_span: ClassVar[bool] = True
    psi: float

    def __post_init__(self) -> None:
        meaning = "the share of each row that a part of the prompt has at least"
        check_range(self, "psi", meaning, 0, 0.99, without_least=True)

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        mass, least = weights.sum(-1, keepdim=True), tiny(weights)
        total = mass + other_mass
        rises = (mass >= least) & (mass < self.psi * total)
        times = torch.where(rises, self.psi * total / mass.clamp(min=least), 1)
        factor = torch.where(rises, (1 - self.psi) * total / other_mass.clamp(min=least), 1)
        return weights * times, factor
