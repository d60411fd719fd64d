"""The verdict of a study: what its numbers say, in a few sentences that follow from them by rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal[
    "helps",
    "hurts",
    "cannot tell",
    "helps, but no random heads were compared",
    "helps, but so do random heads",
    "helps, but not shown to beat random heads",
    "helps, but so does correcting label priors",
    "helps, but not shown beyond label priors",
    "no head chosen",
]

_MOST_NAMES = 5


@dataclass(frozen=True)
class Difference:
    """A paired difference of two scores.

    Attributes:
        delta: the difference; a share of 1.
        low, high: its 95% interval.
    """

    delta: float
    low: float
    high: float

    @property
    def is_gain(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    @property
    def is_loss(self) -> bool:
        """Whether the interval lies below zero."""
        return self.high < 0

    @property
    def text(self) -> str:
        """In percentage points: `+5.2 points (95% interval +3.3 to +7.1)`."""
        return f"{points(self.delta)} points (95% interval {points(self.low)} to {points(self.high)})"


@dataclass(frozen=True)
class CorrectedPriors:
    """What is left of a difference once label priors are corrected.

    Attributes:
        tasks: how many of the study's tasks have label priors.
        baseline: the baseline's score on average over these.
        correction: what correcting them changes in it.
        difference: of heads found and baseline, both corrected, over these tasks.
        overall: the same over all tasks of the study, those without label priors as they are.
        lost: by how much that is less than the primary comparison: the part of it that correcting label priors takes away.
    """

    tasks: int
    baseline: float
    correction: Difference
    difference: Difference
    overall: Difference
    lost: Difference


@dataclass(frozen=True)
class Worse:
    """A score that the heads found made worse.

    Attributes:
        task: its name.
        metric: of lm-eval.
        baseline, calibrated: the scores.
    """

    task: str
    metric: str
    baseline: float
    calibrated: float


@dataclass(frozen=True)
class EmptyReplies:
    """Replies of a task that generates text.

    Attributes:
        task: its name.
        replies: how many there are.
        baseline, calibrated: how many of them are empty.
    """

    task: str
    replies: int
    baseline: int
    calibrated: int


@dataclass(frozen=True)
class BestTried:
    """The best of the head sets that a search tried, and did not choose for want of evidence.

    Attributes:
        heads: how many are in it.
        documents: training documents that it was tried on.
        change: of their accuracy, a share.
        p_value: that the search gives it.
    """

    heads: int
    documents: int
    change: float
    p_value: float


@dataclass(frozen=True)
class Evidence:
    """All that a verdict follows from. What was not measured is None or empty.

    Attributes:
        heads: how many heads were found.
        heads_searched: of how many.
        best_tried: what the search would have chosen, had there been evidence.
        tasks: how many tasks the primary comparison averages over.
        documents: how many documents these have.
        baseline: the baseline's average.
        found: heads found against baseline: the primary comparison.
        unseen: the same over the tasks that the search did not see; None where it saw all of them, or none is paired.
        unseen_tasks: how many these are.
        every_head: all heads against baseline.
        random_sets: how many sets of random heads were compared.
        random_mean: the mean of their differences from the baseline; its interval, like that of `beyond_random`, allows for
            documents and sets having been drawn. None for fewer than two sets.
        random_least, random_most: of their differences from the baseline.
        beyond_random: heads found against the mean of the random heads.
        switched_off: the heads found switched off, against baseline.
        priors: after label priors are corrected.
        detectable: the smallest difference that would have been found with 80% probability.
        documents_for_a_point: how many documents a difference of 1 point needs.
        worse: what got worse, on the study's tasks and beside.
        empty_replies: tasks of which more replies are empty than with the baseline.
    """

    heads: int
    heads_searched: int
    tasks: int
    documents: int
    baseline: float
    best_tried: BestTried | None = None
    found: Difference | None = None
    unseen: Difference | None = None
    unseen_tasks: int = 0
    every_head: Difference | None = None
    random_sets: int = 0
    random_mean: Difference | None = None
    random_least: float | None = None
    random_most: float | None = None
    beyond_random: Difference | None = None
    switched_off: Difference | None = None
    priors: CorrectedPriors | None = None
    detectable: float | None = None
    documents_for_a_point: int | None = None
    worse: tuple[Worse, ...] = ()
    empty_replies: tuple[EmptyReplies, ...] = ()


class Conclusion(Protocol):
    """What a study, or a comparison of methods, comes to, in words."""

    @property
    def headline(self) -> str:
        """The outcome, as a sentence."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it rests on."""


@dataclass(frozen=True)
class Verdict:
    """What a study says.

    Attributes:
        outcome: in a few words.
        sentences: what it rests on.
    """

    outcome: Outcome
    sentences: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The outcome, as a sentence."""
        return f"Verdict: {self.outcome}."


def judge(evidence: Evidence) -> Verdict:
    """Say what a study's numbers mean.

    A difference counts where its 95% interval excludes zero. A gain in the primary comparison is one of these very heads only
    where they also beat the mean of the random heads, and one beyond label priors only where it is still there when these are
    corrected. Where that is not shown, it is not shown to be otherwise either: random heads help as well only where their mean
    is a gain, and correcting label priors does so only where that raises the baseline and takes part of the gain away. Without
    a gain or a loss, the verdict says how large a difference would have been found.
    """
    sentences = [*_primary(evidence), *_controls(evidence), *_priors(evidence), *_power(evidence), *_harm(evidence)]
    return Verdict(_outcome(evidence), tuple(sentences))


def points(share: float) -> str:
    """A share of 1 in percentage points, with its sign: `+5.2`."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _outcome(evidence: Evidence) -> Outcome:
    if evidence.found is None:
        return "no head chosen"
    if evidence.found.is_loss:
        return "hurts"
    if not evidence.found.is_gain:
        return "cannot tell"
    random, beyond, priors = evidence.random_mean, evidence.beyond_random, evidence.priors
    if random is None or beyond is None:
        return "helps, but no random heads were compared"
    if not beyond.is_gain:
        return "helps, but so do random heads" if random.is_gain else "helps, but not shown to beat random heads"
    if priors is not None and not priors.overall.is_gain:
        is_shown = priors.correction.is_gain and priors.lost.is_gain
        return "helps, but so does correcting label priors" if is_shown else "helps, but not shown beyond label priors"
    return "helps"


