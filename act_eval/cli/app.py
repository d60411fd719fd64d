"""The `act-eval` program: its commands, and what bad input ends with."""

from __future__ import annotations

import sys

import typer

from act_eval.cli import compare, demo, models, mt_bench, profiles, report, run, search, sinks, sweep, tasks
from act_eval.errors import InputError

app = typer.Typer(
    help="Does calibrating attention sinks (ACT) help your language model on your tasks?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(context_settings=run.PASS_THROUGH)(run.run)
for command in (
    compare.compare,
    sweep.sweep,
    demo.demo,
    search.search,
    sinks.sinks,
    report.report,
    profiles.profiles,
    models.models,
    tasks.tasks,
):
    app.command()(command)
app.add_typer(mt_bench.app, name="mt-bench")


def main() -> None:
    """Entry point: bad input ends with one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"act-eval: {error}", file=sys.stderr)
        raise SystemExit(2) from None
