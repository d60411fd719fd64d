"""`act-eval run`: lm_eval itself, with the project's tasks and model."""

from __future__ import annotations

import sys

import typer

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(context: typer.Context) -> None:
    """lm_eval itself, with the project's tasks on the path and act-hf as the default model. Takes all that lm_eval takes.

    Example: act-eval run --model_args act_profile=all,act_alpha=5 --tasks act_demo --limit 50 --device cpu
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    from act_eval.harness.tasks import explained_dataset_errors, tasks_path
    from act_eval.registration import register

    setup_logging()
    register()
    harness = HarnessCLI()
    sys.argv = ["act-eval run", *context.args]
    arguments = harness.parse_args()
    if hasattr(arguments, "include_path"):
        arguments.include_path = [str(tasks_path()), *([arguments.include_path] if arguments.include_path else [])]
    names_model = any(argument == "--model" or argument.startswith(("--model=", "-M")) for argument in context.args)
    if hasattr(arguments, "model") and not names_model:
        arguments.model = "act-hf"
    with explained_dataset_errors():
        harness.execute(arguments)
