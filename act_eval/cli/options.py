"""The options that commands share, each declared once: its words, how it is read, and its choices.

A command names a settings class as a parameter; `with_settings` gives it an option for each field that has an entry here.
Options of a single command stand with that command.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import typer

from act_eval.cli.terminal import quiet
from act_eval.errors import InputError, SettingError
from act_eval.harness.settings import PromptSettings

_TRUST, _VERBOSE, _CONFIG, _CONTEXT = "trust_remote_code", "verbose", "config", "context"
_CALLED_OTHERWISE = {"seed": "seeds", "output_path": "output", "verbosity": _VERBOSE}  # by lm-eval: by a command

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
    """Read `--model-args` as lm-eval's config does, or JSON."""
    from lm_eval.utils import simple_parse_args_string

    return values_by_name("model_args", text) if text.startswith("{") else simple_parse_args_string(text)


def values_by_name(name: str, text: str) -> dict[str, Any]:
    """Read values by name, or JSON. Raises SettingError, which calls them `name`."""
    from act_eval.harness.evaluator_config import by_name

    try:
        return by_name(text)
    except ValueError:
        raise SettingError(name, f"{text!r} cannot be read: write it as a=1,b=2, or as JSON.") from None


def number_or_numbers(text: str | None) -> int | dict[str, Any] | None:
    """Read a whole number, or several by name. Raises SettingError."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return values_by_name("num_fewshot", text)


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
        Annotated[
            str | None,
            typer.Option(
                metavar="N|TASK=N,...",
                help="Solved examples per prompt, each task's own number by default; or numbers by task, group or tag.",
            ),
        ],
        number_or_numbers,
    ),
    "samples": SharedOption(
        Annotated[
            str | None,
            typer.Option(
                metavar="JSON", help="Numbers of documents by task, such as '{\"demo_topic\": [0, 3]}', or a file of it."
            ),
        ]
    ),
    "apply_chat_template": SharedOption(Annotated[bool, typer.Option(help="Use the tokenizer's chat template.")]),
    "fewshot_as_multiturn": SharedOption(
        Annotated[
            bool | None, typer.Option(help="Solved examples as turns of the conversation; so by default with a chat template.")
        ]
    ),
    "system_instruction": SharedOption(
        Annotated[str | None, typer.Option(help="Text before every prompt: a system message where there is a chat template.")]
    ),
    "gen_kwargs": SharedOption(
        Annotated[
            str, typer.Option(metavar="A=1,B=2", help="How to generate, such as do_sample=True,temperature=0.7; or JSON.")
        ],
        partial(values_by_name, "gen_kwargs"),
    ),
    "metadata": SharedOption(
        Annotated[str, typer.Option(metavar="A=1,B=2", help="What some tasks need beside the model arguments; or JSON.")],
        partial(values_by_name, "metadata"),
    ),
    "include_path": SharedOption(Annotated[str | None, typer.Option(help="A folder with more task configs.")]),
    "cache_requests": SharedOption(
        Annotated[
            str | None, typer.Option(metavar="true|refresh|delete", help="Keep prompts on disk, make them anew, or delete all.")
        ]
    ),
    "check_integrity": SharedOption(Annotated[bool, typer.Option(help="Run lm-eval's own tests of the tasks before.")]),
    "confirm_run_unsafe_code": SharedOption(
        Annotated[bool, typer.Option(help="Allow tasks that execute code which the model writes.")]
    ),
}

TrustRemoteCode = Annotated[bool, typer.Option(help="Let datasets and models run code that comes with them.")]

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for what is written.")]
Seeds = Annotated[
    str, typer.Option(help="For the few-shot sampler and all random generators; several, separated by commas, are averaged.")
]
Layers = Annotated[str | None, typer.Option(help="Layers to look at: all, or such as 2-30,33.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, and what is finished; only tokenizer and data are loaded.")
]
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
        is_asked = PromptSettings in classes.values()
        if is_asked:
            parameters += _beside_settings([parameter.name for parameter in parameters])

        @wraps(command)
        def run(**values: Any) -> Any:
            if is_asked:
                quiet(values.pop(_VERBOSE))
            with _naming_options(parameters):
                of_settings = [field.name for of_class in taken.values() for field in of_class]
                options = {name: SHARED[name].parse(values.pop(name)) for name in of_settings}
                if is_asked:
                    entries, context = values.pop(_CONFIG), values.pop(_CONTEXT)
                    options = _settled({**options, _TRUST: values.pop(_TRUST)}, entries, context)
                for name, cls in classes.items():
                    values[name] = cls(**{field.name: options[field.name] for field in taken[name]})
                return command(**values)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run  # type: ignore[return-value]

    return decorate


def _beside_settings(names: Sequence[str]) -> Iterator[inspect.Parameter]:
    """The parameters that a command which asks a model has beside its settings; `names` are those of its others."""

    def read(context: typer.Context, path: str | None) -> dict[str, Any]:
        entries = {} if path is None else _entries(path, [*names, _TRUST, _VERBOSE])
        context.default_map = {name: _as_option(name, value) for name, value in entries.items()}
        return entries

    config = Annotated[
        str | None, typer.Option(is_eager=True, callback=read, help="A YAML file with options in lm-eval's names.")
    ]
    for name, annotation, default in (
        (_TRUST, TrustRemoteCode, False),
        (_VERBOSE, Verbose, False),
        (_CONFIG, config, None),
        (_CONTEXT, typer.Context, inspect.Parameter.empty),
    ):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _entries(path: str, names: Sequence[str]) -> dict[str, Any]:
    """Read a config file: the entries that a command with options of these names makes something of, by option."""
    from act_eval.harness.evaluator_config import read_config_file

    options = {**_CALLED_OTHERWISE, **{name: name for name in names}}
    entries = read_config_file(path, [entry for entry, option in options.items() if option in names])
    return {options[entry]: value for entry, value in entries.items()}


def _as_option(name: str, value: Any) -> Any:
    """Write a value of a config file as it would stand on the command line."""
    if name == "apply_chat_template":  # which may be the name of one, for which there is no option
        return bool(value)
    if name == _VERBOSE:
        return str(value).upper() in ("DEBUG", "INFO")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else value


def _settled(options: Mapping[str, Any], entries: Mapping[str, Any], context: typer.Context) -> dict[str, Any]:
    """The options as lm-eval understands them; `entries` are those of a config file."""
    from act_eval.harness.evaluator_config import settled

    options = dict(options)
    sources = {name: source.name for name in options if (source := context.get_parameter_source(name)) is not None}
    if sources.get("apply_chat_template") == "DEFAULT_MAP":
        options["apply_chat_template"] = entries["apply_chat_template"]
    if options["samples"] is not None and sources["limit"] == "DEFAULT":  # a command's own, where documents are named
        options["limit"] = None
    return settled(options)


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
