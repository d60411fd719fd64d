"""What the methods of this package are, read off their classes, for the pages that list them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from act_eval.methods.base import Method, SelectiveMethod
from act_eval.methods.per_head_group import MethodOfGroups
from act_eval.methods.registry import available_methods, built_in_methods

_SECTION = re.compile(r"^(Args|Raises):$", flags=re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", flags=re.MULTILINE)
_LINK = re.compile(r"https://[^\s),]+")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name: without `act_`.
        default: None where it has to be given.
        meaning: what it is, and its range.
    """

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Description:
    """What a method is.

    Attributes:
        name: what `act_method` takes.
        summary: what it does, in a sentence.
        text: its formula, what it is based on, and all else that its class says, in Markdown.
        parameters: in their order.
        needs: what it uses, in words.
        links: the papers that it names.
    """

    name: str
    summary: str
    text: str
    parameters: tuple[Parameter, ...]
    needs: tuple[str, ...]
    links: tuple[str, ...]

    @classmethod
    def of(cls, method: type[Method]) -> Description:
        """Read off a class."""
        sections = _SECTION.split(inspect.getdoc(method) or "")
        summary, _, text = sections[0].strip().partition("\n\n")
        arguments = dict(zip(sections[1::2], sections[2::2], strict=True)).get("Args", "")
        meanings = {name: " ".join(meaning.split()) for name, meaning in _ARGUMENT.findall(arguments)}
        parameters = tuple(
            Parameter(field.name, None if field.default is MISSING else field.default, meanings.get(field.name, ""))
            for field in fields(method)
        )
        return cls(method.name, " ".join(summary.split()), text, parameters, tuple(_needs(method)), tuple(_LINK.findall(text)))


def descriptions() -> list[Description]:
    """Of all methods of this package, ACT first."""
    return [Description.of(method) for name, method in available_methods().items() if name in built_in_methods()]


def table() -> str:
    """A row for each method, in Markdown: what it does, what it uses, and its parameters."""
    rows = ["| `act_method` | in the calibrated heads | uses | parameters |", "|---|---|---|---|"]
    for method in descriptions():
        parameters = ", ".join(f"`act_{parameter.name}` {_default(parameter)}" for parameter in method.parameters)
        rows.append(f"| `{method.name}` | {_in_a_cell(method.summary)} | {', '.join(method.needs)} | {parameters} |")
    return "\n".join(rows)


def page() -> str:
    """All of every method, in Markdown, below a heading each."""
    return "\n\n".join(_section(method) for method in descriptions())


def _section(method: Description) -> str:
    lines = [f"## `{method.name}`", method.summary, _LINK.sub(r"<\g<0>>", method.text), f"Uses {', '.join(method.needs)}."]
    if method.parameters:
        rows = [
            f"| `act_{parameter.name}` | {_default(parameter)} | {_in_a_cell(parameter.meaning)} |"
            for parameter in method.parameters
        ]
        lines.append("\n".join(["| argument | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(line for line in lines if line)


def _default(parameter: Parameter) -> str:
    return "to be given" if parameter.default is None else f"{parameter.default:g}"


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _needs(method: type[Method]) -> Iterator[str]:
    """What a method uses, and how it gets to its outputs."""
    if issubclass(method, MethodOfGroups):
        yield "groups of heads"
    uses = (
        ("sinks", method.uses_sinks),
        ("the first token", method.uses_first_token),
        ("a part of the prompt", method.uses_span),
    )
    yield from (word for word, is_used in uses if is_used)
    if not issubclass(method, (SelectiveMethod, MethodOfGroups)):
        yield "all weights of a row"
