"""`act-eval run`: lm_eval itself, with the project's tasks and model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from argparse import Namespace

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(context: typer.Context) -> None:
    """lm_eval itself, with the project's tasks on the path and act-hf as the default model. Takes all that lm_eval takes.

    Example: act-eval run --model_args act_profile=all,act_alpha=5 --tasks act_demo --limit 50 --device cpu
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from act_eval.harness.tasks import explained_dataset_errors
    from act_eval.registration import register

    setup_logging()
    register()
    harness = HarnessCLI()
    sys.argv = ["act-eval run", *context.args]
    arguments = harness.parse_args()
    _add_defaults(arguments)
    with explained_dataset_errors():
        harness.execute(arguments)


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
