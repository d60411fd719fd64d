"""What a run answered: the log-probabilities of its choices, or its replies, as lm-eval's samples hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

NO_CHOICES = "no choices are scored"
OWN_CHOICES = "choices differ from document to document"
NOT_READABLE = "samples do not hold requests and answers as lm-eval writes them"

NO_GOLD = -1
REPLY_MEASURES = ("empty", "characters")

MUTUAL_INFORMATION = "acc_mutual_info"  # by log-probabilities minus those without context
_LENGTHS: Mapping[str, Callable[[str], int]] = MappingProxyType(
    {
        "acc": lambda choice: 1,
        MUTUAL_INFORMATION: lambda choice: 1,
        "acc_norm": len,
        "acc_bytes": lambda choice: len(choice.encode()),
    }
)


@dataclass(frozen=True)
class Answers:
    """What one run answered. Tables have a row for each line of the samples file, and line numbers from 1 as their index.

    Attributes:
        choices: the continuations that every document was asked, in this order; none where documents have choices of their own
            or are not scored by choices.
        why_no_choices: the reason where there are no `choices`, such as `OWN_CHOICES`; else empty.
        log_probabilities: float `[lines, choices]`, of each choice after its context, in nats.
        gold: int `[lines]`, the index of the right choice; `NO_GOLD` where there is none or several.
        replies: for tasks that generate text, before lm-eval's filters, float: `empty`, the share of a document's replies that
            hold nothing but white space, and `characters`, their mean length without white space at both ends. No rows for
            other tasks.
    """

    choices: tuple[str, ...]
    why_no_choices: str
    log_probabilities: pd.DataFrame
    gold: pd.Series
    replies: pd.DataFrame


@dataclass
class AnswersReader:
    """Collects the answers of one samples file, sample by sample."""

    _choices: tuple[str, ...] = ()
    _problem: str = ""
    _log_probabilities: dict[int, list[float]] = field(default_factory=dict)
    _gold: dict[int, int] = field(default_factory=dict)
    _replies: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, line: int, sample: Mapping[str, Any]) -> None:
        """Take what one sample says.

        A sample that does not hold what lm-eval writes is no error, since scores do not need its answers.
        """
        try:
            requests = conditional_requests(sample)
            if is_generated(requests):
                self._problem = NO_CHOICES
                self._replies[line] = _reply_measures(sample["resps"])
            elif not is_multiple_choice(sample):
                self._problem = NO_CHOICES
            elif not self._problem:
                self._add_choices(line, sample, requests)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            self._problem = NOT_READABLE

    def answers(self) -> Answers:
        """What was collected."""
        problem = self._problem or ("" if self._choices else NO_CHOICES)
        choices = () if problem else self._choices
        scores = {} if problem else self._log_probabilities
        return Answers(
            choices,
            problem,
            pd.DataFrame.from_dict(scores, orient="index", columns=range(len(choices)), dtype="float64"),
            pd.Series({} if problem else self._gold, dtype="int64"),
            pd.DataFrame.from_dict(self._replies, orient="index", columns=list(REPLY_MEASURES), dtype="float64"),
        )

    def _add_choices(self, line: int, sample: Mapping[str, Any], requests: Sequence[Sequence[Any]]) -> None:
        endings = tuple(str(request[1]) for request in requests)
        is_one_question = all(request[0] == requests[0][0] for request in requests) and len(set(endings)) == len(endings)
        self._choices = self._choices or endings
        if not is_one_question or endings != self._choices:
            self._problem = OWN_CHOICES
            return
        self._log_probabilities[line] = log_probabilities(sample, len(endings))
        gold = gold_choice(sample["target"], [ending.strip() for ending in endings])
        self._gold[line] = NO_GOLD if gold is None else gold


def conditional_requests(sample: Mapping[str, Any]) -> list[list[Any]]:
    """The arguments of each request of a sample, but for those without context where others have one.

    Mutual information adds a request without context for each choice, after the others.
    """
    requests = [list(request.values()) for request in sample["arguments"].values()]
    return [request for request in requests if request[0] != ""] or requests


def is_generated(requests: Sequence[Sequence[Any]]) -> bool:
    """Whether text was generated: the second argument is then a table of how."""
    return bool(requests) and all(len(request) > 1 and isinstance(request[1], dict) for request in requests)


def is_multiple_choice(sample: Mapping[str, Any]) -> bool:
    """Whether each request was scored: lm-eval then keeps a log-likelihood and whether it is greedy."""
    responses = sample["filtered_resps"]
    return len(responses) > 1 and all(isinstance(response, list) and len(response) == 2 for response in responses)


def log_probabilities(sample: Mapping[str, Any], number_of_choices: int) -> list[float]:
    """Those of the choices of a multiple-choice sample, in nats."""
    scores = [float(response[0]) for response in sample["filtered_resps"][:number_of_choices]]
    if len(scores) != number_of_choices:
        raise ValueError(f"{len(scores)} answers to {number_of_choices} choices")
    return scores


def possible_lengths(metric: str, choices: Sequence[str]) -> list[list[float]]:
    """What lm-eval may divide the log-probabilities of choices by before it takes the greatest for the answer, each above 0.

    Samples do not say whether white space before a choice counts in lengths, so that the answer is the one with which the
    logged values come out.

    Args:
        metric: a name of lm-eval's; there is nothing for one that does not follow from the likeliest choice.
        choices: with white space.
    """
    if metric not in _LENGTHS:
        return []
    ways = [[float(_LENGTHS[metric](text)) for text in texts] for texts in ([choice.lstrip() for choice in choices], choices)]
    return [lengths for number, lengths in enumerate(ways) if all(lengths) and lengths not in ways[:number]]


def gold_choice(target: Any, choices: Sequence[str]) -> int | None:
    """The index of the right choice; None where there is none or several.

    Args:
        target: as the sample has it.
        choices: without white space at both ends.
    """
    text = str(target).strip()
    if text.isdecimal():  # lm-eval takes digits for an index, also where choices are digits
        return int(text) if int(text) < len(choices) else None
    return choices.index(text) if text in choices else None


def _reply_measures(responses: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """`REPLY_MEASURES` of one document: means over all replies to it."""
    lengths = np.array([len(str(reply).strip()) for of_request in responses for reply in of_request])
    if not len(lengths):
        raise ValueError("no reply")
    return float((lengths == 0).mean()), float(lengths.mean())
