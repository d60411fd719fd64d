"""What a sweep found: the paired comparison of every point with the one baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from act_eval.compare.recorded import FinishedRuns
from act_eval.report.load import load
from act_eval.report.pairing import pair
from act_eval.report.statistics import ALL_TASKS, compare, macro_averages
from act_eval.sweep.grid import Axis, Point
from act_eval.task_groups import TaskGroup

_STATISTICS = [
    "settings",
    "num_heads",
    "task",
    "num_fewshot",
    "filter",
    "metric",
    "higher_is_better",
    "n",
    "baseline",
    "act",
    "delta",
    "low",
    "high",
    "interval",
    "p",
    "p_holm",
]


@dataclass(frozen=True)
class SweepResults:
    """What a sweep found.

    Attributes:
        axes: what varied.
        points: the combinations.
        table: a row for each point, task and metric, and for the average over all tasks where there are several (`task` is
            `report.statistics.ALL_TASKS`): `point`, its place in `points`; a column for each axis, missing where the point's
            method knows nothing of it; and the statistics of `report.statistics.compare`. Points that change nothing have the
            settings "baseline" and no interval.
    """

    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    table: pd.DataFrame


def read_results(axes: Sequence[Axis], points: Sequence[Point], runs: FinishedRuns, folder: Path) -> SweepResults:
    """Compare the finished runs of a sweep.

    Args:
        axes, points: the grid.
        runs: all of them.
        folder: where their results are, perhaps beside others.

    Raises:
        ReportError: see `report.load.load` and `report.pairing.pair`.
    """
    results = load([folder], runs.has)
    pairing = pair(results)
    statistics = compare(pairing)
    tasks = tuple(sorted(set(statistics["task"])))
    averages = macro_averages(pairing, {ALL_TASKS: TaskGroup(tasks)}).rename(columns={"group": "task"})
    statistics = pd.concat([statistics, averages], ignore_index=True).reindex(columns=_STATISTICS)
    parts = []
    for number, point in enumerate(points):
        if point.arguments.changes_nothing:
            rows = _same_as_baseline(statistics)
        else:
            rows = statistics[statistics["settings"] == results.settings_of(point.arguments.model_args)]
        parts.append(rows.assign(point=number, **{axis.name: point.values.get(axis.name) for axis in axes}))
    names = [axis.name for axis in axes]
    table = pd.concat(parts, ignore_index=True)[["point", *names, *(name for name in _STATISTICS if name not in names)]]
    return SweepResults(tuple(axes), tuple(points), table)


def _same_as_baseline(statistics: pd.DataFrame) -> pd.DataFrame:
    """The rows of a point that changes nothing: the baseline's scores, and no difference."""
    rows = statistics.drop_duplicates(["task", "num_fewshot", "filter", "metric"])
    nothing = dict.fromkeys(("low", "high", "p", "p_holm"), float("nan"))
    return rows.assign(settings="baseline", num_heads=0, act=rows["baseline"], delta=0.0, interval=None, **nothing)