def _primary(evidence: Evidence) -> Iterator[str]:
    """The primary comparison."""
    average = "on average over" if evidence.tasks > 1 else "on"
    over = f"{average} {_counted(evidence.tasks, 'task')} ({evidence.documents:,} documents)"
    if evidence.found is None:
        none = f"The search found no evidence that calibrating any of {evidence.heads_searched:,} heads helps, and chose none"
        best = evidence.best_tried
        if best is None:
            yield f"{none}."
        else:
            change = f"{points(best.change)} points of accuracy on {_counted(best.documents, 'training document')}"
            p = "" if math.isnan(best.p_value) else f" (p = {best.p_value:.2g})"
            yield f"{none}: the best that it tried, {_counted(best.heads, 'head')}, gave {change}{p}."
        if evidence.every_head is not None:
            yield f"All heads together change the score by {evidence.every_head.text} {over}, from {evidence.baseline:.3f}."
        return
    effect = "raises" if evidence.found.is_gain else "lowers" if evidence.found.is_loss else "changes"
    text = (
        f"ACT in the {_counted(evidence.heads, 'head')} found {effect} the score by {evidence.found.text} {over}, from "
        f"{evidence.baseline:.3f} to {evidence.baseline + evidence.found.delta:.3f}"
    )
    if effect == "changes":
        text += ", which may be nothing"
    if evidence.unseen is not None:
        text += f"; over the {_counted(evidence.unseen_tasks, 'task')} that the search did not see by {evidence.unseen.text}"
    yield f"{text}."


def _controls(evidence: Evidence) -> Iterator[str]:
    """Whether it matters which heads are calibrated, and that they are calibrated."""
    if evidence.found is None or not evidence.found.is_gain:
        return
    parts = []
    least, most, beyond = evidence.random_least, evidence.random_most, evidence.beyond_random
    if evidence.random_sets == 1 and least is not None:
        parts.append(f"one set of as many random heads gives {points(least)} points, which does not tell how sets differ")
    elif evidence.random_mean is not None and beyond is not None and least is not None and most is not None:
        spread = f"(mean of {evidence.random_sets} sets, {points(least)} to {points(most)})"
        doubt = "" if beyond.is_gain else ", which may be nothing"
        mean = points(evidence.random_mean.delta)
        parts.append(f"as many random heads give {mean} points {spread}, and the heads found {beyond.text} beyond that{doubt}")
    if evidence.every_head is not None:
        parts.append(f"all heads give {points(evidence.every_head.delta)} points")
    if evidence.switched_off is not None:
        parts.append(f"the heads found switched off give {points(evidence.switched_off.delta)} points")
    if parts:
        text = "; ".join(parts)
        yield f"{text[0].upper()}{text[1:]}."


def _priors(evidence: Evidence) -> Iterator[str]:
    """Whether the gain is one that correcting label priors cannot have."""
    priors = evidence.priors
    if priors is None or evidence.found is None or not evidence.found.is_gain:
        return
    are_some = priors.tasks < evidence.tasks
    where = f" on {priors.tasks} of {_counted(evidence.tasks, 'task')}" if are_some else ""
    doubt = "" if priors.overall.is_gain or priors.overall.is_loss else ", which may be nothing"
    overall = f", and over all tasks {priors.overall.text}" if are_some else ""
    yield (
        f"Correcting label priors alone changes the baseline{where} by {priors.correction.text}, from {priors.baseline:.3f} to "
        f"{priors.baseline + priors.correction.delta:.3f}; ACT then adds {priors.difference.text}{overall}{doubt}."
    )
    lost = f"The correction takes {priors.lost.text} off ACT's gain"
    if priors.lost.is_gain:
        yield f"{lost}: that much of it was which label the model prefers."
    elif not priors.overall.is_gain:
        yield f"{lost}, which may be nothing."


def _power(evidence: Evidence) -> Iterator[str]:
    """What these documents could have shown."""
    shown = evidence.every_head if evidence.found is None else evidence.found
    is_decided = shown is not None and (shown.is_gain or shown.is_loss)
    if is_decided or evidence.detectable is None:
        return
    needed = evidence.documents_for_a_point
    more = "" if needed is None else f"; for 1 point it would take about {needed:,} documents"
    yield f"A difference of {100 * evidence.detectable:.1f} points would have been found with 80% probability{more}."


def _harm(evidence: Evidence) -> Iterator[str]:
    """What got worse."""
    texts = [f"{worse.task} ({worse.metric} {worse.baseline:.3f} to {worse.calibrated:.3f})" for worse in evidence.worse]
    if texts:
        yield f"Worse with the heads found: {_some(texts)}."
    for replies in evidence.empty_replies:
        yield (
            f"Of {replies.replies:,} replies to {replies.task}, {replies.calibrated:,} are empty, with the baseline "
            f"{replies.baseline:,}."
        )


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_NAMES
    return f"{', '.join(texts[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}"
