"""Heads are switched off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_eval.methods.base import Method


@dataclass(frozen=True)
class MaskHead(Method):
    """Make the output of a head zero: all its weights are 0, `A' = 0`, and no other key takes them. Looks for no sinks.

    A control, as in "Are Sixteen Heads Really Better than One?" (https://arxiv.org/abs/1905.10650): where heads switched off do
    as well as calibrated ones, what helped was that they did less, not where their attention went.
    """

    name: ClassVar[str] = "mask-head"
    uses_sinks: ClassVar[bool] = False

    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        return attention.new_zeros(attention.shape)
