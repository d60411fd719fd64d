"""Methods by name: those of this package, and those that installed packages announce."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from act_eval.errors import InputError
from act_eval.methods.base import Method
from act_eval.methods.per_head_group import SEPARATOR, PerHeadGroup, parameter_names, values_of_parts
from act_eval.near_names import did_you_mean

ENTRY_POINTS = "act_eval.methods"


def available_methods() -> dict[str, type[Method]]:
    """The methods of this package and of installed ones, by name; ACT comes first.

    Raises:
        InputError: an installed package announces a method that cannot be loaded, or whose name is taken.
    """
    methods = {**built_in_methods(), **_installed_methods()}
    return {name: methods[name] for name in sorted(methods, key=lambda name: (name != "act", name))}


@cache
def built_in_methods() -> Mapping[str, type[Method]]:
    """The methods of the modules of this package, by name."""
    modules = [import_module(f"{__package__}.{module.name}") for module in iter_modules([str(Path(__file__).parent)])]
    return {
        cls.name: cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Method) and isinstance(getattr(cls, "name", None), str)
    }


@cache
def _installed_methods() -> Mapping[str, type[Method]]:
    """The methods that installed packages announce, by name."""
    homes = {name: f"{cls.__module__}:{cls.__qualname__} of act-eval" for name, cls in built_in_methods().items()}
    methods: dict[str, type[Method]] = {}
    for entry_point in entry_points(group=ENTRY_POINTS):
        cls, home = _load(entry_point), _home(entry_point)
        if cls is methods.get(cls.name):
            continue
        if cls.name in homes:
            raise InputError(f"two methods are called {cls.name}, {homes[cls.name]} and {home}: rename one, or uninstall it.")
        methods[cls.name], homes[cls.name] = cls, home
    return methods


def _load(entry_point: EntryPoint) -> type[Method]:
    """The class of an entry point. Raises InputError where it gives none that is a method."""
    home = _home(entry_point)
    try:
        cls = entry_point.load()
    except Exception as error:  # whatever a foreign module raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the method {home} cannot be loaded ({reason}): mend or uninstall its package.") from error
    if not inspect.isclass(cls) or not issubclass(cls, Method) or inspect.isabstract(cls):
        raise InputError(f"{home} is no method, a subclass of act_eval.methods.Method: mend or uninstall its package.")
    if not isinstance(getattr(cls, "name", None), str):
        raise InputError(f"the method {home} has no name: mend or uninstall its package.")
    if SEPARATOR in cls.name:
        raise InputError(
            f"the method {home} is called {cls.name}, but {SEPARATOR} stands between the names of several: mend or uninstall "
            "its package."
        )
    return cls


def _home(entry_point: EntryPoint) -> str:
    """Where a method of an entry point comes from, for messages."""
    return f"{entry_point.value} of {entry_point.dist.name if entry_point.dist else 'an unknown package'}"


def classes_of(name: str) -> list[type[Method]]:
    """The classes of a method by name: one, or one for each group of heads (`act+mask-head`); none where a name is unknown."""
    known = available_methods()
    names = name.split(SEPARATOR)
    return [known[of_part] for of_part in names] if set(names) <= set(known) else []


def make_method(method: str | Method, parameters: Mapping[str, Any]) -> Method:
    """Make a method with these parameters, and with its own defaults for the others.

    Args:
        method: its name, those of several for groups of heads (`act+mask-head`), or a method whose parameters are replaced.
        parameters: by name.

    Raises:
        InputError: there is no such method, it has no such parameter or lacks one, or a value is out of range.
    """
    if isinstance(method, PerHeadGroup):
        return _per_head_group(method.name, method.methods, parameters)
    if isinstance(method, str) and SEPARATOR in method:
        return _per_head_group(method, method.split(SEPARATOR), parameters)
    known = available_methods()
    cls = type(method) if isinstance(method, Method) else known.get(method) if isinstance(method, str) else None
    if cls is None:
        near = did_you_mean(str(method), known)
        raise InputError(f"there is no method {method!r}{near}: choose one of {', '.join(known)}.")
    taken = {field.name: field for field in fields(cls)}
    for name in parameters:
        if name not in taken:
            of_others = [other.name for other in known.values() if name in {field.name for field in fields(other)}]
            takes = f"takes {', '.join(taken)}, not {name}" if taken else f"takes no parameters, so no {name}"
            belongs = f", which belongs to {', '.join(of_others)}" if of_others else ""
            raise InputError(f"the method {cls.name} {takes}{belongs}: leave {name} out, or choose a method that takes it.")
    if isinstance(method, Method):
        return replace(method, **parameters)
    for name, field in taken.items():
        if name not in parameters and field.default is MISSING:
            raise InputError(f"the method {cls.name} needs {name}: there is no value that suits all tasks.")
    return cls(**parameters)


def _per_head_group(name: str, parts: Sequence[str | Method], parameters: Mapping[str, Any]) -> PerHeadGroup:
    """Make methods for groups of heads, each with those of the parameters that it takes; see `make_method`."""
    known = available_methods()
    unknown = next((part for part in parts if isinstance(part, str) and part not in known), None)
    if unknown is not None:
        near = did_you_mean(unknown, known)
        raise InputError(f"there is no method {unknown!r}{near}, which {name!r} names: choose one of {', '.join(known)}.")
    classes = [known[part] if isinstance(part, str) else type(part) for part in parts]
    of_parts: list[dict[str, Any]] = [{} for _ in parts]
    for parameter, value in parameters.items():
        takers = [number for number, cls in enumerate(classes) if parameter in parameter_names([cls])]
        if not takers:
            raise InputError(f"none of the methods of {name} takes {parameter}: leave it out, or choose methods that take it.")
        for number, of_taker in zip(takers, values_of_parts(parameter, value, len(takers)), strict=True):
            of_parts[number][parameter] = of_taker
    return PerHeadGroup(tuple(make_method(part, of_part) for part, of_part in zip(parts, of_parts, strict=True)))
