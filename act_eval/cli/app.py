"""The `act-eval` program and its commands."""

from __future__ import annotations

import sys

import typer

from act_eval.cli import compare, demo, models, mt_bench, profiles, report, run, search, sinks, study, sweep, tasks
from act_eval.cli.failures import DEBUG_HELP, failures_in_one_line, split_debug


def with_hyphens(name: str) -> str:
    """Let options be written with underscores, too, as those of lm-eval are."""
    return name.replace("_", "-")


app = typer.Typer(
    help="Does calibrating attention sinks (ACT) help your language model on your tasks?",
    epilog=DEBUG_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": with_hyphens},
)
app.command(context_settings=run.PASS_THROUGH)(run.run)
for command in (
    study.study,
    compare.compare,
    sweep.sweep,
    demo.demo,
    search.search,
    sinks.sinks,
    report.report,
    models.models,
    tasks.tasks,
):
    app.command(epilog=DEBUG_HELP)(command)
app.add_typer(profiles.app, name="profiles")
app.add_typer(mt_bench.app, name="mt-bench")


def main() -> None:
    """Entry point. What goes wrong ends with one line, and exit code 2 where it was bad input."""
    arguments, debug = split_debug(sys.argv[1:])
    with failures_in_one_line(debug):
        program = typer.main.get_command(app)
        with program.make_context("act-eval", arguments) as context:
            program.invoke(context)
