"""What ACT and its rivals do to the attention of calibrated heads: a file for each method, found by its `name`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from act_eval.errors import InputError
from act_eval.methods.base import Method


def methods() -> dict[str, type[Method]]:
    """The methods of the modules of this package, by name; ACT comes first."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    classes = {
        cls.name: cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Method) and not inspect.isabstract(cls)
    }
    return {name: classes[name] for name in sorted(classes, key=lambda name: (name != "act", name))}


def make_method(method: str | Method, parameters: Mapping[str, Any]) -> Method:
    """A method with these parameters, and with its own defaults for the others.

    Args:
        method: its name, or a method whose parameters are replaced.
        parameters: by name.

    Raises:
        InputError: there is no such method, it has no such parameter or lacks one, or a value is out of range.
    """
    known = methods()
    cls = type(method) if isinstance(method, Method) else known.get(method) if isinstance(method, str) else None
    if cls is None:
        raise InputError(f"there is no method {method!r}: choose one of {', '.join(known)}.")
    taken = {field.name: field for field in fields(cls)}
    for name in parameters:
        if name not in taken:
            of_others = [other.name for other in known.values() if name in {field.name for field in fields(other)}]
            takes = f"takes {', '.join(taken)}" if taken else "takes no parameters"
            belongs = f", which belongs to {', '.join(of_others)}" if of_others else ""
            raise InputError(f"the method {cls.name} {takes}, not {name}{belongs}.")
    if isinstance(method, Method):
        return replace(method, **parameters)
    for name, field in taken.items():
        if name not in parameters and field.default is MISSING:
            raise InputError(f"the method {cls.name} needs {name}: there is no value that suits all tasks.")
    return cls(**parameters)
