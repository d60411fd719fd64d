"""What a method is: new attention weights for the rows of calibrated heads.

The attention function knows two kinds. Any `Method` can rewrite rows of an attention map. A `SelectiveMethod` says so from the
weights of a few keys alone, the attention sinks and perhaps the first token, and scales all others by one factor; its outputs
then follow from the base backend's without a map.

Rows are softmax weights over the keys. They may sum to less than 1 (learned sink logits, see `attention.calibration`), so that
a method must treat rows alike up to a factor, and keep their sums; but it may make all of a row 0 (`mask_head.py`).
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from act_eval.errors import InputError
from act_eval.value_checks import is_number


@dataclass(frozen=True)
class Method(ABC):
    """What becomes of the attention of a calibrated head.

    A subclass is a frozen dataclass whose fields, numbers, are its parameters.

    Attributes:
        name: what `act_method` and results call it.
        uses_sinks: whether it depends on which keys are attention sinks.
        uses_first_token: whether it depends on which key is the first token.
        uses_span: whether it is about a part of the prompt, which `act_span` names, or `span_tokens` in Python; a method with
            sinks is not.
        grid: values of parameters that a search tries where they are not given, by name; none for most methods.
    """

    name: ClassVar[str]
    uses_sinks: ClassVar[bool] = True
    uses_first_token: ClassVar[bool] = False
    uses_span: ClassVar[bool] = False
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods that it is made of, each for a group of heads of its own; itself alone for most methods."""
        return (self,)

    @property
    def marks_keys(self) -> bool:
        """Whether it depends on some keys that are marked for it: the sinks, or the tokens of a part of the prompt."""
        return self.uses_sinks or self.uses_span

    @property
    def parameters(self) -> dict[str, float]:
        """The values of the fields, by name."""
        return asdict(self)

    @property
    def changes_nothing(self) -> bool:
        """Whether rewritten rows equal the originals, whatever they are."""
        return False

    @property
    def constant_factor(self) -> float | None:
        """The number that sinks are multiplied by, where that is all, and other keys take what is freed in proportion."""
        return None

    @abstractmethod
    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        """Rewrite rows of an attention map.

        Args:
            attention: float32 or float64 `[..., n, k]`, 0 for keys that a query does not see.
            sinks: bool, broadcastable to `attention`, the sinks to calibrate; the first token is none of them. For a method
                that uses a part of the prompt, the tokens of that part.
            first_token_mask: bool, broadcastable to `attention`, True for the first token; for no key where a sliding cache has
                let the first token go.

        Returns:
            New weights of the same shape and dtype; rows sum to what they summed to, or to 0.
        """


class SelectiveMethod(Method):
    """A method that decides on sinks and first token, and scales all other keys of a row by one factor."""

    @abstractmethod
    def rewrite_selected(self, weights: Tensor, first_token_mask: Tensor, other_mass: Tensor) -> tuple[Tensor, Tensor]:
        """Decide on the new weights of the selected keys, and on the factor of all others.

        Args:
            weights: float32 or float64 `[..., n, selected]`, those of the sinks, or of the part of the prompt, and of the first
                token where the method uses it; 0 for keys that a query does not see, and for places that hold no selected key.
            first_token_mask: bool, broadcastable to `weights`, True for the first token.
            other_mass: `[..., n, 1]`, the sum over all other keys.

        Returns:
            New weights of the shape of `weights`, 0 for places without a key and keys that are not seen, and a factor
            `[..., n, 1]`.
        """

    def selected(self, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        """The keys that `rewrite_selected` decides on, from the masks that `rewrite` gets."""
        if self.marks_keys and self.uses_first_token:
            return sinks | first_token_mask
        return sinks if self.marks_keys else first_token_mask

    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        selected = attention * self.selected(sinks, first_token_mask)
        others = attention - selected
        # A sum: one minus the selected weights would lose its digits where little is left.
        other_mass = others.sum(-1, keepdim=True)
        weights, factor = self.rewrite_selected(selected, first_token_mask, other_mass)
        return torch.addcmul(weights, others, factor)


def check_range(method: Method, name: str, meaning: str, least: float, most: float, *, without_least: bool = False) -> None:
    """Check that a parameter of a method is a number in its range.

    Args:
        method: the method.
        name: of the parameter.
        meaning: what the number is, for the message.
        least, most: the range.
        without_least: whether `least` itself is out of range.

    Raises:
        InputError: it is no number, or out of range.
    """
    value = getattr(method, name)
    if not is_number(value) or not least <= value <= most or (without_least and value == least):
        expected = f"above {least:g} and at most {most:g}" if without_least else f"in [{least:g}, {most:g}]"
        raise InputError(
            f"{name} is {reprlib.repr(value)}, but for the method {method.name} it is {meaning}: give a number {expected}."
        )


def tiny(tensor: Tensor) -> float:
    """The smallest weight that counts as one in the arithmetic of a tensor: the smallest normal number of its dtype."""
    return torch.finfo(tensor.dtype).tiny


def times_share(weights: Tensor, other_mass: Tensor, times: float) -> tuple[Tensor, Tensor]:
    """Multiply selected keys by a number, and normalise the row again.

    Args:
        weights: `[..., n, selected]`.
        other_mass: `[..., n, 1]`, the sum over all other keys.
        times: above 0.

    Returns:
        As `SelectiveMethod.rewrite_selected`.
    """
    mass = weights.sum(-1, keepdim=True)
    factor = (mass + other_mass) / (times * mass + other_mass).clamp(min=tiny(other_mass))
    return times * weights * factor, factor
