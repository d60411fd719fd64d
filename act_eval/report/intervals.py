"""Intervals of paired differences that hold when few documents change, of single tasks and of averages over tasks.

What the difference may be is drawn by weighing the documents at random, the same for both runs (Bayesian bootstrap, Rubin 1981,
"The Bayesian bootstrap"). Where each document is 0 or 1, this is the posterior of the shares of the four outcomes, both right,
one right, the other right, none right, as Bowyer et al. 2025 advise ("Position: Don't use the CLT in LLM evals with fewer than
a few hundred datapoints").

Documents that were seen are not all there is: without one that changed, they alone would say that none ever does. So two more
that were not seen are in every draw, one better and one worse, each with the weight `UNSEEN` of a document. That weight was
chosen by exact coverage, from 0.5 to 1: with 0.8, 95% intervals of 0/1 scores hold the true difference in 93% to 98% of all
samples, for 20, 56, 100, 200, 500 and 2,000 documents of which up to 20% change, all one way, 3 to 1, or half each way, as soon
as five are expected to change. (Between these points there are narrow dips, the deepest to 92.7%, where all changes are one way
and two or three are expected.) Where fewer than five are expected, coverage reaches 100%: an interval that does not exclude
changes that it has not seen can do no less. An average over tasks has one such pair of documents, shared by its tasks in
proportion to how far one document of theirs moves it. It covers as single tasks do, when changes are weighed by how far they
move it: where a small task moves an average most and few of its documents are expected to change, coverage is above 98%.

How far other values than 0 and 1 change is itself known from the documents alone, and from few of them badly: weighing them
spreads less than a mean of so few does (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). So each draw of
theirs is moved away from the difference as a draw of Student's t distribution with n - 1 degrees of freedom is, further than
one of a normal distribution with the estimated variance. Changes that are normal are covered in 92.5% to 100% of samples of 2
to 200 documents (0% to 94% without), as by Student's interval; where large changes are rare or one-sided, in fewer samples, as
by Student's interval too: log-normal changes in 80% to 93%.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from act_eval.report.aggregation import MEAN, aggregate

DRAWS = 10_000
UNSEEN = 0.8
SEED = 0

IntervalKind = Literal["posterior", "bootstrap", "posterior and bootstrap"]
SIDES = ("baseline", "calibrated")

_QUANTILES = (0.025, 0.975)
_WEIGHTS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class PairedDocuments:
    """What a metric's score is made of, document by document, in baseline and calibrated run.

    Attributes:
        baseline, calibrated: float `[documents]`, in the same order.
        weights: of the documents, float `[documents]`.
        aggregation: what makes a score of them, see `aggregation.aggregate`.
        largest_change: how far the value of a document can change at most; None where that is not known. It need not be said
            of values between 0 and 1.
    """

    baseline: np.ndarray
    calibrated: np.ndarray
    weights: np.ndarray
    aggregation: str = MEAN
    largest_change: float | None = None

    @classmethod
    def of(cls, values: pd.DataFrame, document: Sequence[str] = ("doc_id",)) -> PairedDocuments:
        """Those of rows of `Pairing.values` of one metric, averaged over seeds; columns `document` tell documents apart."""
        means = values.groupby(list(document), dropna=False)[[*SIDES, "weight"]].mean()
        baseline, calibrated, weights = (means[column].to_numpy(float) for column in (*SIDES, "weight"))
        return cls(baseline, calibrated, weights, str(values["aggregation"].iloc[0]))

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def scores(self) -> dict[str, float]:
        """The scores `baseline` and `calibrated`."""
        return {side: float(aggregate(getattr(self, side), self.weights, self.aggregation)) for side in SIDES}

    @property
    def delta(self) -> float:
        """The calibrated run's score minus the baseline's."""
        if self.aggregation == MEAN:
            return float((self.calibrated - self.baseline).mean())
        return self.scores["calibrated"] - self.scores["baseline"]

    @property
    def are_shares(self) -> bool:
        """Whether the score is a mean of values between 0 and 1."""
        values = np.concatenate([self.baseline, self.calibrated])
        return self.aggregation == MEAN and bool(((values >= 0) & (values <= 1)).all())

    @property
    def are_outcomes(self) -> bool:
        """Whether the score is a mean of values that are all 0 or 1."""
        return self.are_shares and bool(np.isin(np.concatenate([self.baseline, self.calibrated]), (0, 1)).all())

    @property
    def largest_of_a_document(self) -> float | None:
        """How far the value of a document can change at most, and so the mean; None where that is not known."""
        return 1.0 if self.are_shares else self.largest_change

    @property
    def interval_kind(self) -> IntervalKind:
        """What the interval of these documents is."""
        return "posterior" if self.are_outcomes else "bootstrap"

    def draw(self, seed: int | Sequence[int] = SEED) -> DrawnDifferences:
        """Draw what the difference may be, with this seed."""
        return DrawnDifferences(self, tuple(np.atleast_1d(seed).tolist()))

    @property
    def unseen(self) -> np.ndarray:
        """The two documents that were not seen, float `[2, (baseline, calibrated, weight)]`.

        An outcome that was not seen is gained or lost. Any other value changes by more or by less than the mean change, by the
        root of the mean square of how far the changes that were seen lie from it, together with one imagined change that is as
        large as it can be; where no bound is known, as large as any that was seen, or, without one, as the values themselves.
        """
        unit = self.weights.mean()
        baseline = self.baseline.sum() / self.weights.sum()
        changes = (self.calibrated - self.baseline) / unit
        centre, size = (0.0, 1.0) if self.are_outcomes else (changes.mean(), self._size_of_unseen(changes))
        calibrated = baseline + np.array([centre + size, centre - size])
        return np.column_stack([np.full(2, baseline * unit), calibrated * unit, np.full(2, unit)])

    def _size_of_unseen(self, changes: np.ndarray) -> float:
        largest = self.largest_of_a_document
        if largest is None:
            largest = np.abs(changes).max() or np.abs(self.baseline).max() / self.weights.mean()
        deviations = (changes - changes.mean())[changes != 0]
        return float(np.sqrt((largest**2 + (deviations**2).sum()) / (1 + len(deviations))))


@dataclass(frozen=True)
class DrawnDifferences:
    """Draws of what the difference of some documents may be; the same seed gives the same.

    Attributes:
        documents: what is weighed at random.
        seed: of the draws.
    """

    documents: PairedDocuments
    seed: tuple[int, ...]

    def deltas(self, unseen: float = UNSEEN) -> np.ndarray:
        """The differences of scores, float `[draws]`; of other values than outcomes, spread as far as a t distribution is.

        Args:
            unseen: what each of the two documents that were not seen weighs, in documents.
        """
        documents, deltas = self.documents, self.weighed_deltas(unseen)
        if documents.are_outcomes:
            return deltas
        freedom = max(1, len(documents) - 1)
        squares = np.random.default_rng((*self.seed, 2)).chisquare(freedom, size=DRAWS)
        deltas = documents.delta + (deltas - documents.delta) * np.sqrt((freedom + 1) / squares)
        most = documents.largest_of_a_document
        return deltas if most is None else deltas.clip(-most, most)

    def weighed_deltas(self, unseen: float = UNSEEN) -> np.ndarray:
        """The differences of scores of the documents as they are weighed at random, float `[draws]`; see `deltas`."""
        weights = np.random.default_rng((*self.seed, 1)).standard_gamma(unseen, size=(DRAWS, 2))
        baseline, calibrated, total = (self._sums + weights @ self.documents.unseen).T[:, :, np.newaxis]
        function = self.documents.aggregation
        return aggregate(calibrated, total, function) - aggregate(baseline, total, function)

    @cached_property
    def _sums(self) -> np.ndarray:
        """Sums of baseline, calibrated values and weights over the documents that were seen, float `[draws, 3]`."""
        documents = self.documents
        values = np.column_stack([documents.baseline, documents.calibrated, documents.weights])
        kinds, counts = np.unique(values, axis=0, return_counts=True)  # the weights of equal documents sum to a gamma draw
        generator = np.random.default_rng((*self.seed, 0))
        at_once = max(1, _WEIGHTS_AT_ONCE // len(kinds))
        sizes = [min(at_once, DRAWS - start) for start in range(0, DRAWS, at_once)]
        return np.concatenate([generator.standard_gamma(counts, size=(size, len(kinds))) @ kinds for size in sizes])


def average_deltas(tasks: Sequence[DrawnDifferences], weights: np.ndarray) -> np.ndarray:
    """Draws of what the average of the differences of several tasks may be, float `[draws]`.

    Args:
        tasks: drawn with different seeds.
        weights: of the tasks, float `[tasks]`, which sum to 1.
    """
    unseen = unseen_of_tasks([len(task.documents) for task in tasks], weights)
    return weights @ np.array([task.deltas(of_task) for task, of_task in zip(tasks, unseen, strict=True)])


def unseen_of_tasks(sizes: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """What `UNSEEN` is for each task of an average, float `[tasks]`: in proportion to how far one document moves the average.

    Args:
        sizes: how many documents the tasks have.
        weights: of the tasks, float `[tasks]`.
    """
    leverage = weights / np.asarray(sizes)
    return UNSEEN * leverage / leverage.sum()


def interval_of(deltas: np.ndarray, delta: float) -> tuple[float, float]:
    """The 95% interval of a difference `delta`, which lies in it, from draws of what it may be."""
    low, high = np.quantile(deltas, _QUANTILES)
    return min(float(low), delta), max(float(high), delta)


def p_of(deltas: np.ndarray) -> float:
    """The two-sided p of no difference that agrees with `interval_of`: twice the share of draws on the smaller side of zero.

    At least 2 / (draws + 1), so that it says no more than so many draws can.
    """
    beyond = min(int((~(deltas > 0)).sum()), int((~(deltas < 0)).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(deltas)))


def kind_of_average(kinds: Iterable[IntervalKind]) -> IntervalKind:
    """What the interval of an average over tasks is, from those of its tasks."""
    (kind, *others) = sorted(set(kinds), reverse=True)
    return "posterior and bootstrap" if others else kind
