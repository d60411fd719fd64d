"""The points of a sweep: every combination of the values of its axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.utils import handle_arg_string

from act_eval.errors import InputError, SettingError
from act_eval.harness.arguments import ACTArguments, unknown_arguments
from act_eval.short_names import cut_names
from act_eval.value_checks import is_number

NONE = "none"  # what None is called, which lm-eval makes of this word
_LONGEST_VALUE = 30  # in figures and on a terminal


@dataclass(frozen=True)
class Axis:
    """An argument of act-hf that varies.

    Args:
        name: the argument, without `act_`: method, beta, alpha, sink_share, ...
        values: what it takes; None is kept as `none`, since a method that knows nothing of the argument has no value.

    Raises:
        InputError: there is no value, one is given twice, or the argument cannot vary.
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(NONE if value is None else value for value in self.values))
        if not self.name or not self.values:
            raise SettingError("vary", "needs a name and its values: write it as beta=0,0.2,0.4.")
        if self.name == "base":
            raise SettingError("vary", "base: the baseline has the same backend as ACT, so that it cannot vary within a sweep.")
        twice = [value for number, value in enumerate(self.values) if value in self.values[:number]]
        if twice:
            raise SettingError("vary", f"{self.name} has the value {twice[0]} twice: give each value once.")

    @classmethod
    def parse(cls, text: str) -> Axis:
        """From `beta=0,0.2,0.4`; values are read as lm-eval reads those of `--model_args`."""
        name, _, values = text.partition("=")
        return cls(
            name.strip().removeprefix("act_"), tuple(handle_arg_string(part.strip()) for part in values.split(",") if part)
        )

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, which have places on a scale."""
        return all(map(is_number, self.values))

    def texts(self) -> dict[Any, str]:
        """By value, what it is called where there is little room."""
        names = cut_names(map(str, self.values), _LONGEST_VALUE)
        return {value: names[str(value)] for value in self.values}


@dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
        values: by axis; without the axes that its method knows nothing of.
        arguments: what is run.
    """

    values: Mapping[str, Any]
    arguments: ACTArguments

    @property
    def label(self) -> str:
        """What varies, in a few words: `act, beta 0.4`."""
        return ", ".join(label(name, value) for name, value in self.values.items())


def label(axis: str, value: Any) -> str:
    """A value of an axis in words: names say themselves what they are, anything else needs that of its axis."""
    return value if isinstance(value, str) and value != NONE else f"{axis} {value}"


def points(model_args: Mapping[str, Any], axes: Sequence[Axis]) -> list[Point]:
    """All combinations, in the order of the values, the last axis fastest.

    A method gets the arguments that it knows: the parameters of other methods, and what says which keys are sinks where it does
    not use them, are left out, and combinations that become equal are one.

    Args:
        model_args: everything that `act-hf` takes, for what does not vary.
        axes: what varies.

    Raises:
        InputError: an axis is given twice or is fixed as well, an argument is unknown or out of range, no method of the grid
            takes it, or there is no point to compare with the baseline.
    """
    names = [axis.name for axis in axes]
    for axis in axes:
        if names.count(axis.name) > 1:
            raise SettingError("vary", f"{axis.name} is given twice: give all its values at once.")
        if f"act_{axis.name}" in model_args:
            raise InputError(f"act_{axis.name} is among the model arguments and varies as well: give it in one place.")
    fixed = {key.removeprefix("act_"): value for key, value in model_args.items() if key.startswith("act_")}
    combinations = [
        {**fixed, **dict(zip(names, values, strict=True))} for values in itertools.product(*(axis.values for axis in axes))
    ]
    methods = {str(combination.get("method", "act")) for combination in combinations}
    found: dict[tuple[tuple[str, Any], ...], Point] = {}
    for combination in combinations:
        unknown = unknown_arguments(str(combination.get("method", "act")), methods)
        known = {name: value for name, value in combination.items() if name not in unknown}
        given = {f"act_{name}": None if name in names and value == NONE else value for name, value in known.items()}
        arguments = ACTArguments.from_model_args(given)
        values = {name: known[name] for name in names if name in known}
        found.setdefault(tuple(values.items()), Point(values, arguments))
    if all(point.arguments.changes_nothing for point in found.values()):
        raise InputError("every point of the sweep changes nothing, so there is nothing to compare: choose other values.")
    if len(found) == 1:
        raise InputError("the sweep has one point: vary something that its method takes, with two values or more.")
    return list(found.values())
