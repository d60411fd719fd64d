"""Tables of a sweep: one for each axis, with the same lines as the axis's plot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console

from act_eval.errors import SettingError
from act_eval.progress import print_line
from act_eval.report.statistics import ALL_TASKS, differs
from act_eval.sweep.grid import Axis
from act_eval.sweep.results import SweepResults
from act_eval.tables import TextTable, interval, number

NOTE = (
    "Differences are paired by document, with 95% intervals that leave room for changes that were not seen. A star marks a "
    "task that differs from the baseline (Holm p below 0.05 over all paired rows of a point, whatever their metric, or an "
    "interval without zero). Nothing is corrected for the number of points: of many, some differ by chance."
)
_INTERVAL, _SAME = "95% interval", "= baseline"


def varied(results: SweepResults) -> list[Axis]:
    """The axes on which points have two values or more: they have a table and a plot."""
    return [axis for axis in results.axes if results.table[axis.name].nunique() > 1]


def main_metric(results: SweepResults, metric: str | None = None) -> tuple[str, str]:
    """Metric and filter that tables and plots show.

    Args:
        results: of the sweep.
        metric: its name, or None for the one that most tasks have, `acc` before others.

    Raises:
        SettingError: no task has it.
    """
    tasks = results.table.groupby(["metric", "filter"])["task"].nunique()
    names = [name for name in tasks.index if metric in (None, name[0])]
    if not names:
        raise unknown_metric(str(metric), dict.fromkeys(name for name, _ in tasks.index))
    return min(names, key=lambda name: (-tasks[name], name[0] != "acc", name))


def unknown_metric(metric: str, there: Iterable[str]) -> SettingError:
    """The error for a metric that no task of a sweep has, which names those that `there` are."""
    return SettingError("metric", f"{metric}: no task of the sweep has it; there are {', '.join(there)}.")


def lines(results: SweepResults, axis: Axis, metric: tuple[str, str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """What is compared along an axis: the points that agree on all other axes.

    Points whose method knows nothing of the axis are left out, and on an axis of numbers points that are alone.

    Args:
        results: of the sweep.
        axis: one of its axes.
        metric: see `main_metric`.

    Returns:
        For each line its values on the other axes, None where its method knows nothing of one; and its rows of the table, in
        the order of the axis's values.
    """
    table = results.table
    rows = table[table[axis.name].notna() & (table["metric"] == metric[0]) & (table["filter"] == metric[1])]
    others = [other.name for other in results.axes if other is not axis]
    line_of = [tuple(point.values.get(name) for name in others) for point in results.points]
    for line in sorted(dict.fromkeys(line_of), key=lambda line: [value is None for value in line]):
        of_line = rows[rows["point"].map(lambda point, line=line: line_of[point] == line)]
        if of_line["point"].nunique() > (1 if axis.is_numeric else 0):
            yield line, of_line.sort_values(axis.name, key=lambda values: values.map(axis.values.index), kind="stable")


def totals(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of a line those of the average over tasks, or of one task: that with intervals, or the first one."""
    averages = rows[rows["task"] == ALL_TASKS]
    if len(averages):
        return averages
    paired = rows[rows["low"].notna()]
    return rows[rows["task"] == (paired if len(paired) else rows)["task"].iloc[0]]


def axis_table(results: SweepResults, axis: Axis, metric: tuple[str, str]) -> TextTable:
    """A row for each point on the axis: where it is on the others, the difference in each task, and the average over tasks.

    Args:
        results, axis, metric: see `lines`.
    """
    others = [other.name for other in results.axes if other is not axis]
    texts = []
    for line, rows in lines(results, axis, metric):
        stars = differs(rows).map({True: "*", False: ""})
        for _, of_point in rows.groupby("point", sort=False):
            total = totals(of_point).iloc[0]
            names = [task for task in of_point["task"] if task != ALL_TASKS]
            text = {name: "" if value is None else str(value) for name, value in zip(others, line, strict=True)}
            text[axis.name] = str(axis.values[axis.values.index(total[axis.name])])
            if len(names) > 1:
                by_task = of_point[of_point["task"] != ALL_TASKS].iterrows()
                text |= {row["task"]: f"{number(row['delta'], '+.3f')}{stars[index]}" for index, row in by_task}
            text |= {"ACT": number(total["act"], ".3f"), "delta": number(total["delta"], "+.3f"), _INTERVAL: _interval(total)}
            texts.append(text)
    title = f"{title_of_axis(axis.name)}{describe(results, metric)} (baseline {number(total['baseline'], '.3f')})"
    names_of_values = [other.name for other in results.axes if not other.is_numeric]
    return TextTable(title, pd.DataFrame(texts).fillna(""), names_of_values)


def title_of_axis(name: str) -> str:
    """What the title of the table of an axis begins with."""
    return f"By {name}: "


def _with_short_values(table: TextTable, axes: Sequence[Axis]) -> TextTable:
    """A table with shorter texts for long values of axes, such as paths of profiles."""
    short = {axis.name: {str(value): text for value, text in axis.texts().items()} for axis in axes}
    texts = {name: table.texts[name].replace(names) for name, names in short.items() if name in table.texts}
    return replace(table, texts=table.texts.assign(**texts))


def describe(results: SweepResults, metric: tuple[str, str]) -> str:
    """What is shown, such as `acc, average over 3 tasks`; tasks are named where the metric has others besides."""
    table = results.table
    rows = table[(table["metric"] == metric[0]) & (table["filter"] == metric[1])]
    name = metric[0] if metric[1] == "none" else f"{metric[0]} ({metric[1]})"
    if ALL_TASKS not in set(rows["task"]):
        return f"{name}, {totals(rows)['task'].iloc[0]}"
    tasks, averaged = (
        [task for task in of_rows["task"].unique() if task != ALL_TASKS] for of_rows in (rows, rows[rows["low"].notna()])
    )
    if len(averaged) == len(tasks):
        return f"{name}, average over {len(tasks)} tasks"
    return f"{name}, average over {len(averaged)} of {len(tasks)} tasks ({', '.join(averaged)})"


def _interval(row: pd.Series) -> str:
    if row["settings"] == "baseline":
        return _SAME
    return interval(row["low"], row["high"])


def print_tables(results: SweepResults, metric: tuple[str, str], console: Console) -> None:
    """Show the table of each axis on a terminal."""
    for axis in varied(results):
        table = _with_short_values(axis_table(results, axis, metric), results.axes)
        tasks = [header for header in map(str, table.texts) if header in set(results.table["task"])]
        console.print(table.to_terminal(leave_out=tasks[::-1], elsewhere="sweep.csv"))
    print_line(console, NOTE)
