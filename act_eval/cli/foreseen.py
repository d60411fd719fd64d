"""What `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from act_eval.cli.terminal import console, say

if TYPE_CHECKING:
    from act_eval.compare import ForeseenRun


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


def _sum(name: str, runs: Sequence[ForeseenRun]) -> str:
    return f"{sum(getattr(run, name) for run in runs):,}"
