"""What a sweep found: the paired comparison of every point with the one baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from act_eval.compare.recorded import FinishedRuns
from act_eval.report.load import ReportError, load
from act_eval.report.pairing import Pairing, pair
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
        table: a row for each point, task and metric, and for the average over all tasks that are paired by document, where
            there are several (`task` is `report.statistics.ALL_TASKS`, and `num_fewshot` is missing where it is not the same in
            all): `point`, its place in `points`; a column for each axis, missing where the point's method knows nothing of it;
            and the statistics of `report.statistics.compare`. Points that change nothing have the settings "baseline" and no
            interval.
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
        ReportError: a task has results with several few-shot counts; or see `report.load.load` and `report.pairing.pair`.
    """
    results = load([folder], runs.has)
    pairing = pair(results)
    statistics = compare(pairing)
    statistics = pd.concat([statistics, _averages(pairing)], ignore_index=True).reindex(columns=_STATISTICS)
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


def _averages(pairing: Pairing) -> pd.DataFrame:
    """Averages over all tasks, whatever their few-shot counts. Raises ReportError where a task has several counts."""
    shots = pairing.values.groupby("task")["num_fewshot"].unique()
    for task, counts in shots.items():
        if len(counts) > 1:
            raise ReportError(f"{task} has results with {len(counts)} few-shot counts: sweep over each in a folder of its own.")
    values = pairing.values
    if values["num_fewshot"].nunique(dropna=False) > 1:
        values = values.assign(num_fewshot=pd.array([pd.NA] * len(values), dtype="Int64"))
    tasks = TaskGroup(tuple(sorted(shots.index)))
    return macro_averages(pairing.with_values(values), {ALL_TASKS: tasks}).rename(columns={"group": "task"})


def _same_as_baseline(statistics: pd.DataFrame) -> pd.DataFrame:
    """The rows of a point that changes nothing: the baseline's scores, and no difference."""
    rows = statistics.drop_duplicates(["task", "num_fewshot", "filter", "metric"])
    nothing = dict.fromkeys(("low", "high", "p", "p_holm"), float("nan"))
    return rows.assign(settings="baseline", num_heads=0, act=rows["baseline"], delta=0.0, interval=None, **nothing)
