"""The options that commands share, each declared once: its words, its group in help, and how it is read.

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
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer

from act_eval.cli.terminal import quiet
from act_eval.errors import InputError, SettingError
from act_eval.harness.settings import PromptSettings

MODEL, DOCUMENTS, PROMPTS, RUNNING = "Model", "Tasks and documents", "Prompts", "Running"
SEARCH, CONTROLS, GRID, CONTENT, FIGURES = "Search for heads", "Controls", "Grid", "Content", "Figures"
OUTPUT, TRACKING, HUB = "Output", "Experiment trackers", "Hub"

if TYPE_CHECKING:
    from act_eval.trackers import TrackerSettings

_TRUST, _VERBOSE, _CONFIG, _CONTEXT = "trust_remote_code", "verbose", "config", "context"
_MAY_HOLD_SECRETS = ("model_args", "judge_args")
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
    return tuple(name.strip() for name in text.split(",") if name.strip())


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
        shown = "" if name in _MAY_HOLD_SECRETS else f"{text!r} "
        raise SettingError(name, f"{shown}cannot be read: write it as a=1,b=2, or as JSON.") from None


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


def tracker_settings(wandb_args: str, wandb_config_args: str, trackio_args: str) -> TrackerSettings:
    """Read the options of trackers. Raises SettingError."""
    from act_eval.trackers import TrackerSettings

    texts = {"wandb_args": wandb_args, "wandb_config_args": wandb_config_args, "trackio_args": trackio_args}
    return TrackerSettings(**{name: values_by_name(name, text) if text else {} for name, text in texts.items()})


def option(panel: str, help: str, *names: str, default: str | None = None, **rest: Any) -> Any:
    """Declare an option of a command.

    Args:
        panel: the group of options that it stands in where help is printed.
        help: what it is for.
        names: such as "--output", "-o"; made from the parameter's name where there are none.
        default: what help says of the default, where the default itself says nothing.
        rest: what else `typer.Option` takes.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=default or True, **rest)


SHARED: Mapping[str, SharedOption] = {
    "model_args": SharedOption(
        Annotated[
            str,
            option(
                MODEL,
                "As for lm_eval --model act-hf: pretrained=...,act_profile=...,act_beta=...",
                default="the embedded model, act_profile=auto",
            ),
        ],
        model_arguments,
    ),
    "device": SharedOption(Annotated[str | None, option(MODEL, "Such as cuda or cpu.", default="cuda where there is one")]),
    "batch_size": SharedOption(
        Annotated[str, option(MODEL, "Rows that run at once: a number; for compare and sweep also auto or auto:N.")]
    ),
    "tasks": SharedOption(Annotated[str, option(DOCUMENTS, "Names of lm-eval tasks or groups, separated by commas.")], names),
    "limit": SharedOption(
        Annotated[float | None, option(DOCUMENTS, "Documents per task; below 1, a share of them.", default="all")]
    ),
    "seed": SharedOption(Annotated[int, option(DOCUMENTS, "Draws documents and few-shot examples.")]),
    "num_fewshot": SharedOption(
        Annotated[
            str | None,
            option(
                PROMPTS,
                "Solved examples per prompt; or numbers by task, group or tag.",
                default="each task's own number",
                metavar="N|TASK=N,...",
            ),
        ],
        number_or_numbers,
    ),
    "samples": SharedOption(
        Annotated[
            str | None,
            option(
                DOCUMENTS,
                "Numbers of documents by task, such as '{\"demo_topic\": [0, 3]}', or a file of it.",
                default="all, or as --limit says",
                metavar="JSON",
            ),
        ]
    ),
    "apply_chat_template": SharedOption(Annotated[bool, option(PROMPTS, "Use the tokenizer's chat template.")]),
    "fewshot_as_multiturn": SharedOption(
        Annotated[
            bool | None,
            option(PROMPTS, "Solved examples as turns of the conversation.", default="so with a chat template"),
        ]
    ),
    "system_instruction": SharedOption(
        Annotated[
            str | None,
            option(PROMPTS, "Text before every prompt: a system message where there is a chat template.", default="none"),
        ]
    ),
    "gen_kwargs": SharedOption(
        Annotated[
            str,
            option(
                PROMPTS,
                "How to generate, such as do_sample=True,temperature=0.7; or JSON.",
                default="as each task says",
                metavar="A=1,B=2",
            ),
        ],
        partial(values_by_name, "gen_kwargs"),
    ),
    "metadata": SharedOption(
        Annotated[
            str,
            option(
                DOCUMENTS, "What some tasks need beside the model arguments; or JSON.", default="nothing", metavar="A=1,B=2"
            ),
        ],
        partial(values_by_name, "metadata"),
    ),
    "include_path": SharedOption(
        Annotated[
            str | None, option(DOCUMENTS, "A folder with more task configs.", default="lm-eval's tasks and the project's")
        ]
    ),
    "cache_requests": SharedOption(
        Annotated[
            str | None,
            option(
                RUNNING, "Keep prompts on disk, make them anew, or delete all.", default="none", metavar="true|refresh|delete"
            ),
        ]
    ),
    "check_integrity": SharedOption(Annotated[bool, option(RUNNING, "Run lm-eval's own tests of the tasks before.")]),
    "confirm_run_unsafe_code": SharedOption(
        Annotated[bool, option(RUNNING, "Allow tasks that execute code which the model writes.")]
    ),
}

WandbArgs = Annotated[
    str,
    option(
        TRACKING,
        "Log to Weights & Biases, as lm_eval does, with the differences: project=act,name=mine; or JSON.",
        default="not logged",
        metavar="A=1,B=2",
    ),
]
WandbConfigArgs = Annotated[
    str, option(TRACKING, "What else the configuration there holds; or JSON.", default="nothing", metavar="A=1,B=2")
]
TrackioArgs = Annotated[
    str, option(TRACKING, "Log to Trackio in the same way: project=act; or JSON.", default="not logged", metavar="A=1,B=2")
]
TrustRemoteCode = Annotated[bool, option(RUNNING, "Let datasets and models run code that comes with them.")]

Output = Annotated[Path, option(OUTPUT, "Folder for what is written.", "--output", "-o")]
Seeds = Annotated[
    str, option(DOCUMENTS, "For the few-shot sampler and all random generators; several, separated by commas, are averaged.")
]
Layers = Annotated[
    str | None,
    option(SEARCH, "Layers to look at: all, or such as 2-30,33.", default="all but the first two and the last"),
]
Mode = Annotated[
    str, option(SEARCH, "exact, screened, estimated (13 passes for any number of heads), or auto: exact up to 64 heads.")
]
Selection = Annotated[str, option(SEARCH, "validated (no head without evidence), improving or top-k.")]
TopK = Annotated[int | None, option(SEARCH, "Heads to choose with --selection top-k.", default="none")]
Objective = Annotated[
    str,
    option(
        SEARCH, "margin, corrected-margin (after label priors are subtracted), accuracy, or entropy, which needs no labels."
    ),
]
DryRun = Annotated[
    bool, option(RUNNING, "Say what would run, and what is finished; only tokenizer and data are loaded.", "--dry-run")
]
Verbose = Annotated[bool, option(RUNNING, "Show lm-eval's own messages.")]


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
        str | None,
        option(RUNNING, "A YAML file with options in lm-eval's names.", default="none", is_eager=True, callback=read),
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
