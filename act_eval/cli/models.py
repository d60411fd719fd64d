"""`act-eval models`: the tested model families."""

from __future__ import annotations

from act_eval.cli.terminal import console, say


def models() -> None:
    """List the model families that ACT was tested on, and what holds for them.

    Example: act-eval models
    """
    import pandas as pd

    from act_eval.model_families import CHECKS, checked_by, checked_families
    from act_eval.tables import TextTable

    rows = [
        {
            "family": family.family,
            "transformers class": family.model,
            "attention": family.attention,
            "since": family.since,
            "checked": checked_by(family),
            "remarks": family.note,
        }
        for family in checked_families()
    ]
    table = TextTable("", pd.DataFrame(rows), rows[0])
    console.print(table.to_terminal(leave_out=["attention"], wrapped="remarks"))
    say(f"{check}: {meaning}" for check, meaning in CHECKS.items())
    say(["since: the oldest tested release of transformers in which it works"])
