"""Screening: estimate all heads, then score the promising ones exactly, in rounds that each drop some of them.

Successive halving: every round scores the heads that are left on further documents, and the next round goes on with the better
ones, within a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from act_eval.search.documents import CalibrationDocument
from act_eval.search.exact import HeadScores
from act_eval.search.heads import SearchSpace
from act_eval.search.results import Costs, MeasuredHeads
from act_eval.search.scores import PairedScores, Scores
from act_eval.search.selection import ROUNDS, plan_halving, survivors
from act_eval.search.stages import EstimatedHeads, Stages


@dataclass(frozen=True)
class _Round:
    """What one round found.

    Attributes:
        heads: the heads that were in it, by their numbers in the search space.
        documents: int64 `[documents]`, the documents of its scores by their numbers in the search.
        scores: of the heads in the order of `heads`.
    """

    heads: Sequence[int]
    documents: np.ndarray
    scores: HeadScores

    def calibrated(self, head: int) -> Scores:
        """The scores with one of its heads calibrated, `[documents]`."""
        return self.scores.calibrated[self.heads.index(head)]


def screen_heads(stages: Stages, space: SearchSpace, documents: Sequence[CalibrationDocument], budget: float) -> MeasuredHeads:
    """Measure the heads of a search space on some documents: estimate all, score the promising ones.

    Args:
        stages: run what is asked of the model.
        space: the heads.
        documents: at least one.
        budget: cost of all rounds, as a share of that of a full pass for each head.
    """
    heads = space.heads
    estimated = stages.estimate_heads(documents)
    rounds = _run_rounds(stages, space, documents, estimated, budget)
    scores = {
        heads[number]: _paired_scores(stages, number, [found for found in rounds if number in found.heads], documents)
        for number in (rounds[0].heads if rounds else ())
    }
    costs = Costs(estimated.full_pass, estimated.cost, sum(found.scores.cost for found in rounds))
    estimates, affected_shares = (
        dict(zip(heads, values, strict=True)) for values in (estimated.mean_changes, estimated.affected_shares)
    )
    return MeasuredHeads(scores, costs, estimates, affected_shares)


def _run_rounds(
    stages: Stages,
    space: SearchSpace,
    documents: Sequence[CalibrationDocument],
    estimated: EstimatedHeads,
    budget: float,
) -> list[_Round]:
    """Run the rounds; those that have no documents or no heads are left out.

    Args:
        stages: run what is asked of the model.
        space: the heads.
        documents: those of all rounds.
        estimated: for all heads.
        budget: as in `screen_heads`.
    """
    heads = space.heads
    promising = [
        number for number in np.argsort(-estimated.mean_changes, kind="stable").tolist() if estimated.affected[number].any()
    ]
    expected_costs = np.array([1 - layer / space.num_layers for layer, _ in heads]) * estimated.affected_shares
    plan = plan_halving(promising, expected_costs, budget * len(heads))
    competing = promising[: plan.heads_per_round[0]]
    rounds: list[_Round] = []
    start, spent = 0, 0.0
    for number, (share, _) in enumerate(ROUNDS):
        is_last = number == len(ROUNDS) - 1
        end = len(documents) if is_last else start + round(share * len(documents))
        if rounds and competing:
            changes = _corrected_changes(stages, competing, rounds, documents, estimated)
            competing = survivors(competing, changes, plan, number, spent)
        if end > start and competing:
            order, scores = stages.score_heads(
                f"exact{number}",
                documents[start:end],
                [heads[head] for head in competing],
                f"round {number + 1} of {len(ROUNDS)}: {len(competing)} heads",
            )
            rounds.append(_Round(competing, start + order, scores))
            cost = (scores.cost - scores.baseline_cost) / estimated.full_pass
            later = sum(of_later for of_later, _ in ROUNDS[number + 1 :])
            if cost > 0:
                # What is still to come is expected to be as much dearer, or cheaper, as this round was.
                plan = replace(plan, costs=plan.costs * cost / (share * plan.costs[competing].sum()))
            elif later:
                # No head changed anything in these documents: all that they change is in those that are still to come.
                plan = replace(plan, costs=plan.costs * (share + later) / later)
            spent += cost
        start = end
    return rounds


def _corrected_changes(
    stages: Stages,
    heads: Sequence[int],
    rounds: Sequence[_Round],
    documents: Sequence[CalibrationDocument],
    estimated: EstimatedHeads,
) -> np.ndarray:
    """Margin changes of heads on the documents so far, corrected for which documents were drawn, float64 `[heads, documents]`.

    The correction is the estimate: it tells documents apart far better than it is right. A change is the mean estimate over all
    documents, plus the error of the document's own estimate.
    """
    paired = [_paired_scores(stages, head, rounds, documents) for head in heads]
    exact = np.stack([scores.calibrated.margin - scores.baseline.margin for scores in paired])
    so_far = np.concatenate([found.documents for found in rounds])
    return estimated.mean_changes[heads, None] + exact - estimated.margin_changes[heads][:, so_far]


def _paired_scores(
    stages: Stages, head: int, rounds: Sequence[_Round], documents: Sequence[CalibrationDocument]
) -> PairedScores:
    """Join what the rounds found for a head that was in all of them; `documents` are all of the search."""
    in_order = [documents[number] for found in rounds for number in found.documents]
    baseline = Scores.concatenate([found.scores.baseline for found in rounds])
    calibrated = Scores.concatenate([found.calibrated(head) for found in rounds])
    corrected = (stages.priors.correct(in_order, scores) for scores in (baseline, calibrated))
    return PairedScores(np.array([document.task for document in in_order]), *corrected)
