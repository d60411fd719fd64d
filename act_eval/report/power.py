"""Power: which differences so many documents would show, and how many documents a difference needs.

A difference counts as found where the report would call it significant, before Holm's correction: of a task whose documents are
0 or 1, where the exact McNemar test is below the level; of averages over tasks and of other metrics, where the interval leaves
out zero. Both depend on the discordance, the share of documents whose answer changes: each that does, whichever way, blurs the
difference. A difference cannot be larger than the discordance; where a larger one is asked about, the discordance is taken to
be as large, with all changes one way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from act_eval.report.intervals import UNSEEN, unseen_of_tasks

POWER = 0.8
LEVEL = 0.05
ONE_POINT = 0.01
MOST_DOCUMENTS = 10**7
"""More are not counted."""

_MCNEMAR = (0.0, 1.0)  # the sum of binomial probabilities from a number on, as a beta distribution


@dataclass(frozen=True)
class TaskDocuments:
    """The documents of a task, as far as power depends on them.

    Attributes:
        n: how many there are.
        discordance: the share of documents whose answer changes, 0 to 1, of a task whose documents are 0 or 1.
        variance: of a document's difference, of any other task.
    """

    n: int
    discordance: float = 0.0
    variance: float | None = None

    def variance_at(self, difference: float) -> float:
        """The variance of a document's difference where this is its mean."""
        return self.discordance_at(difference) - difference**2 if self.variance is None else self.variance

    @property
    def spread(self) -> float:
        """By what the variance of the mean counts for more in intervals of so few documents, see `intervals`."""
        if self.variance is None:
            return 1.0
        freedom = max(1, self.n - 1)
        return float((stats.t.isf(LEVEL / 2, freedom) / stats.norm.isf(LEVEL / 2)) ** 2 * (freedom + 1) / freedom)

    def discordance_at(self, difference: float) -> float:
        """The discordance, but at least the difference."""
        return min(1.0, max(self.discordance, abs(difference)))


def expected_discordance(changed: float, n: float, unseen: float = UNSEEN) -> float:
    """The share of documents whose answer changes, given how many of a sample do.

    It is the mean of the posterior that intervals come from, so that it is above zero where none changed: 0.016 where none of
    100 did.

    Args:
        changed: documents of the sample with another answer, gained or lost; a mean over seeds, where there are several.
        n: documents of the sample, such as 50 of a pilot.
        unseen: weight of a document that was not seen and gained, and of one that was not seen and lost.
    """
    return (changed + 2 * unseen) / (n + 2 * unseen)


def mcnemar_power(difference: float, n: int, discordance: float, level: float = LEVEL) -> float:
    """The probability that the exact two-sided McNemar test finds a difference, in its direction.

    Args:
        difference: of the two shares of right answers, -1 to 1.
        n: documents.
        discordance: share of documents whose answer changes, 0 to 1; at least the absolute difference.
        level: of the test.
    """
    return _power_of_changes(difference, n, discordance, level, _MCNEMAR)


