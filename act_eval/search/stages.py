"""The stages of a search: what is asked of the model for a list of documents, unit by unit.

What a stage keeps on disk is named here alone, and those names stay what they are, so that a search goes on from units that an
earlier version wrote: a "union" is a head set, and "plain" is the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.exact import HeadScores, layers_to_run
from act_eval.search.heads import Head
from act_eval.search.piece_file import Arrays
from act_eval.search.pieces import Pieces
from act_eval.search.scores import Scores
from act_eval.search.units import Stage, UnitRunner

_PASSES_OF_ESTIMATES = 3  # one forwards, and one backwards, which counts twice


@dataclass(frozen=True)
class EstimatedHeads:
    """First-order estimates of all heads that are searched.

    Attributes:
        margin_changes: float64 `[heads, documents]`, nats, in the order of the search's heads and documents.
        affected: bool of the same shape: whether calibrating the head changes anything in the document.
        cost: layer passes.
        full_pass: layer passes of one pass over the documents.
    """

    margin_changes: np.ndarray
    affected: np.ndarray
    cost: float
    full_pass: float

    @property
    def mean_changes(self) -> np.ndarray:
        """The mean margin change of each head over the documents, float64 `[heads]`."""
        return self.margin_changes.mean(-1)

    @property
    def affected_shares(self) -> np.ndarray:
        """The share of documents in which each head changes anything, float64 `[heads]`."""
        return self.affected.mean(-1)


@dataclass(frozen=True)
class Stages:
    """Runs the stages of a search.

    Attributes:
        units: computes and keeps units.
        evaluator: asks the model.
    """

    units: UnitRunner
    evaluator: HeadEvaluator

    def estimate_heads(self, documents: Sequence[CalibrationDocument]) -> EstimatedHeads:
        """Estimate all heads on some documents."""

        def compute(batch: Sequence[CalibrationDocument], pieces: Pieces) -> Arrays:
            with self.evaluator.telling_of_layers(lambda share: pieces.reach(share / _PASSES_OF_ESTIMATES, computed=True)):
                estimates = self.evaluator.estimate(batch)
            return {
                "margin_change": estimates.margin_change,
                "affected": estimates.affected,
                "cost": np.array(estimates.cost),
                "plain_cost": np.array(estimates.full_pass),
            }

        layers = _PASSES_OF_ESTIMATES * self.evaluator.num_layers
        stage = Stage("estimate", "estimates", "estimating all heads", layers)
        result = self.units.run(stage, documents, compute)
        arrays, columns = result.arrays, np.argsort(result.order)
        changes, affected = (arrays[name].reshape(-1, len(documents))[:, columns] for name in ("margin_change", "affected"))
        return EstimatedHeads(changes, affected, float(arrays["cost"]), float(arrays["plain_cost"]))

    def score_heads(
        self, name: str, documents: Sequence[CalibrationDocument], heads: Sequence[Head], text: str
    ) -> tuple[np.ndarray, HeadScores]:
        """Score documents without calibration, and exactly with each of some heads calibrated alone.

        Args:
            name: prefix of the units' names.
            documents: at least one.
            heads: at least one.
            text: of the progress bar.

        Returns:
            The documents of the scores by their numbers in `documents`, int64 `[documents]`, and the scores.
        """

        def compute(batch: Sequence[CalibrationDocument], pieces: Pieces) -> Arrays:
            self._check_resuming(batch)
            scores = self.evaluator.score_heads(batch, heads, pieces)
            return {
                "correct": np.concatenate([scores.baseline.correct[None], scores.calibrated.correct]),
                "margin": np.concatenate([scores.baseline.margin[None], scores.calibrated.margin]),
                "cost": np.array(scores.cost),
                "plain_cost": np.array(scores.baseline_cost),
            }

        layers = sum(layers_to_run(self.evaluator.num_layers, heads))
        stage = Stage(name, "exact", text, layers, about=str(list(heads)))
        result = self.units.run(stage, documents, compute)
        correct, margin = result.arrays["correct"], result.arrays["margin"]
        baseline, calibrated = Scores(correct[0], margin[0]), Scores(correct[1:], margin[1:])
        costs = float(result.arrays["cost"]), float(result.arrays["plain_cost"])
        return result.order, HeadScores(baseline, calibrated, *costs)

    def score_head_set(
        self, documents: Sequence[CalibrationDocument], profile: HeadProfile
    ) -> tuple[np.ndarray, Scores, float]:
        """Score documents with all heads of a profile calibrated together.

        Returns:
            The documents of the scores by their numbers in `documents`, int64 `[documents]`, the scores, and the cost in layer
            passes.
        """

        def compute(batch: Sequence[CalibrationDocument], pieces: Pieces) -> Arrays:
            with self.evaluator.telling_of_layers(lambda share: pieces.reach(share, computed=True)):
                scores, cost = self.evaluator.score_profile(batch, profile)
            return {"correct": scores.correct, "margin": scores.margin, "cost": np.array(cost)}

        name, text = f"union{profile.size}-{profile.content_hash}", f"validating {profile.size} heads together"
        result = self.units.run(Stage(name, "validation", text, self.evaluator.num_layers), documents, compute)
        return result.order, Scores(result.arrays["correct"], result.arrays["margin"]), float(result.arrays["cost"])

    def _check_resuming(self, documents: Sequence[CalibrationDocument]) -> None:
        """Find out once whether passes can be resumed at a layer: a search that goes on keeps to what it found."""
        scorer = self.evaluator.single_heads
        if not scorer.resuming_is_checked:
            found = self.units.once("resuming", lambda: {"error": np.array(scorer.resuming_error(documents))})
            scorer.rely_on_resuming(float(found["error"]))
