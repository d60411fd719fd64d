"""What `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from act_eval.cli.terminal import console, say
from act_eval.errors import SettingError

if TYPE_CHECKING:
    from act_eval.compare import ForeseenRun
    from act_eval.study import StudySettings


def say_foreseen(runs: Sequence[ForeseenRun]) -> None:
    """Print for each task what a run of it asks, and how many of its runs are finished; then all of it in a line."""
    import pandas as pd

    from act_eval.tables import TextTable

    by_task: dict[str, list[ForeseenRun]] = {}
    for run in runs:
        by_task.setdefault(run.run.task, []).append(run)
    rows = [
        {
            "task": task,
            "documents": f"{of_task[0].documents:,}",
            "requests": f"{of_task[0].requests:,}",
            "tokens": f"{sum(run.tokens for run in of_task) / len(of_task):,.0f}",
            "runs": f"{len(of_task):,}",
            "finished": f"{sum(run.state == 'finished' for run in of_task):,}",
        }
        for task, of_task in by_task.items()
    ]
    console.print(TextTable("What each run asks", pd.DataFrame(rows), left=["task"]).to_terminal())
    missing = [run for run in runs if run.state != "finished"]
    lines = [
        f"{len(runs) - len(missing):,} of {len(runs):,} runs are finished. The others ask {_sum('documents', missing)} "
        f"documents with {_sum('tokens', missing)} tokens, those that may be generated among them."
    ]
    unsure = sum(run.state == "to run unless its model is the one that ran" for run in runs)
    if unsure:
        lines.append(
            f"{unsure:,} of these have results of a model whose files have changed since, or were touched: they are finished "
            "too if it is still the same model, which is seen when it is loaded."
        )
    say(lines)


def say_foreseen_study(settings: StudySettings, output: Path, points: float | None, pilot: Path | None) -> None:
    """Print what a study would search and run, and what its documents would show of a difference of so many points."""
    from act_eval.study.foresee import foresee_study

    if points is not None and not 0 < points <= 100:
        raise SettingError("expect", f"is a difference in percentage points, above 0 and at most 100, not {points:g}.")
    if pilot is not None and points is None:
        raise SettingError("pilot", "goes with --expect, the difference that the study is to find: give both.")
    foreseen = foresee_study(settings, output, None if points is None else points / 100, pilot)
    say([foreseen.search or f"The search is finished in {output}.", f"Evaluated are then: {'; '.join(foreseen.variants)}."])
    say_foreseen(foreseen.runs)
    if not foreseen.heads_are_found:
        say(["These are the runs of baseline and all heads; those of the other variants ask the same, but are not known yet."])
    say(expectation.sentence() for expectation in foreseen.expectations)


def _sum(name: str, runs: Sequence[ForeseenRun]) -> str:
    return f"{sum(getattr(run, name) for run in runs):,}"
