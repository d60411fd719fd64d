"""The options that commands share, each declared once: its words, how it is read, and its choices.

A command names a settings class as a parameter; `with_settings` gives it an option for each field that has an entry here.
Options of a single command stand with that command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import typer

from act_eval.errors import InputError, SettingError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class SharedOption:
    """An option for a field of a settings class.

    Attributes:
        annotation: what typer makes the option from.
        parse: from what typer gives to the field's value.
    """

    annotation: Any
    parse: Callable[[Any], Any] = lambda value: value


def names(text: str) -> tuple[str, ...]:
    """Read names that are separated by commas."""
    return tuple(name for name in text.split(",") if name)


def model_arguments(text: str) -> dict[str, Any]:
    """Read `--model-args` as lm-eval does."""
    from lm_eval.utils import simple_parse_args_string

    return simple_parse_args_string(text)


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Read whole numbers that are separated by commas. Raises SettingError, which calls them `name`."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise SettingError(name, f"{text!r} is not a list of whole numbers: write them as 0,42,84.") from None


SHARED: Mapping[str, SharedOption] = {
    "model_args": SharedOption(
        Annotated[str, typer.Option(help="As for lm_eval --model act-hf: pretrained=...,act_profile=...,act_beta=...")],
        model_arguments,
    ),
    "device": SharedOption(
        Annotated[str | None, typer.Option(help="Such as cuda or cpu; by default cuda where there is one.")]
    ),
    "batch_size": SharedOption(
        Annotated[str, typer.Option(help="Rows that run at once: a number; for compare and sweep also auto or auto:N.")]
    ),
    "tasks": SharedOption(Annotated[str, typer.Option(help="Names of lm-eval tasks or groups, separated by commas.")], names),
    "limit": SharedOption(Annotated[float | None, typer.Option(help="Documents per task; below 1, a share of them.")]),
    "seed": SharedOption(Annotated[int, typer.Option(help="Draws documents and few-shot examples.")]),
    "num_fewshot": SharedOption(
        Annotated[int | None, typer.Option(help="Solved examples per prompt; each task's own number by default.")]
    ),
    "apply_chat_template": SharedOption(Annotated[bool, typer.Option(help="Use the tokenizer's chat template.")]),
    "system_instruction": SharedOption(
        Annotated[str | None, typer.Option(help="Text before every prompt: a system message where there is a chat template.")]
    ),
    "include_path": SharedOption(Annotated[str | None, typer.Option(help="A folder with more task configs.")]),
}

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for what is written.")]
Seeds = Annotated[
    str, typer.Option(help="For the few-shot sampler and all random generators; several, separated by commas, are averaged.")
]
Layers = Annotated[str | None, typer.Option(help="Layers to look at: all, or such as 2-30,33.")]
Verbose = Annotated[bool, typer.Option(help="Show lm-eval's own messages.")]


def with_settings(*, without: tuple[str, ...] = (), **defaults: Any) -> Callable[[Command], Command]:
    """Let a command take settings classes: typer sees an option for each of their fields, the command gets the objects.

    A SettingError of the command is raised again with the option in place of the field's name.

    Args:
        without: fields that this command has no option for; they keep their defaults.
        defaults: of fields, where the command's own differ from the class's.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        classes = {
            parameter.name: cast(type, parameter.annotation)
            for parameter in signature.parameters.values()
            if is_dataclass(parameter.annotation)
        }
        taken = {name: [field for field in fields(cls) if field.name not in without] for name, cls in classes.items()}
        parameters = list(_parameters(signature, taken, defaults))

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            with _naming_options(parameters):
                for name, cls in classes.items():
                    options = {field.name: values.pop(field.name) for field in taken[name]}
                    values[name] = cls(**{option: _parsed(option, value) for option, value in options.items()})
                return command(**values)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run  # type: ignore[return-value]

    return decorate


def _parsed(option: str, value: Any) -> Any:
    return SHARED[option].parse(value)


def _parameters(
    signature: inspect.Signature, taken: Mapping[str, list[Field[Any]]], defaults: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """The command's parameters, with the options of its settings classes in their place."""
    for parameter in signature.parameters.values():
        if parameter.name not in taken:
            yield parameter
        for field in taken.get(parameter.name, ()):
            default = defaults.get(field.name, _default(field))
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=SHARED[field.name].annotation
            )


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:  # model arguments, which are a text on the command line
        return ""
    return inspect.Parameter.empty if field.default is MISSING else field.default


@contextmanager
def _naming_options(parameters: Sequence[inspect.Parameter]) -> Iterator[None]:
    """Call a setting that cannot work by the option that it came from."""
    options: dict[str, str] = {}
    for parameter in parameters:
        option = _option(parameter)
        options |= {parameter.name: option, option.removeprefix("--").replace("-", "_"): option}
    try:
        yield
    except SettingError as error:
        if error.name not in options:
            raise
        raise InputError(f"{options[error.name]} {error.problem}") from None


def _option(parameter: inspect.Parameter) -> str:
    """The long name of a parameter's option: as declared, or made from the parameter's name."""
    declared = [
        name
        for info in get_args(parameter.annotation)[1:]
        for name in (info.default, *(info.param_decls or ()))
        if isinstance(name, str) and name.startswith("--")
    ]
    return declared[0] if declared else f"--{parameter.name.replace('_', '-')}"
