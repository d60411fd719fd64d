"""`act-eval run`: lm_eval itself, with the project's tasks and model."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import typer

from act_eval.errors import InputError, explained
from act_eval.model_arguments import HUB_TOKENS

if TYPE_CHECKING:
    from argparse import Namespace

# Modules of which anything, or only what they raise themselves, is about the arguments:
_READ_ARGUMENTS = ("lm_eval.config", "lm_eval.api.registry", "lm_eval.tasks", "transformers.models.auto")
_CHECK_ARGUMENTS = ("lm_eval.evaluator", "lm_eval.api.task")

_LONGEST_REASON = 400
_TOKEN_VARIABLE = "HF_TOKEN"  # where huggingface_hub looks
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
    _keep_secrets(arguments)
    with _explained_argument_errors(), explained_dataset_errors(), commit_looked_up_quietly():
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


def _keep_secrets(arguments: Namespace) -> None:
    """Put an access token of the hub into the environment, since lm_eval writes and prints all model arguments.

    Args:
        arguments: of lm_eval's command line, changed in place.
    """
    from lm_eval.utils import simple_parse_args_string

    if not hasattr(arguments, "model_args"):
        return
    given = arguments.model_args or _config_file(arguments).get("model_args") or {}
    given = simple_parse_args_string(given) if isinstance(given, str) else given
    token = next((given[name] for name in HUB_TOKENS if isinstance(given.get(name), str)), None)
    if token is not None:
        os.environ[_TOKEN_VARIABLE] = token
        arguments.model_args = {name: value for name, value in given.items() if name not in HUB_TOKENS}


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
