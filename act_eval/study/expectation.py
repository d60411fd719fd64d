"""Whether a study's documents suffice: what they would show of a difference, before any of them is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from act_eval.errors import SettingError
from act_eval.report.load import load
from act_eval.report.pairing import pair
from act_eval.report.power import (
    MOST_DOCUMENTS,
    TaskDocuments,
    average_power,
    detectable_average,
    expected_discordance,
    needed_documents_of_average,
)
from act_eval.study_record import Score

ASSUMED_DISCORDANCES = (0.05, 0.1, 0.2)
"""Where there is no pilot: shares of documents whose answer changes."""

_COMPARISON = ["model", "settings", "num_fewshot", "limit"]  # what rows of one comparison have in common, seeds apart


@dataclass(frozen=True)
class Expectation:
    """What some documents would show of a difference, on average over their tasks.

    Attributes:
        difference: a share of 1.
        discordance: the share of documents whose answer changes, on average over tasks.
        documents: how many there are.
        probability: that the interval of the average leaves out zero.
        detectable: the smallest difference of which that probability is 80%; NaN where there is none.
        needed: how many documents the difference takes for 80%, with as many more in every task; NaN where that is more than
            `report.power.MOST_DOCUMENTS`.
    """

    difference: float
    discordance: float
    documents: int
    probability: float
    detectable: float
    needed: float

    def sentence(self) -> str:
        """What to tell the user, in a line."""
        points = _points(self.difference)
        detectable = "" if math.isnan(self.detectable) else f", and one of {_points(self.detectable)} with 80%"
        needed = f"more than {MOST_DOCUMENTS:,}" if math.isnan(self.needed) else f"about {self.needed:,}"
        return (
            f"With {100 * self.discordance:.0f}% of answers changed, {self.documents:,} documents show a difference of "
            f"{points} with a probability of {100 * self.probability:.0f}%{detectable}; "
            f"{points} take {needed} documents for 80%."
        )


def _points(share: float) -> str:
    points = 100 * share
    return f"{points:.1f} points" if points >= 1 else f"{points:.2g} points"


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


def discordance_of_pilot(folder: Path, scores: Mapping[str, Score]) -> dict[str, float]:
    """How many answers change, by task, from a comparison of a few documents.

    Of several settings of ACT, those count of which the largest share of answers changes; of several seeds their mean.

    Args:
        folder: with results of baseline and ACT.
        scores: by task, the score that counts.

    Raises:
        ReportError: there are no such results.
        SettingError: they lack a task, or its score is not 0 or 1 for each document.
    """
    values = pair(load([folder])).values
    found = {}
    for task, score in scores.items():
        of_score = (values["task"] == task) & (values["metric"] == score.metric) & (values["filter"] == score.filter)
        rows, name = values[of_score], f"{task} by {score.metric} ({score.filter})"
        if rows.empty:
            raise SettingError("pilot", f"{folder} holds no paired comparison of {name}: compare it there first.")
        if not rows[["baseline", "calibrated"]].isin((0, 1)).all(axis=None):
            raise SettingError(
                "pilot",
                f"{folder} does not say how many answers change, for {name} is not 0 or 1 for each document: leave it out.",
            )
        changed = rows.assign(
            comparison=rows.groupby(_COMPARISON, dropna=False, observed=True).ngroup(),
            changed=rows["baseline"] != rows["calibrated"],
        )
        shares = changed.groupby("comparison")["changed"].mean()
        of_most = changed[changed["comparison"] == shares.idxmax()]
        seeds = of_most["seed"].nunique(dropna=False)
        found[task] = expected_discordance(of_most["changed"].sum() / seeds, len(of_most) / seeds)
    return found
