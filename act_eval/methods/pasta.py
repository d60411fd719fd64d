"""All but a part of the prompt gets less attention, as PASTA does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.base import SelectiveMethod, check_range, times_share


@dataclass(frozen=True)
class Pasta(SelectiveMethod):
    """Multiply the attention of all keys outside a part of the prompt by a small number, and normalise the row again.

    `A'[s] = A[s] / C` for tokens of the part, and `A'[t] = outside * A[t] / C` for all other keys, with
    `C = m + outside * (1 - m)`; `m` is the row's mass on the part. A row that gives it nothing stays as it is. `act_span` names
    the part. Looks for no sinks.

    Based on "Tell Your Model Where to Attend: Post-hoc Attention Steering for LLMs" (PASTA, https://arxiv.org/abs/2311.02262),
    where `outside` is alpha, and the heads are those that do best alone on other tasks: `act-eval search` finds such heads.

    Args:
        outside: what the attention of keys outside the part is multiplied by, in [0.0001, 1]; 1 changes nothing.

    Raises:
        InputError: outside is out of range.
    """

    name: ClassVar[str] = "pasta"
    uses_sinks: ClassVar[bool] = False
    uses_span: ClassVar[bool] = True
    outside: float = 0.01

    def __post_init__(self) -> None:
        meaning = "what the attention of keys outside the part of the prompt is multiplied by"
        check_range(self, "outside", meaning, 0.0001, 1)

    @property
    def changes_nothing(self) -> bool:
        return self.outside == 1

    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        return times_share(weights, other_mass, 1 / self.outside)
