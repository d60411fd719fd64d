"""Evidence that head sets raise the accuracy, from documents on which no head was chosen.

Accuracy alone is slow evidence: few documents change from wrong to right, and the rest say nothing. The margin is quick, but a
rise of it may be worth nothing, as where sure answers become surer. So a set is *supported* only by two tests, each at 5%:

- its mean **margin** rises, and
- its **smoothed accuracy** rises: the accuracy that the documents would have on average if their margins were moved a little,
  where a document whose margin comes close to 0, or leaves it, counts in part, and one far from it not at all. A margin is
  moved by a normal error with a fifth of the spread of the task's baseline margins. For `loglikelihood` tasks, which have no
  other choices, it is the accuracy itself;

and if the accuracy that was counted rises as well. The first keeps out what raises the accuracy by chance answers, the second
what leaves the accuracy as it is.

Both tests are paired by document and corrected for the number of sets: the sign of each document's changes is flipped at
random, for all sets together, and a set's p is the share of flips in which any set does as well as it does (max-T; Westfall and
Young, "Resampling-Based Multiple Testing", 1993). What counts is the mean over documents in standard errors within tasks, since
heads that help in one task and hurt in another are no error of the mean over both. The p of a set is the greater of the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr
from scipy.stats import median_abs_deviation, norm

from act_eval.search.scores import Scores

LEVEL = 0.05
_SMOOTHING = 0.2  # of the spread of a task's baseline margins
_FLIPS = 9999
_FLIPS_AT_ONCE = 500
_ROUNDING = 1e-9


def p_values(
    tasks: np.ndarray,
    baseline: Scores,
    of_sets: Sequence[Scores],
    has_choices: np.ndarray,
    dropped: int = 0,
    uses_labels: bool = True,
) -> np.ndarray:
    """Test whether head sets do better than no heads.

    Args:
        tasks: str `[documents]`.
        baseline: without calibration, `[documents]`.
        of_sets: with each set of heads, `[documents]` each; at least one.
        has_choices: bool `[documents]`, False for documents of `loglikelihood` tasks.
        dropped: how many further sets were tried on some of the documents, and dropped for what was seen there. They count
            as if each were tested by itself.
        uses_labels: whether the smoothed accuracy counts; without, the test is of the margin alone.

    Returns:
        float64 `[sets]`, the p of each set by both tests, one-sided, corrected for the number of sets. The same scores always
        give the same.
    """
    margins = np.stack([scores.margin - baseline.margin for scores in of_sets])
    if not uses_labels:
        return _corrected_p_values(tasks, margins, dropped)
    moved_by = small_moves(tasks, baseline.margin, has_choices)
    before = smoothed_accuracy(baseline, moved_by)
    smoothed = np.stack([smoothed_accuracy(scores, moved_by) - before for scores in of_sets])
    return np.maximum(*(_corrected_p_values(tasks, changes, dropped) for changes in (margins, smoothed)))


def small_moves(
    tasks: np.ndarray, margin: np.ndarray, has_choices: np.ndarray, share_of_spread: float = _SMOOTHING
) -> np.ndarray:
    """By how much margins are moved to smooth an accuracy.

    Args:
        tasks: str `[documents]`.
        margin: float64 `[documents]`, without calibration.
        has_choices: bool `[documents]`, False for documents of `loglikelihood` tasks.
        share_of_spread: of the margins of a task (their median absolute deviation, as that of a normal distribution).

    Returns:
        float64 `[documents]`, a standard deviation in nats; 0 where there are no choices.
    """
    moved_by = np.zeros(len(tasks))
    for task in np.unique(tasks[has_choices]):
        of_task = (tasks == task) & has_choices
        spread = float(median_abs_deviation(margin[of_task], scale="normal"))
        moved_by[of_task] = share_of_spread * spread if np.isfinite(spread) else 0.0
    return moved_by


def smoothed_accuracy(scores: Scores, moved_by: np.ndarray) -> np.ndarray:
    """Count each document in part, by how likely it would be right if its margin was moved a little.

    Args:
        scores: `[documents]`.
        moved_by: float64 `[documents]`, see `small_moves`; where it is 0, a document is right or not.

    Returns:
        float64 `[documents]`, in [0, 1].
    """
    moves = moved_by > 0
    return np.where(moves, ndtr(scores.margin / np.where(moves, moved_by, 1.0)), scores.correct)


def gain_interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """A 95% interval of a difference in accuracy, paired by document, for one set by itself.

    Wald's interval with one document more in each of the two cells that changed, which covers also where few or none did
    (Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data",
    Journal of Educational and Behavioral Statistics, 2012).

    Args:
        before, after: bool `[documents]`, which are right.
    """
    n = len(before)
    gained, lost = (after & ~before).sum() + 1, (before & ~after).sum() + 1
    difference = (gained - lost) / (n + 2)
    error = np.sqrt(((gained + lost) / (n + 2) - difference**2) / (n + 2))
    half = norm.ppf(0.975) * error
    return max(-1.0, float(difference - half)), min(1.0, float(difference + half))


def _corrected_p_values(tasks: np.ndarray, changes: np.ndarray, dropped: int) -> np.ndarray:
    """The p of each set, float64 `[sets]`, from changes of documents, `[sets, documents]`: is the mean above 0?"""
    has_changes = changes.any(-1)
    p = np.ones(len(changes))
    if not has_changes.any():
        return p
    statistic = _StratifiedT(tasks, changes[has_changes])
    observed = statistic(np.ones((1, changes.shape[-1])))[0]
    reached = observed - _ROUNDING * (1 + np.abs(observed))
    rng = np.random.default_rng(0)
    any_as_good, itself_as_good = np.zeros(len(observed)), np.zeros((len(observed), len(observed)))
    for start in range(0, _FLIPS, _FLIPS_AT_ONCE):
        signs = rng.integers(0, 2, (min(_FLIPS_AT_ONCE, _FLIPS - start), changes.shape[-1])) * 2.0 - 1
        flipped = statistic(signs)
        any_as_good += (flipped.max(-1)[:, None] >= reached).sum(0)
        if dropped:
            itself_as_good += (flipped[:, :, None] >= reached).sum(0)
    corrected = (1 + any_as_good) / (1 + _FLIPS)
    if dropped:
        corrected += dropped * (1 + itself_as_good.max(0)) / (1 + _FLIPS)
    p[has_changes] = np.minimum(corrected, 1.0)
    return p


class _StratifiedT:
    """The sum of changes over its standard error within tasks, for changes whose signs are flipped.

    Tasks on which a set does well and others on which it does badly are no error of their mean: the tasks are given.

    Args:
        tasks: str `[documents]`.
        changes: float64 `[sets, documents]`, not all 0 in any set.
    """

    def __init__(self, tasks: np.ndarray, changes: np.ndarray) -> None:
        of_task = np.stack([tasks == task for task in np.unique(tasks)])
        self._changes = [(task, changes[:, task]) for task in of_task]
        self._squares = (changes**2) @ of_task.T  # sets, tasks
        self._counts = of_task.sum(-1)

    def __call__(self, signs: np.ndarray) -> np.ndarray:
        """float64 `[flips, sets]`, of signs `[flips, documents]`."""
        sums = np.stack([signs[:, task] @ changes.T for task, changes in self._changes], axis=-1)
        n = self._counts
        variance = np.where(n > 1, n / np.maximum(n - 1, 1) * (self._squares - sums**2 / n), self._squares).sum(-1)
        return sums.sum(-1) / np.sqrt(np.maximum(variance, _ROUNDING * self._squares.sum(-1)))
