"""Sinks give their attention to the token that each query stands at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods import Method, check_range


@dataclass(frozen=True)
class ToOwnToken(Method):
    """Take a share of the attention of sinks, and give it to the query's own token, the last that it sees.

    Args:
        share: share of its attention that a sink loses, in [0, 1]; 0 changes nothing.

    Raises:
        InputError: share is out of range.
    """

    name: ClassVar[str] = "to-own-token"
    share: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "share", "the share of its attention that a sink loses", 0, 1)

    @property
    def changes_nothing(self) -> bool:
        return self.share == 0

    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        freed = attention * sinks * self.share
        seen = attention > 0
        own = seen & (seen.cumsum(-1) == seen.sum(-1, keepdim=True))
        return attention - freed + own * freed.sum(-1, keepdim=True)
