"""`act-eval report`: tables, plots and a page from results that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from act_eval.cli.options import CONTENT, OUTPUT, names, option, with_settings
from act_eval.cli.terminal import console, say, say_written
from act_eval.errors import SettingError

if TYPE_CHECKING:
    from act_eval.report.build import Report, ReportOptions


@with_settings()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders with lm-eval's results, searched recursively.")],
    output: Annotated[
        Path | None, option(OUTPUT, "Folder for the report.", "--output", "-o", default="the first of FOLDERS")
    ] = None,
    metric: Annotated[str, option(CONTENT, "Only these metrics, separated by commas.", default="all")] = "",
    filters: Annotated[
        list[str] | None,
        option(
            CONTENT,
            "Only rows where a column matches a pattern: task=mmlu_*, filter=strict-match. Repeat for more columns, or for "
            "other patterns of one.",
            "--filter",
            default="all",
        ),
    ] = None,
    group_by: Annotated[str, option(CONTENT, "What is averaged: tasks of each group, tag, all or none.")] = "group",
    style: Annotated[
        str | None, option(OUTPUT, "A matplotlib style, by name or as a file, for the plots.", default="the project's")
    ] = None,
    json: Annotated[bool, option(OUTPUT, "Print the report as JSON and nothing else; no file is written.", "--json")] = False,
) -> None:
    """Tables, plots and a page of what ACT changed, from results that are there.

    Example: act-eval report results-of-mine --metric acc --filter 'task=demo_*' --output report-of-mine
    """
    from act_eval.report.build import ReportOptions, make_report
    from act_eval.report.machine_readable import to_json

    patterns: dict[str, list[str]] = {}
    for column, pattern in map(_column_pattern, filters or []):
        patterns.setdefault(column, []).append(pattern)
    options = ReportOptions(names(metric), patterns, group_by)  # type: ignore[arg-type]
    if json:
        for name, value in (("output", output), ("style", style)):
            if value is not None:
                raise SettingError(name, "is about files, and with --json none is written: leave one of them out.")
        print(to_json(make_report(folders, options)), end="")
    else:
        report_on(folders, output or folders[0], options, style)


def report_on(
    folders: Sequence[Path],
    output: Path,
    options: ReportOptions | None = None,
    style: str | None = None,
    is_wanted: Callable[[Mapping[str, Any]], bool] = lambda content: True,
) -> Report:
    """Show the comparison of results below some folders, by default of all of them, and write the report."""
    from act_eval.report.build import make_report
    from act_eval.report.tables import print_tables
    from act_eval.report.write import write_report

    made = make_report(folders, options, is_wanted)
    print_tables(made, console)
    say(made.unfinished.sentences() if made.unfinished else ())
    say(made.priors.notes)
    say(f"unpaired: {note}" for note in made.unpaired_notes)
    say(f"not compared: {note}" for note in made.notes)
    say_written(write_report(made, output, style))
    return made


def _column_pattern(text: str) -> tuple[str, str]:
    column, equals, pattern = text.partition("=")
    if not equals:
        raise SettingError("filter", f"{text!r} is not COLUMN=PATTERN: write it as task=mmlu_*.")
    return column, pattern
