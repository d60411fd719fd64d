"""`act-eval tasks`: the project's tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from act_eval.cli.terminal import console, say


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="Show a prompt of this task; its dataset is loaded.", show_default="list all tasks")
    ] = None,
) -> None:
    """List the project's tasks and groups, or show one task's prompt.

    Example: act-eval tasks demo_topic
    """
    import pandas as pd

    from act_eval.harness.tasks import describe_tasks, example_prompt
    from act_eval.tables import TextTable

    if name is not None:
        print(example_prompt(name))
        return
    descriptions, groups = describe_tasks()
    rows = [
        {
            "task": task.name,
            "dataset": task.dataset,
            "evaluated": f"{task.split_sizes[task.evaluation_split]:,} {task.evaluation_split}",
            "metrics": ", ".join(task.metrics),
            "shots": f"{task.num_fewshot} of {task.split_sizes[task.fewshot_split]:,} {task.fewshot_split}",
        }
        for task in descriptions
    ]
    table = TextTable("", pd.DataFrame(rows), rows[0])
    console.print(table.to_terminal(wrapped="metrics"))
    say(f"group {group}: {', '.join(members)}" for group, members in groups.items())
