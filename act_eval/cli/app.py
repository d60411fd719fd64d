"""The `act-eval` program and its commands."""

from __future__ import annotations

import os
import sys

import typer

from act_eval.cli import compare, demo, models, mt_bench, profiles, report, run, search, sinks, study, sweep, tasks
from act_eval.cli.failures import DEBUG_HELP, failures_in_one_line, split_debug

_PROGRAM = "act-eval"
_COMPLETION_VARIABLE = "_ACT_EVAL_COMPLETE"  # set by a shell that asks what an unfinished line may go on with


def with_hyphens(name: str) -> str:
    """Let options be written with underscores, too, as those of lm-eval are."""
    return name.replace("_", "-")


def paragraphs(text: str | None) -> str:
    """Let each paragraph of a docstring be one line, which help breaks where the terminal ends."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


app = typer.Typer(
    help="Does calibrating attention sinks (ACT) help your language model on your tasks?\n\nExample: act-eval demo --limit 20",
    epilog=DEBUG_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": with_hyphens},
)
EVALUATE, LOOK, KNOWN = "Evaluate", "Look closer", "What there is"
app.command(context_settings=run.PASS_THROUGH, rich_help_panel=EVALUATE)(run.run)
for command, panel in (
    (study.study, EVALUATE),
    (compare.compare, EVALUATE),
    (sweep.sweep, EVALUATE),
    (demo.demo, EVALUATE),
    (search.search, LOOK),
    (sinks.sinks, LOOK),
    (report.report, LOOK),
    (models.models, KNOWN),
    (tasks.tasks, KNOWN),
):
    app.command(help=paragraphs(command.__doc__), epilog=DEBUG_HELP, rich_help_panel=panel)(command)
app.add_typer(profiles.app, name="profiles", rich_help_panel=KNOWN)
app.add_typer(mt_bench.app, name="mt-bench", rich_help_panel=EVALUATE)


def main() -> None:
    """Entry point. What goes wrong ends with one line, and exit code 2 where it was bad input."""
    if _COMPLETION_VARIABLE in os.environ:
        app(prog_name=_PROGRAM)
    arguments, debug = split_debug(sys.argv[1:])
    with failures_in_one_line(debug):
        program = typer.main.get_command(app)
        with program.make_context(_PROGRAM, arguments) as context:
            program.invoke(context)
