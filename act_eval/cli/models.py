"""`act-eval models`: the tested model families."""

from __future__ import annotations

from rich import box
from rich.table import Table

from act_eval.cli.terminal import console, say


def models() -> None:
    """List the model families that ACT was tested on, and what holds for them."""
    from act_eval.model_families import CHECKS, checked_by, checked_families

    table = Table("family", "transformers class", "attention", "since", "checked", "", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for family in checked_families():
        table.add_row(family.family, family.model, family.attention, family.since, checked_by(family), family.note)
    console.print(table)
    say(f"{check}: {meaning}" for check, meaning in CHECKS.items())
    say(["since: the oldest tested release of transformers in which it works"])
