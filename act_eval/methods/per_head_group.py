"""A method for each group of heads: ACT in some, and another method, or the same one otherwise, in others."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from act_eval.errors import InputError
from act_eval.methods.base import Method

SEPARATOR = "+"


class MethodOfGroups(Method):
    """A method that is made of `parts`, each for a group of heads of its own; the profile says which heads are in which."""

    @property
    def uses_sinks(self) -> bool:  # type: ignore[override]
        """Whether one of the methods does."""
        return any(part.uses_sinks for part in self.parts)

    @property
    def uses_first_token(self) -> bool:  # type: ignore[override]
        """Whether one of the methods does."""
        return any(part.uses_first_token for part in self.parts)

    @property
    def uses_span(self) -> bool:  # type: ignore[override]
        """Whether one of the methods does."""
        return any(part.uses_span for part in self.parts)

    @property
    def changes_nothing(self) -> bool:
        return all(part.changes_nothing for part in self.parts)

    def rewrite(self, attention: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
        """Raise InputError: rows alone do not say which head they are of."""
        raise InputError(f"the method {self.name} does one thing in some heads and another in others: take one of its methods.")


@dataclass(frozen=True)
class PerHeadGroup(MethodOfGroups):
    """Several methods at once, each in a group of heads of its own; the profile says which heads are in which group.

    On the command line their names stand side by side (`act_method=act+mask-head`), and so may the values of a parameter, one
    for each method that takes it: `act_gamma=2+0.5`. One value is for all of them.

    Args:
        methods: in the order of the groups, at least two; none of them has parts itself.

    Raises:
        InputError: there are fewer than two, or one has parts.
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(self.methods))
        if len(self.methods) < 2 or any(len(method.parts) > 1 for method in self.methods):
            raise InputError("a method per group of heads needs two methods or more, none of which has groups itself.")

    @property
    def parts(self) -> tuple[Method, ...]:
        return self.methods

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of the methods side by side."""
        return SEPARATOR.join(method.name for method in self.methods)

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of all methods' parameters, by name; side by side in a text where several methods take it."""
        values: dict[str, list[Any]] = {}
        for method in self.methods:
            for name, value in method.parameters.items():
                values.setdefault(name, []).append(value)
        return {
            name: of_methods[0] if len(of_methods) == 1 else _side_by_side(of_methods) for name, of_methods in values.items()
        }


def values_of_parts(name: str, value: Any, takers: int) -> Sequence[Any]:
    """Give each of the methods that take a parameter its value.

    Args:
        name: of the parameter.
        value: one for all, or a text with one for each of them.
        takers: how many methods take it, at least one.

    Raises:
        InputError: it is a text with another number of values.
    """
    if not isinstance(value, str) or SEPARATOR not in value:
        return [value] * takers
    values = [_number(part) for part in value.split(SEPARATOR)]
    if len(values) != takers:
        raise InputError(
            f"{name}={reprlib.repr(value)} has {len(values)} values, but {takers} of the methods "
            f"{'takes' if takers == 1 else 'take'} it: give one for all, or one for each."
        )
    return values


def parameter_names(methods: Sequence[type[Method]]) -> set[str]:
    """The names of the parameters that one of these methods takes."""
    return {parameter.name for method in methods for parameter in fields(method)}


def _side_by_side(values: Sequence[Any]) -> Any:
    """Values of several methods as one: the value itself where all have the same."""
    return values[0] if len(set(values)) == 1 else SEPARATOR.join(f"{value:.10g}" for value in values)


def _number(text: str) -> Any:
    """A number, or the text itself, of which the method says that it is none."""
    try:
        return float(text)
    except ValueError:
        return text
