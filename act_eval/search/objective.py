"""What a search wants to rise: the margin, the margin after label priors are subtracted, the accuracy, or minus the entropy.

A model that prefers one label whatever the text is gains accuracy by any shift of that preference, with which calibration then
gets credit for what a constant could do. Batch calibration (Zhou et al., "Batch Calibration", ICLR 2024) takes such a shift
away: from the log-probability of each choice, the log of the choice's mean probability over the documents of its task is
subtracted (probabilities are a softmax over the choices). The corrected margin is the margin of what is left, and a document
is right by it where it is above 0.

Baseline and each head, or head set, are corrected by priors of their own, of the documents that they are scored on. A document
counts in its own prior: its share is the same on both sides of a comparison, and priors of a few documents stay finite.
Priors that are cross-fitted belong to the report, which compares accuracies and not heads.

Only tasks whose documents all have the same choices have label priors; all others keep the plain margin.

The entropy needs no labels: it is that of the probabilities of a document's choices, in nats, as ZeroTuning lowers it
(arXiv 2505.11739; there, of the next token). Minus the entropy stands in place of the margin. Whether a document is right is
told, but decides nothing (`uses_labels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.special import entr, log_softmax, logsumexp, softmax

from act_eval.errors import SettingError
from act_eval.search.documents import CalibrationDocument
from act_eval.search.scores import Scores
from act_eval.search.settings import Objective

_LEAST_LOG_PRIOR = -700.0  # of a choice that no document gives any probability


@dataclass(frozen=True)
class LabelPriors:
    """Which tasks have label priors, and what becomes of scores when these are subtracted.

    Attributes:
        num_labels: how many choices the documents of each task have, for tasks that are corrected; by default none is.
        most_choices: how many choices a document has at most, of any task.
    """

    num_labels: Mapping[str, int] = field(default_factory=dict)
    most_choices: int = 1
    uses_labels: ClassVar[bool] = True

    @classmethod
    def of_search(cls, objective: Objective, documents: Sequence[CalibrationDocument]) -> LabelPriors:
        """Find the tasks that an objective corrects.

        Args:
            objective: "margin" and "accuracy" correct none, "corrected-margin" all whose documents have the same choices;
                "entropy" gives scores of its own, see `MinusEntropy`.
            documents: all documents of the search.

        Raises:
            SettingError: the objective is entropy, and a document has no choices.
        """
        if objective == "entropy":
            return MinusEntropy.of_documents(documents)
        choices: dict[str, set[tuple[tuple[int, ...], ...]]] = {}
        for document in documents:
            continuations = tuple(continuation for _, continuation in document.requests) if document.gold else ()
            choices.setdefault(document.task, set()).add(continuations)
        same = {task: len(next(iter(of_task))) for task, of_task in choices.items() if len(of_task) == 1}
        num_labels = {task: labels for task, labels in same.items() if labels > 1} if objective == "corrected-margin" else {}
        return cls(num_labels, max(len(document.requests) for document in documents))

    @property
    def corrects(self) -> bool:
        """Whether any task is corrected, so that log-probabilities of choices have to be kept."""
        return bool(self.num_labels)

    def correct(self, documents: Sequence[CalibrationDocument], scores: Scores) -> Scores:
        """Subtract label priors from the scores of tasks that have them.

        Args:
            documents: those of the scores, in their order. Priors are of these documents.
            scores: `[..., documents]`, with the log-probabilities of choices where any task is corrected.

        Returns:
            Scores whose `margin` and `correct` are after correction; other tasks, and log-probabilities, stay as they are.
        """
        if not self.corrects:
            return scores
        if scores.log_probs is None:
            raise ValueError("scores without log-probabilities of choices cannot be corrected.")
        is_right, margin = scores.correct.copy(), scores.margin.copy()
        for task, labels in self.num_labels.items():
            of_task, gold = _of_task(documents, task, labels)
            if not len(of_task):
                continue
            values = _corrected(scores.log_probs[..., :labels, of_task])
            best = values.argmax(-2)
            is_right[..., of_task] = gold[best, np.arange(len(of_task))]
            right, other = (np.where(mask, values, -np.inf).max(-2) for mask in (gold, ~gold))
            margin[..., of_task] = np.where(gold.all(0), 0.0, right - np.where(gold.all(0), 0.0, other))
        return Scores(is_right, margin, scores.log_probs)

    def slopes(self, documents: Sequence[CalibrationDocument], log_probs: np.ndarray) -> list[np.ndarray]:
        """The derivative of the sum of all documents' margins by the log-probability of each choice of each document.

        A corrected margin depends on all documents of its task through their prior. The sum of its derivatives is therefore
        taken apart by the document whose log-probabilities change, which adds up to the whole: with p the probabilities of a
        document, g and o its best right and best other choice, n documents and P their mean probabilities, choice j has

            [j = g] - [j = o] - p_j (a_j - sum_c a_c p_c),  a_c = (documents with g = c - documents with o = c) / (n P_c).

        Args:
            documents: all over which priors are taken.
            log_probs: float64 `[choices, documents]`, NaN where a document has fewer choices.

        Returns:
            For each document, float64 `[choices]`.
        """
        slopes = [
            margin_slopes(document, log_probs[: len(document.requests), number]) for number, document in enumerate(documents)
        ]
        for task, labels in self.num_labels.items():
            of_task, _ = _of_task(documents, task, labels)
            if not len(of_task):
                continue
            values = log_probs[:labels, of_task]
            after = _corrected(values)
            chosen = np.stack(
                [margin_slopes(documents[number], after[:, place]) for place, number in enumerate(of_task)], axis=-1
            )
            probabilities = np.exp(log_softmax(values, axis=0))
            mean = np.maximum(probabilities.mean(-1), np.exp(_LEAST_LOG_PRIOR))
            by_prior = chosen.sum(-1) / (len(of_task) * mean)
            through_priors = probabilities * (by_prior[:, None] - by_prior @ probabilities)
            for place, number in enumerate(of_task):
                slopes[number] = chosen[:, place] - through_priors[:, place]
        return slopes


@dataclass(frozen=True)
class MinusEntropy(LabelPriors):
    """Scores whose margin is minus the entropy of the probabilities of the choices, in nats."""

    uses_labels: ClassVar[bool] = False

    @classmethod
    def of_documents(cls, documents: Sequence[CalibrationDocument]) -> MinusEntropy:
        """Make it for the documents of a search. Raises SettingError where one has no choices."""
        without = next((document.task for document in documents if len(document.requests) < 2), None)
        if without is not None:
            raise SettingError(
                "objective",
                f"entropy is that of the choices, and documents of {without} have none: choose another, or leave it out.",
            )
        return cls(most_choices=max(len(document.requests) for document in documents))

    @property
    def corrects(self) -> bool:
        return True

    def correct(self, documents: Sequence[CalibrationDocument], scores: Scores) -> Scores:
        """Put minus the entropy in place of the margin; arguments as there."""
        if scores.log_probs is None:
            raise ValueError("scores without log-probabilities of choices have no entropy.")
        probabilities = softmax(np.where(np.isnan(scores.log_probs), -np.inf, scores.log_probs), axis=-2)
        return Scores(scores.correct, -entr(probabilities).sum(-2), scores.log_probs)

    def slopes(self, documents: Sequence[CalibrationDocument], log_probs: np.ndarray) -> list[np.ndarray]:
        """The derivative of minus the entropy by the log-probability of each choice: `p_j * (log p_j + entropy)`."""
        slopes = []
        for number, document in enumerate(documents):
            probabilities = softmax(log_probs[: len(document.requests), number])
            entropies = entr(probabilities)  # 0 of a choice without any probability
            slopes.append(probabilities * entropies.sum() - entropies)
        return slopes


def margin_slopes(document: CalibrationDocument, values: np.ndarray) -> np.ndarray:
    """The derivative of one document's margin by the values that it is a difference of.

    Args:
        document: of a task with choices, or a `loglikelihood` one.
        values: float64 `[choices]`.

    Returns:
        float64 `[choices]`: 1 for the best right choice, -1 for the best other, 0 for the rest and where all are right.
    """
    slopes = np.zeros(len(values))
    if not document.gold:
        slopes[0] = 1.0
        return slopes
    gold = np.isin(np.arange(len(values)), document.gold)
    if not gold.all():
        slopes[np.where(gold, values, -np.inf).argmax()] = 1.0
        slopes[np.where(gold, -np.inf, values).argmax()] = -1.0
    return slopes


def _of_task(documents: Sequence[CalibrationDocument], task: str, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents of a task, int64 `[of the task]`, and which labels are right in each, bool `[labels, of the task]`."""
    of_task = np.array([number for number, document in enumerate(documents) if document.task == task], dtype=int)
    gold = np.zeros((labels, len(of_task)), dtype=bool)
    for place, number in enumerate(of_task):
        gold[list(documents[number].gold), place] = True
    return of_task, gold


def _corrected(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities of labels less the log of their mean probabilities, float64 `[..., labels, documents]` both."""
    normalized = log_softmax(log_probs, axis=-2)
    log_priors = logsumexp(normalized, axis=-1, keepdims=True) - np.log(log_probs.shape[-1])
    return normalized - np.maximum(log_priors, _LEAST_LOG_PRIOR)
