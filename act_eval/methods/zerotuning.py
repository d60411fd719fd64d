"""ZeroTuning: the attention of the first token up in some heads and down in others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from act_eval.methods.base import check_range
from act_eval.methods.per_head_group import MethodOfGroups
from act_eval.methods.scale_first_token import ScaleFirstToken


@dataclass(frozen=True)
class ZeroTuning(MethodOfGroups):
    """Multiply the attention of the first token by a gamma of its own in each of two groups of heads, and normalise again.

    `A'[0] = gamma * A[0] / D` and `A'[t] = A[t] / D` with `D = 1 + (gamma - 1) * A[0]`; gamma is `gamma_up` in the heads of the
    first group, which do better with more, and `gamma_down` in those of the second, which do better with less. Looks for no
    sinks. `act-eval search` finds the groups: each head is scored both ways, and belongs where it does better, by accuracy or
    margin on labelled documents, or without labels by the entropy of the choices (`--objective`); then both gammas are chosen,
    each from a few values, unless they are given.

    Based on "ZeroTuning: Unlocking the Initial Token's Power to Enhance Large Language Models Without Training"
    (https://arxiv.org/abs/2505.11739), which scales the heads of one of the two kinds, the more frequent one.

    Args:
        gamma_up: for heads that like more, in [1, 1000].
        gamma_down: for heads that like less, in [0.001, 1].

    Raises:
        InputError: one is out of range.
    """

    name: ClassVar[str] = "zerotuning"
    uses_sinks: ClassVar[bool] = False
    uses_first_token: ClassVar[bool] = True
    uses_span: ClassVar[bool] = False
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "gamma_up": (1.25, 1.5, 2.0, 3.0, 5.0),
        "gamma_down": (0.8, 0.65, 0.5, 0.35, 0.2),
    }
    gamma_up: float = 2.0
    gamma_down: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "gamma_up", "what the attention of the first token is multiplied by where more helps", 1, 1000)
        check_range(self, "gamma_down", "what the attention of the first token is multiplied by where less helps", 0.001, 1)

    @property
    def parts(self) -> tuple[ScaleFirstToken, ...]:
        return ScaleFirstToken(self.gamma_up), ScaleFirstToken(self.gamma_down)
