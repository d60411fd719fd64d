"""Validation: the best heads together, in several numbers, on documents of their own.

Of the sets for which there is evidence, the smallest is chosen that cannot be told from the best; where there is evidence for
none, no head is (`evidence` says what is asked for).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.evidence import LEVEL, gain_interval, p_values, small_moves, smoothed_accuracy
from act_eval.search.heads import Head, profile_from_heads
from act_eval.search.results import ValidatedGain
from act_eval.search.scores import PairedScores, Scores
from act_eval.search.selection import choose_head_set
from act_eval.search.stages import Stages
from act_eval.search.validation_plan import ValidationPlan

_SMOOTHING_OF_FIRST_ROUND = 0.5


@dataclass(frozen=True)
class Validation:
    """What validation found.

    Attributes:
        chosen: the heads; none where there is no evidence for any set.
        head_sets: a row for each number of heads, with the columns `heads`, `chosen` (True in one row at most: no heads need
            no choice, but have True where nothing else is chosen), `p_value` (see `evidence`; NaN for no heads and for sets
            that did not get beyond the first round), `accuracy_low` and `accuracy_high` (95%, of the set by itself), where
            label priors are subtracted `plain_accuracy_change` (without that), and those of `PairedScores.changes`.
        gain: of the chosen set, or else of the best that was tried; None where there were no candidates.
        cost: layer passes.
    """

    chosen: list[Head]
    head_sets: pd.DataFrame
    gain: ValidatedGain | None
    cost: float


def validate_head_sets(
    stages: Stages,
    ranked: Sequence[Head],
    documents: Sequence[CalibrationDocument],
    plan: ValidationPlan,
    profile_of: Callable[[Sequence[Head]], HeadProfile] = profile_from_heads,
) -> Validation:
    """Calibrate the best heads together, in several numbers, and choose a number.

    Args:
        stages: run what is asked of the model.
        ranked: candidates, the best first.
        documents: on which none of them was chosen.
        plan: for as many candidates and these documents.
        profile_of: makes the profile of some heads.
    """
    found = _RoundsOfHeadSets.run(stages, ranked, documents, plan, profile_of)
    baseline = found.scores[0]
    finalists = [size for size in plan.sizes if len(found.scores[size].correct) == len(documents)]
    of_sets = [found.scores[size] for size in finalists]
    uses_labels = stages.priors.uses_labels
    p = np.full(len(finalists), np.nan)
    if len(finalists) > 1:
        dropped = len(plan.sizes) - len(finalists)
        p[1:] = p_values(found.tasks, baseline, of_sets[1:], found.has_choices, dropped, uses_labels)
    correct, margin = np.stack([scores.correct for scores in of_sets]), np.stack([scores.margin for scores in of_sets])
    if not uses_labels:
        correct = np.zeros_like(correct)  # as if nothing was known of it
    raises = correct.mean(-1) > correct[0].mean() if uses_labels else margin.mean(-1) > margin[0].mean()
    place = choose_head_set(correct, margin, (np.nan_to_num(p, nan=1.0) <= LEVEL) & raises)
    chosen_size = 0 if place is None else finalists[place]
    p_of_size = dict(zip(finalists, p.tolist(), strict=True))
    rows = [found.row(size, size == chosen_size, p_of_size.get(size, np.nan)) for size in plan.sizes]
    value = _accuracy_and_margin if uses_labels else _margin
    best = chosen_size or max(finalists[1:], key=lambda size: value(found.scores[size]), default=None)
    gain = None if best is None else ValidatedGain.from_row(rows[plan.sizes.index(best)], by_entropy=not uses_labels)
    return Validation(list(ranked[:chosen_size]), pd.DataFrame(rows), gain, found.cost)


@dataclass(frozen=True)
class _RoundsOfHeadSets:
    """What the rounds found.

    Attributes:
        documents: those of scores, in their order: of the first round, and after them those of the second.
        scores: by number of heads, `[documents]`, after correction; of sets that were dropped, of the first round alone.
        uncorrected: bool by number of heads, `[documents]`, which documents are right without correction.
        corrects: whether these may differ.
        cost: layer passes.
    """

    documents: Sequence[CalibrationDocument]
    scores: Mapping[int, Scores]
    uncorrected: Mapping[int, np.ndarray]
    corrects: bool
    cost: float

    @classmethod
    def run(
        cls,
        stages: Stages,
        ranked: Sequence[Head],
        documents: Sequence[CalibrationDocument],
        plan: ValidationPlan,
        profile_of: Callable[[Sequence[Head]], HeadProfile],
    ) -> _RoundsOfHeadSets:
        """Score the sets of a plan; the arguments are those of `validate_head_sets`."""
        profiles = {size: profile_of(ranked[:size]) for size in plan.sizes}
        is_one_round = plan.first == len(documents)
        name = "" if is_one_round else f"first{plan.first}-"
        first = {size: stages.score_head_set(documents[: plan.first], profile, name) for size, profile in profiles.items()}
        in_order = [documents[number] for number in first[0][0]]
        cost = sum(cost for _, _, cost in first.values())
        uncorrected = {size: scores for size, (_, scores, _) in first.items()}
        if not is_one_round:
            so_far = {size: stages.priors.correct(in_order, raw) for size, raw in uncorrected.items()}
            rest = documents[plan.first :]
            for size in _promising(in_order, so_far, plan.kept, stages.priors.uses_labels):
                order, scores, cost_of_set = stages.score_head_set(rest, profiles[size], f"rest{plan.first}-")
                uncorrected[size] = Scores.concatenate([uncorrected[size], scores])
                cost += cost_of_set
            in_order += [rest[number] for number in order]
        corrected = {size: stages.priors.correct(in_order[: len(raw.correct)], raw) for size, raw in uncorrected.items()}
        right = {size: raw.correct for size, raw in uncorrected.items()}
        return cls(in_order, corrected, right, stages.priors.corrects, cost)

    @property
    def tasks(self) -> np.ndarray:
        """str `[documents]`."""
        return _tasks(self.documents)

    @property
    def has_choices(self) -> np.ndarray:
        """bool `[documents]`, False for documents of `loglikelihood` tasks."""
        return _has_choices(self.documents)

    def row(self, size: int, is_chosen: bool, p_value: float) -> dict[str, Any]:
        """The row of a set in the table, see `Validation.head_sets`."""
        after = self.scores[size]
        n = len(after.correct)
        before = Scores(self.scores[0].correct[:n], self.scores[0].margin[:n])
        low, high = gain_interval(before.correct, after.correct) if size else (np.nan, np.nan)
        row = {"heads": size, "chosen": is_chosen, "p_value": p_value, "accuracy_low": low, "accuracy_high": high}
        if self.corrects:
            row["plain_accuracy_change"] = self.uncorrected[size].mean() - self.uncorrected[0][:n].mean()
        return row | PairedScores(self.tasks[:n], before, after).changes


def _promising(
    documents: Sequence[CalibrationDocument], scores: Mapping[int, Scores], number: int, uses_labels: bool
) -> list[int]:
    """The sets that go on to the second round, by their number of heads, ascending: no heads, and the best others."""
    if not uses_labels:
        of_margin = sorted((size for size in scores if size), key=lambda size: (-scores[size].margin.mean(), size))
        return sorted([0, *of_margin[: number - 1]])
    moved_by = small_moves(_tasks(documents), scores[0].margin, _has_choices(documents), _SMOOTHING_OF_FIRST_ROUND)
    value = {size: smoothed_accuracy(of_set, moved_by).mean() for size, of_set in scores.items() if size}
    best = sorted(value, key=lambda size: (-value[size], size))
    return sorted([0, *best[: number - 1]])


def _tasks(documents: Sequence[CalibrationDocument]) -> np.ndarray:
    return np.array([document.task for document in documents])


def _has_choices(documents: Sequence[CalibrationDocument]) -> np.ndarray:
    return np.array([bool(document.gold) for document in documents])


def _margin(scores: Scores) -> tuple[float, ...]:
    return (float(scores.margin.mean()),)


def _accuracy_and_margin(scores: Scores) -> tuple[float, ...]:
    return float(scores.correct.mean()), float(scores.margin.mean())
