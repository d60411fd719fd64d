"""The arithmetic of selection: which heads are looked at next, and which are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from act_eval.search.heads import Head
from act_eval.search.scores import mean_and_error
from act_eval.search.settings import Objective, Selection

# The rounds of successive halving: each one's share of the documents, and of the heads that enter the first round.
ROUNDS = ((0.25, 1.0), (0.25, 0.7), (0.5, 0.5))
_PLANNED_SHARE_OF_BUDGET = 0.75
_CLEARLY_WORSE = 0.001


@dataclass(frozen=True)
class HalvingPlan:
    """How many heads each round is meant to have, and what each head costs.

    Attributes:
        heads_per_round: planned numbers, one for each of `ROUNDS`.
        costs: float64 `[heads]`, of a head on all documents, in full passes.
        budget: full passes for all rounds together.
    """

    heads_per_round: tuple[int, ...]
    costs: np.ndarray
    budget: float


def plan_halving(order: Sequence[int], costs: np.ndarray, budget: float) -> HalvingPlan:
    """Choose how many of the most promising heads enter the first round, so that three quarters of the budget are planned for.

    What is left of the budget is for heads that a round cannot tell from those that stay.

    Args:
        order: numbers of heads, most promising first.
        costs: float64 `[heads]`, of a head on all documents, in full passes.
        budget: full passes.
    """
    cumulated = np.cumsum(costs[list(order)])
    for entering in range(len(order), 0, -1):
        numbers = tuple(max(1, int(np.ceil(entering * heads_share))) for _, heads_share in ROUNDS)
        cost = sum(share * cumulated[number - 1] for (share, _), number in zip(ROUNDS, numbers, strict=True))
        if cost <= _PLANNED_SHARE_OF_BUDGET * budget or entering == 1:
            return HalvingPlan(numbers, costs, budget)
    return HalvingPlan((0,) * len(ROUNDS), costs, budget)


def survivors(heads: Sequence[int], margin_changes: np.ndarray, plan: HalvingPlan, next_round: int, spent: float) -> list[int]:
    """Choose the heads that go on to the next round.

    The planned number with the greatest mean change goes on, and after them those that a paired t-test over the documents
    does not find worse than the last of these (one-sided, 0.1%), as long as the budget allows.

    Args:
        heads: numbers of the heads that were in the last round.
        margin_changes: float64 `[heads, documents]`, of all documents so far.
        plan: of the search.
        next_round: its number, from 0.
        spent: full passes that the rounds so far have cost.
    """
    order = np.argsort(-margin_changes.mean(-1), kind="stable")
    number = min(plan.heads_per_round[next_round], len(order))
    kept, others = list(order[:number]), order[number:]
    remaining_share = sum(share for share, _ in ROUNDS[next_round:])
    planned = spent + sum(
        share * plan.costs[[heads[place] for place in order[: plan.heads_per_round[later]]]].sum()
        for later, (share, _) in enumerate(ROUNDS)
        if later >= next_round
    )
    for place in others:
        planned += remaining_share * plan.costs[heads[place]]
        if planned > plan.budget or _is_worse(margin_changes[place], margin_changes[order[number - 1]]):
            break
        kept.append(place)
    return [heads[place] for place in kept]


def _is_worse(changes: np.ndarray, reference: np.ndarray) -> bool:
    difference = changes - reference
    if np.allclose(difference, difference[0], rtol=1e-9, atol=1e-9):
        return bool(difference.mean() < 0)
    return bool(stats.ttest_1samp(difference, 0, alternative="less").pvalue < _CLEARLY_WORSE)


def ranked_candidates(
    table: pd.DataFrame, documents: int, selection: Selection, k: int | None, objective: Objective = "margin"
) -> list[Head]:
    """List the heads that alone are good enough, the one with the greatest change of the objective first.

    Args:
        table: see `head_table`.
        documents: how many there are; only heads that were scored on all of them are candidates.
        selection: "validated" asks for an objective that rises, "improving" for an accuracy that rises, and "top-k" for a place
            among the first `k`.
        k: for "top-k".
        objective: the accuracy, or what the table has as the margin.
    """
    scored, by = table[table["documents"] == documents], value_columns(objective)
    ranked = scored.sort_values(by, ascending=False, kind="stable")
    if selection == "top-k":
        chosen = ranked.head(k)
    else:
        chosen = ranked[ranked["accuracy_change" if selection == "improving" else by[0]] > 0]
    return [(int(layer), int(head)) for layer, head in zip(chosen["layer"], chosen["head"], strict=True)]


def value_columns(objective: Objective) -> list[str]:
    """The columns of a table of heads that say what a head is worth alone: where the first ones are equal, the next counts."""
    return ["accuracy_change", "margin_change"] if objective == "accuracy" else ["margin_change"]


def head_set_sizes(candidates: int) -> list[int]:
    """List how many of the best heads are tried together: 0, 1, 2, 4, ... and all."""
    sizes = [0, *(2**power for power in range(candidates.bit_length()))]
    return [*(size for size in sizes if size < candidates), candidates] if candidates else [0]


def choose_head_set(correct: np.ndarray, margin: np.ndarray, supported: np.ndarray) -> int | None:
    """Choose the smallest of the supported head sets that cannot be told from the best of them.

    The best has the highest accuracy, then margin. A smaller set is as good if neither its accuracy nor its margin lies
    below the best one's by more than one standard error, paired by document: what is not visible is not worth a head.

    Args:
        correct: bool `[head sets, documents]`, from the smallest set on.
        margin: float64, of the same shape.
        supported: bool `[head sets]`, whether there is evidence that a set does better than no heads, see `evidence`.

    Returns:
        Its place among the head sets; None where none is supported.
    """
    places = np.flatnonzero(supported).tolist()
    if not places:
        return None
    accuracy, mean_margin = correct.mean(-1), margin.mean(-1)
    best = max(places, key=lambda place: (accuracy[place], mean_margin[place], -place))
    scores = correct.astype(float), margin
    return next(place for place in places if not any(_is_lower(score[place], score[best]) for score in scores))


def _is_lower(score: np.ndarray, best: np.ndarray) -> bool:
    mean, error = mean_and_error(score - best)
    return bool(mean < -np.nan_to_num(error))