@cache  # since few documents change, the same numbers come again and again
def detectable_difference(n: int, discordance: float, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest difference that the exact McNemar test finds with a probability of `power`.

    Args:
        n: documents of one task, each 0 or 1.
        discordance: share of documents whose answer changes, 0 to 1, see `expected_discordance`.
        power: 0 to 1.
        level: of the two-sided test, 0 to 1.

    Returns:
        A share of 1, above 0; NaN where so few documents show no difference at all, as fewer than 6 do at the level 0.05.
    """
    return _smallest(lambda difference: mcnemar_power(difference, n, discordance, level), power)


@cache
def needed_documents(difference: float, discordance: float, power: float = POWER, level: float = LEVEL) -> float:
    """How many documents the exact McNemar test needs to find a difference with a probability of `power`.

    Args:
        difference: of the two shares of right answers, -1 to 1, such as 0.01 for one point; not 0.
        discordance, power, level: see `detectable_difference`.

    Returns:
        A whole number; NaN where it is more than ten million.

    Raises:
        ValueError: the difference is 0.
    """
    return _fewest(lambda n: mcnemar_power(difference, n, discordance, level), difference, power)


def average_power(
    difference: float, tasks: Sequence[TaskDocuments], weights: Sequence[float] | np.ndarray | None = None, level: float = LEVEL
) -> float:
    """The probability that the interval of an average over tasks leaves out zero, on the side where the difference is.

    Tasks whose documents are 0 or 1 are replaced by one task with as many documents as give the average the same variance; with
    others among them, the average is taken to be normal.

    Args:
        difference: of the average, with the same one in every task.
        tasks: at least one.
        weights: of the tasks, which sum to 1; equal by default.
        level: 1 minus that of the interval.
    """
    shares = np.full(len(tasks), 1 / len(tasks)) if weights is None else np.asarray(weights, dtype=float)
    sizes = np.array([task.n for task in tasks])
    # The variance that the documents which were not seen add, in the square of the unit of the weights:
    unseen = unseen_of_tasks(sizes.tolist(), shares) @ (shares / sizes) ** 2
    if all(task.variance is None for task in tasks):
        discordances = np.array([task.discordance_at(difference) for task in tasks])
        discordance = float(shares @ discordances)
        if not discordance:
            return level / 2
        n = discordance / float(shares**2 @ (discordances / sizes))
        return _power_of_changes(difference, round(n), discordance, level, (unseen * n**2,) * 2)
    variance = shares**2 @ [task.variance_at(difference) * task.spread / task.n for task in tasks]
    if not variance:
        return float(difference != 0)
    return float(stats.norm.cdf(abs(difference) / math.sqrt(variance) - stats.norm.isf(level / 2)))


def detectable_average(
    tasks: Sequence[TaskDocuments],
    weights: Sequence[float] | np.ndarray | None = None,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """The smallest difference of an average over tasks whose interval leaves out zero with a probability of `power`.

    Args:
        tasks: what is averaged, with the same difference in each; also a single task whose scores are not 0 or 1.
        weights: of the tasks, which sum to 1; equal by default.
        power: 0 to 1.
        level: 1 minus that of the interval.

    Returns:
        The difference, in the unit of the scores, above 0; NaN where there is none: so few documents, of which some are 0 or 1,
        show no difference at all, or no other document ever differs.
    """
    variances = [task.variance for task in tasks if task.variance is not None]
    largest = 10 * math.sqrt(max(variances)) if len(variances) == len(tasks) else 1.0
    return _smallest(lambda difference: average_power(difference, tasks, weights, level), power, largest)


def needed_documents_of_average(
    difference: float,
    tasks: Sequence[TaskDocuments],
    weights: Sequence[float] | np.ndarray | None = None,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """How many documents in all an average over tasks needs for its interval to leave out zero with a probability of `power`.

    Args:
        difference: of the average, in the unit of its scores; not 0.
        tasks: what is averaged; all are taken to grow or shrink by the same factor.
        weights, power, level: see `detectable_average`.

    Returns:
        A whole number; NaN where it is more than ten million.

    Raises:
        ValueError: the difference is 0.
    """
    total = sum(task.n for task in tasks)

    def resized(n: int) -> list[TaskDocuments]:
        return [TaskDocuments(math.ceil(task.n * n / total), task.discordance, task.variance) for task in tasks]

    return _fewest(lambda n: average_power(difference, resized(n), weights, level), difference, power)


def _power_of_changes(difference: float, n: int, discordance: float, level: float, parameters: tuple[float, float]) -> float:
    """The probability that so many of the changed documents changed the way of the difference that a test finds it.

    Args:
        difference, n, discordance: see `mcnemar_power`.
        level, parameters: see `_most_by_chance`.
    """
    discordance = min(1.0, max(discordance, abs(difference)))
    mean, margin = n * discordance, 7 * math.sqrt(n * discordance * (1 - discordance)) + 10
    changed = np.arange(max(0, math.floor(mean - margin)), min(n, math.ceil(mean + margin)) + 1)
    one_way = (1 + abs(difference) / discordance) / 2 if difference else 0.5
    found = special.bdtrc(_most_by_chance(changed, level, parameters), changed, one_way)
    return float(stats.binom.pmf(changed, n, discordance) @ found)


def _most_by_chance(changed: np.ndarray, level: float, parameters: tuple[float, float]) -> np.ndarray:
    """How many of some changed documents may at most have changed one way for a two-sided test not to be significant.

    Args:
        changed: whole numbers `[...]`.
        level: of the test.
        parameters: added to the documents that changed one way and the other way, they are those of the beta distribution
            whose value at 0.5 is the one-sided p: `_MCNEMAR`, or the two documents of a posterior that were not seen.
    """

    def by_chance(most: np.ndarray) -> np.ndarray:
        return special.betainc(most + parameters[0], changed - most + parameters[1], 0.5) > level / 2

    # A step or two from where the normal distribution has the boundary:
    total = changed + sum(parameters)
    boundary = np.floor((total + special.ndtri(1 - level / 2) * np.sqrt(total)) / 2 - parameters[0])
    half = np.floor(changed / 2)
    most = np.clip(boundary, half, changed)
    while (more := (most < changed) & by_chance(np.minimum(most + 1, changed))).any():
        most = most + more
    while (fewer := (most > half) & ~by_chance(most)).any():
        most = most - fewer
    return most


def _smallest(power_of: Callable[[float], float], power: float, largest: float = 1.0) -> float:
    """The difference from which on the power is reached; NaN where it never is."""
    if not largest or power_of(largest) < power:
        return math.nan
    return float(optimize.brentq(lambda difference: power_of(difference) - power, largest * 1e-9, largest, xtol=1e-7 * largest))


def _fewest(power_of: Callable[[int], float], difference: float, power: float) -> float:
    """The smallest number of documents with the power, or one where the next smaller one has not; NaN for too many."""
    if not difference:
        raise ValueError("no number of documents finds a difference of 0.")
    few, many = 1, 2
    while power_of(many) < power:
        few, many = many, 4 * many
        if many > MOST_DOCUMENTS:
            return math.nan
    if power_of(few) >= power:
        return few
    close = round(optimize.brentq(lambda n: power_of(round(n)) - power, few, many, xtol=0.4))
    while power_of(close) < power:
        close += 1
    while power_of(close - 1) >= power:
        close -= 1
    return close
