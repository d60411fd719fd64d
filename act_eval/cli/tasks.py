"""`act-eval tasks`: the project's tasks."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from act_eval.cli.terminal import console, say


def tasks(
    name: Annotated[str | None, typer.Argument(help="Show a prompt of this task; its dataset is loaded.")] = None,
) -> None:
    """List the project's tasks and groups, or show one task's prompt."""
    from act_eval.harness.tasks import describe_tasks, example_prompt

    if name is not None:
        print(example_prompt(name))
        return
    descriptions, groups = describe_tasks()
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for column in ("dataset", "evaluated", "shots", "metrics"):
        table.add_column(column, overflow="fold")
    for task in descriptions:
        evaluated = f"{task.split_sizes[task.evaluation_split]:,} {task.evaluation_split}"
        shots = f"{task.num_fewshot} of {task.split_sizes[task.fewshot_split]:,} {task.fewshot_split}"
        table.add_row(task.name, task.dataset, evaluated, shots, ", ".join(task.metrics))
    console.print(table)
    say(f"group {group}: {', '.join(members)}" for group, members in groups.items())
