"""The stages of a search: what is asked of the model for a list of documents, unit by unit.

What a stage keeps on disk is named here alone, and those names stay what they are, so that a search goes on from units that an
earlier version wrote: a "union" is a head set, and "plain" is the baseline. Where label priors are subtracted, units hold the
log-probabilities of choices beside the scores before correction, since priors are of all documents of a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.exact import HeadScores, layers_to_run
from act_eval.search.heads import Head
from act_eval.search.objective import LabelPriors
from act_eval.search.passes import PASSES_OF_ESTIMATES
from act_eval.search.piece_file import Arrays
from act_eval.search.pieces import Pieces
from act_eval.search.scores import Scores
from act_eval.search.time_left import Part
from act_eval.search.units import Stage, UnitRunner


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
        priors: that are subtracted from scores; none by default.
        prefix: of the units' names, where a search asks the same for several methods.
    """

    units: UnitRunner
    evaluator: HeadEvaluator
    priors: LabelPriors = field(default_factory=LabelPriors)
    prefix: str = ""

    def estimate_heads(self, documents: Sequence[CalibrationDocument], calibrated: HeadProfile | None = None) -> EstimatedHeads:
        """Estimate all heads on some documents; where label priors are subtracted, a pass without gradients comes before.

        Args:
            documents: at least one.
            calibrated: heads that are calibrated meanwhile; none by default.
        """
        calibrated = calibrated or HeadProfile({})
        name = self.prefix + (f"estimate{calibrated.size}-{calibrated.content_hash}" if calibrated.size else "estimate")
        text = f"estimating all heads, {calibrated.size} of them calibrated" if calibrated.size else "estimating all heads"
        slopes, cost_of_priors = self._slopes(name, documents, calibrated) if self.priors.corrects else ({}, 0.0)

        def compute(batch: Sequence[CalibrationDocument], pieces: Pieces) -> Arrays:
            of_batch = [slopes[document] for document in batch] if slopes else None
            with self.evaluator.telling_of_layers(lambda share: pieces.reach(share / PASSES_OF_ESTIMATES, computed=True)):
                estimates = self.evaluator.estimate(batch, calibrated, of_batch)
            self._check_margins(batch, estimates.scores)
            return {
                "margin_change": estimates.margin_change,
                "affected": estimates.affected,
                "cost": np.array(estimates.cost),
                "plain_cost": np.array(estimates.full_pass),
            }

        layers = PASSES_OF_ESTIMATES * self.evaluator.num_layers
        result = self.units.run(Stage(name, "estimates", text, layers), documents, compute)
        arrays, columns = result.arrays, np.argsort(result.order)
        changes, affected = (arrays[name].reshape(-1, len(documents))[:, columns] for name in ("margin_change", "affected"))
        return EstimatedHeads(changes, affected, float(arrays["cost"]) + cost_of_priors, float(arrays["plain_cost"]))

    def _slopes(
        self, name: str, documents: Sequence[CalibrationDocument], calibrated: HeadProfile
    ) -> tuple[dict[CalibrationDocument, np.ndarray], float]:
        """Find the slope of each document, see `LabelPriors.slopes`, and what that costs in layer passes."""
        text = "label priors of the documents"
        order, scores, cost = self._score_profile(f"{name}-priors", "estimates", text, documents, calibrated)
        if scores.log_probs is None:
            raise ValueError("label priors are of log-probabilities, which were not kept.")
        in_order = [documents[number] for number in order]
        return dict(zip(in_order, self.priors.slopes(in_order, scores.log_probs), strict=True)), cost

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
            kept = self._kept(batch, scores.baseline), self._kept(batch, scores.calibrated)
            return {
                **{name: np.concatenate([kept[0][name][None], kept[1][name]]) for name in kept[0]},
                "cost": np.array(scores.cost),
                "plain_cost": np.array(scores.baseline_cost),
            }

        layers = sum(layers_to_run(self.evaluator.num_layers, heads))
        stage = Stage(f"{self.prefix}{name}", "exact", text, layers, about=str(list(heads)))
        result = self.units.run(stage, documents, compute)
        scores = _scores(result.arrays)
        costs = float(result.arrays["cost"]), float(result.arrays["plain_cost"])
        return result.order, HeadScores(scores[0], scores[1:], *costs)

    def score_head_set(
        self, documents: Sequence[CalibrationDocument], profile: HeadProfile, round_name: str = ""
    ) -> tuple[np.ndarray, Scores, float]:
        """Score documents with all heads of a profile calibrated together.

        Args:
            documents: at least one.
            profile: the heads; none is the baseline.
            round_name: prefix of the units' names, where head sets are scored in rounds.

        Returns:
            The documents of the scores by their numbers in `documents`, int64 `[documents]`, the scores before correction, and
            the cost in layer passes.
        """
        name = f"{self.prefix}{round_name}union{profile.size}-{profile.content_hash}"
        return self._score_profile(name, "validation", f"validating {profile.size} heads together", documents, profile)

    def score_to_tune(
        self, documents: Sequence[CalibrationDocument], profile: HeadProfile, parameters: Mapping[str, float]
    ) -> tuple[Scores, float]:
        """Score documents with all heads of a profile calibrated, to choose parameters of the method.

        Args:
            documents: at least one.
            profile: the heads.
            parameters: that the method has here.

        Returns:
            The scores after correction, and the cost in layer passes.
        """
        values = [f"{value:.10g}" for value in parameters.values()]
        name = "-".join([f"{self.prefix}tune{profile.size}-{profile.content_hash}", *values])
        text = f"trying {', '.join(f'{name} {value}' for name, value in zip(parameters, values, strict=True))}"
        order, scores, cost = self._score_profile(name, "exact", text, documents, profile)
        return self.priors.correct([documents[number] for number in order], scores), cost

    def _score_profile(
        self, name: str, part: Part, text: str, documents: Sequence[CalibrationDocument], profile: HeadProfile
    ) -> tuple[np.ndarray, Scores, float]:
        """As `score_head_set`, in units of a given name, for a part of the search."""

        def compute(batch: Sequence[CalibrationDocument], pieces: Pieces) -> Arrays:
            with self.evaluator.telling_of_layers(lambda share: pieces.reach(share, computed=True)):
                scores, cost = self.evaluator.score_profile(batch, profile)
            return {**self._kept(batch, scores), "cost": np.array(cost)}

        result = self.units.run(Stage(name, part, text, self.evaluator.num_layers), documents, compute)
        return result.order, _scores(result.arrays), float(result.arrays["cost"])

    def _check_margins(self, documents: Sequence[CalibrationDocument], scores: Scores) -> None:
        """Raise InfiniteMarginError where the search goes by margins, and one of these scores has one that is not finite."""
        if self.priors.uses_labels:
            self.evaluator.refuse_infinite_margins(documents, scores)

    def _kept(self, documents: Sequence[CalibrationDocument], scores: Scores) -> Arrays:
        """What units keep of scores, by name: log-probabilities where they are needed, with as many choices in all units."""
        self._check_margins(documents, scores)
        arrays = {"correct": scores.correct, "margin": scores.margin}
        if self.priors.corrects and scores.log_probs is not None:
            lacking = self.priors.most_choices - scores.log_probs.shape[-2]
            padding = [(0, 0)] * (scores.log_probs.ndim - 2) + [(0, lacking), (0, 0)]
            arrays["log_probs"] = np.pad(scores.log_probs, padding, constant_values=np.nan)
        return arrays

    def _check_resuming(self, documents: Sequence[CalibrationDocument]) -> None:
        """Find out once whether passes can be resumed at a layer: a search that goes on keeps to what it found."""
        scorer = self.evaluator.single_heads
        if not scorer.resuming_is_checked:
            found = self.units.once(f"{self.prefix}resuming", lambda: {"error": np.array(scorer.resuming_error(documents))})
            scorer.rely_on_resuming(float(found["error"]))


def _scores(arrays: Arrays) -> Scores:
    """The scores that units kept."""
    return Scores(arrays["correct"], arrays["margin"], arrays.get("log_probs"))
