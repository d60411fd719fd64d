"""Scores of documents, and how calibration changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """What documents get.

    Attributes:
        correct: bool `[..., documents]`, whether the model chooses a right answer, as lm-eval's `acc`; for `loglikelihood`
            tasks, whether greedy decoding gives the continuation.
        margin: float64 `[..., documents]`, log-probability of the best right choice minus that of the best other, in nats;
            for `loglikelihood` tasks, the log-probability of the continuation.
        log_probs: float64 `[..., choices, documents]`, log-probability of each choice, NaN where a document has fewer; None
            where it was not kept.
    """

    correct: np.ndarray
    margin: np.ndarray
    log_probs: np.ndarray | None = None

    def __getitem__(self, place: int | slice) -> Scores:
        """The scores at a place, or some places, of the first dimension."""
        return Scores(self.correct[place], self.margin[place], None if self.log_probs is None else self.log_probs[place])

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """Join the scores of several lists of documents into those of one list."""
        log_probs = [part.log_probs for part in parts if part.log_probs is not None]
        return cls(
            np.concatenate([part.correct for part in parts], axis=-1),
            np.concatenate([part.margin for part in parts], axis=-1),
            np.concatenate(log_probs, axis=-1) if len(log_probs) == len(parts) else None,
        )


@dataclass(frozen=True)
class PairedScores:
    """What the same documents get without calibration and with it.

    Attributes:
        tasks: str `[documents]`, names of their tasks.
        baseline: `[documents]`.
        calibrated: `[documents]`.
    """

    tasks: np.ndarray
    baseline: Scores
    calibrated: Scores

    @property
    def changes(self) -> dict[str, Any]:
        """How many `documents` there are, and what calibration changes on average.

        `accuracy_change` (a share) and `margin_change` (nats) are over all documents, with standard errors `accuracy_se` and
        `margin_se`, and `accuracy_change_TASK` and `margin_change_TASK` over those of each task.
        """
        accuracy = self.calibrated.correct.astype(float) - self.baseline.correct.astype(float)
        margin = self.calibrated.margin - self.baseline.margin
        found: dict[str, Any] = {"documents": len(self.tasks)}
        for name, changes in (("accuracy", accuracy), ("margin", margin)):
            found[f"{name}_change"], found[f"{name}_se"] = (float(value) for value in mean_and_error(changes))
        for task in sorted(set(self.tasks)):
            of_task = self.tasks == task
            found[f"accuracy_change_{task}"] = accuracy[of_task].mean()
            found[f"margin_change_{task}"] = margin[of_task].mean()
        return found


def mean_and_error(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the mean over the last dimension, and its standard error, which is NaN for a single document."""
    n = changes.shape[-1]
    if n < 2:
        return changes.mean(-1), np.full(changes.shape[:-1], np.nan)
    return changes.mean(-1), changes.std(-1, ddof=1) / np.sqrt(n)
