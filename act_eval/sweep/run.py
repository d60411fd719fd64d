"""Run a sweep: every point once, the baseline once, the model loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from act_eval.compare.plan import ComparisonSettings, RunPlan, plan_runs
from act_eval.compare.run import run_missing
from act_eval.harness.arguments import baseline_of
from act_eval.sweep.grid import Axis, Point, points
from act_eval.sweep.results import SweepResults, read_results
from act_eval.sweep.tables import unknown_metric


def run_sweep(
    settings: ComparisonSettings, axes: Sequence[Axis], output: Path, console: Console, metric: str | None = None
) -> SweepResults | None:
    """Run every point of a grid that is not finished, and compare all of them with the baseline.

    Points that change nothing are the baseline, which is run once.

    Args:
        settings: what to run; model arguments hold what does not vary.
        axes: what varies.
        output: folder of the results, in lm-eval's formats, see `act_eval.compare`; made when missing.
        console: where progress is shown.
        metric: what is to be shown of the results, see `tables.main_metric`.

    Returns:
        What was found; None in all but the main process.

    Raises:
        InputError: no task has the metric; or see `grid.points`, `compare.plan_runs` and `compare.run_missing`. Raised before
            the model is loaded.
    """
    grid = points(settings.model.model_args, axes)
    finished = run_missing(_plan(settings, grid, metric), output, console)
    return None if finished is None else read_results(axes, grid, finished, output)


def plan_sweep(settings: ComparisonSettings, axes: Sequence[Axis], metric: str | None = None) -> RunPlan:
    """Say what `run_sweep` runs. Raises what it raises before the model is loaded."""
    return _plan(settings, points(settings.model.model_args, axes), metric)


def _plan(settings: ComparisonSettings, grid: Sequence[Point], metric: str | None) -> RunPlan:
    variants = {point.label: point.arguments for point in grid if not point.arguments.changes_nothing}
    variants["baseline"] = baseline_of(grid[0].arguments)
    plan = plan_runs(settings, variants)
    metrics = sorted({name for task in plan.loaded.tasks.values() for name in task.higher_is_better()})
    if metric is not None and metric not in metrics:
        raise unknown_metric(metric, metrics)
    return replace(plan, command="sweep")
