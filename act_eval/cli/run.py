"""`act-eval run`: lm_eval itself, with the project's tasks and model."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import typer

from act_eval.errors import InputError, explained
from act_eval.model_arguments import HUB_TOKENS, SECRETS

if TYPE_CHECKING:
    from argparse import Namespace

# Modules of which anything, or only what they raise themselves, is about the arguments:
_READ_ARGUMENTS = ("lm_eval.config", "lm_eval.api.registry", "lm_eval.tasks", "transformers.models.auto")
_CHECK_ARGUMENTS = ("lm_eval.evaluator", "lm_eval.api.task")

_LONGEST_REASON = 400
_TOKEN_VARIABLE = "HF_TOKEN"  # where huggingface_hub looks
_NO_ARGUMENTS = " "  # what is empty counts as not given, so that a config file would be asked again
_UNKNOWN_TASK = re.compile(r"Tasks not found: (?P<name>[^,\s]+)")  # lm-eval's words

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(context: typer.Context) -> None:
    """lm_eval itself, with the project's tasks on the path and act-hf as the default model. Takes all that lm_eval takes.

    Example: act-eval run --model_args act_profile=all,act_alpha=5 --tasks act_demo --limit 50 --device cpu
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from act_eval.harness.environment import commit_looked_up_quietly
    from act_eval.harness.tasks import explained_dataset_errors
    from act_eval.registration import register

    setup_logging()
    register()
    harness = HarnessCLI()
    sys.argv = ["act-eval run", *context.args]
    with _explained_parsing_errors():
        arguments = harness.parse_args()
    _add_defaults(arguments)
    secrets = _without_secrets(arguments)
    with (
        _explained_argument_errors(),
        explained_dataset_errors(),
        commit_looked_up_quietly(),
        _given_to_the_model_alone(secrets) if secrets else nullcontext(),
    ):
        harness.execute(arguments)


@contextmanager
def _explained_parsing_errors() -> Iterator[None]:
    """Raise InputError with the last of the lines that lm_eval's command line prints where it cannot be read."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code != 2:
            raise
        problem = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise InputError(f"{problem} (see `act-eval run --help`).") from end


def _explained_argument_errors() -> AbstractContextManager[None]:
    """Raise InputError for what lm-eval raises about its arguments: config files, tasks, models, checkpoints."""
    from jinja2 import TemplateError
    from yaml import YAMLError

    from act_eval.harness.tasks import unknown_task

    def explain(error: Exception) -> InputError | None:
        modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(module.startswith(_READ_ARGUMENTS) for module in modules) and modules[-1] not in _CHECK_ARGUMENTS:
            return None
        unknown = _UNKNOWN_TASK.search(str(error))
        if unknown is not None:
            return unknown_task(unknown["name"])
        reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...").rstrip(".!")
        return InputError(f"{reason} (see `act-eval run --help`).")

    return explained(explain, ImportError, LookupError, OSError, TypeError, ValueError, TemplateError, YAMLError)


def _add_defaults(arguments: Namespace) -> None:
    """Put the project's tasks on the path, and name its model where neither the command line nor a config file names one.

    Args:
        arguments: of lm_eval's command line, changed in place; a subcommand may have neither model nor path.
    """
    from act_eval.harness.tasks import tasks_path

    from_file = _config_file(arguments)
    if hasattr(arguments, "include_path"):
        given = arguments.include_path or from_file.get("include_path") or []
        arguments.include_path = [str(tasks_path()), *([given] if isinstance(given, str) else given)]
    if hasattr(arguments, "model") and not (arguments.model or from_file.get("model")):
        arguments.model = "act-hf"


def _without_secrets(arguments: Namespace) -> dict[str, Any]:
    """Take secrets out of the model arguments, since lm_eval writes and prints all of these.

    A token of the hub goes into the environment, where datasets need it too.

    Args:
        arguments: of lm_eval's command line, changed in place.

    Returns:
        The other secrets, such as `header` and `api_key`, by name.
    """
    from lm_eval.utils import simple_parse_args_string

    if not hasattr(arguments, "model_args"):
        return {}
    given = arguments.model_args or _config_file(arguments).get("model_args") or {}
    given = dict(simple_parse_args_string(given) if isinstance(given, str) else given)
    token = next((given[name] for name in HUB_TOKENS if isinstance(given.get(name), str)), None)
    secrets = {name: given.pop(name) for name in SECRETS & given.keys()}
    if token is not None:
        os.environ[_TOKEN_VARIABLE] = token
        secrets = {name: value for name, value in secrets.items() if name not in HUB_TOKENS}
    if token is not None or secrets:
        arguments.model_args = given or _NO_ARGUMENTS
    return secrets


@contextmanager
def _given_to_the_model_alone(secrets: Mapping[str, Any]) -> Iterator[None]:
    """Add secrets to the arguments of the model that lm_eval makes in the block; it knows nothing of them elsewhere."""
    from lm_eval.api import registry

    get_model = registry.get_model

    def get_model_with_secrets(name: str) -> Any:
        model = get_model(name)

        def create(arguments: Mapping[str, Any], additional: Mapping[str, Any] | None = None) -> Any:
            return model.create_from_arg_obj({**arguments, **secrets}, additional)

        return SimpleNamespace(create_from_arg_obj=create)

    registry.get_model = get_model_with_secrets
    try:
        yield
    finally:
        registry.get_model = get_model


def _config_file(arguments: Namespace) -> dict[str, Any]:
    """Read the config file that lm_eval's command line names; empty without one, and where lm_eval will refuse it."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    file = getattr(arguments, "config", None)
    if file is None:
        return {}
    try:
        return EvaluatorConfig.load_yaml_config(file)
    except (OSError, TypeError, ValueError):
        return {}
