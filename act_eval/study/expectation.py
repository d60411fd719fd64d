"""Whether a study's documents suffice: what they would show of a difference, before any of them is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from act_eval.errors import SettingError
from act_eval.report.build import make_report
from act_eval.report.power import (
    TaskDocuments,
    average_power,
    detectable_average,
    expected_discordance,
    needed_documents_of_average,
)

ASSUMED_DISCORDANCES = (0.05, 0.1, 0.2)
"""Where there is no pilot: shares of documents whose answer changes."""


@dataclass(frozen=True)
class Expectation:
    """What some documents would show of a difference, on average over their tasks.

    Attributes:
        difference: a share of 1.
        discordance: the share of documents whose answer changes, on average over tasks.
        documents: how many there are.
        probability: that the interval of the average leaves out zero.
        detectable: the smallest difference of which that probability is 80%; NaN where there is none.
        needed: how many documents the difference takes for 80%, with as many more in every task.
    """

    difference: float
    discordance: float
    documents: int
    probability: float
    detectable: float
    needed: int

    def sentence(self) -> str:
        """What to tell the user, in a line."""
        points = f"{100 * self.difference:.1f} points"
        detectable = "" if math.isnan(self.detectable) else f", and one of {100 * self.detectable:.1f} points with 80%"
        return (
            f"With {100 * self.discordance:.0f}% of answers changed, {self.documents:,} documents show a difference of "
            f"{points} with a probability of {100 * self.probability:.0f}%{detectable}; "
            f"{points} take about {self.needed:,} documents for 80%."
        )


def expect(difference: float, documents: Mapping[str, int], discordance: Mapping[str, float]) -> Expectation:
    """Say what documents would show of a difference that is the same in every task.

    Args:
        difference: a share of 1, above 0.
        documents: how many there are, by task.
        discordance: share of documents whose answer changes, 0 to 1, by task.
    """
    tasks = [TaskDocuments(number, discordance[task]) for task, number in documents.items()]
    return Expectation(
        difference,
        sum(discordance[task] for task in documents) / len(documents),
        sum(documents.values()),
        average_power(difference, tasks),
        detectable_average(tasks),
        needed_documents_of_average(difference, tasks),
    )


def discordance_of_pilot(folder: Path, tasks: Mapping[str, str]) -> dict[str, float]:
    """How many answers change, by task, from a comparison of a few documents.

    Of several settings of ACT, those count of which most answers change.

    Args:
        folder: with results of baseline and ACT.
        tasks: names of tasks, and the metric of each that counts.

    Raises:
        ReportError: there are no such results.
        SettingError: they lack a task.
    """
    comparison = make_report([folder]).comparison
    found = {}
    for task, metric in tasks.items():
        rows = comparison[(comparison["task"] == task) & (comparison["metric"] == metric) & comparison["p"].notna()]
        if rows.empty:
            raise SettingError("pilot", f"{folder} holds no paired comparison of {task} by {metric}: compare it there first.")
        changed = (rows["only_baseline"] + rows["only_act"]).astype(int)
        most = changed.idxmax()
        found[task] = expected_discordance(int(changed[most]), int(rows["n"][most]))
    return found
