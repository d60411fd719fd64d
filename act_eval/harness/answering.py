"""Requests while they are answered batch by batch: what is known, what is put on disk, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from act_eval.harness.processes import same_for_all
from act_eval.harness.recorded_answers import RecordedAnswers, request_keys
from act_eval.harness.request_progress import Advance, RequestCount, RequestProgress


class Answering:
    """Answers by the number of their request.

    Args:
        keys: names of the requests, see `request_keys`.
        tokens: that each of them takes.
        known: answers of an earlier run.
        record: where answers are put, or None.
        advance: is told of each batch.
        device: where random numbers are drawn.
    """

    def __init__(
        self,
        keys: Sequence[str],
        tokens: Sequence[int],
        known: Mapping[int, Any],
        record: RecordedAnswers | None,
        advance: Advance,
        device: torch.device,
    ) -> None:
        self._keys, self._tokens, self._record, self._advance, self._device = keys, tokens, record, advance, device
        self._answers = dict(known)
        self._random_state = _random_state(device)

    def waiting(self, numbers: Iterable[int]) -> list[int]:
        """Those requests of a batch that have no answer yet.

        Where all have one, random numbers go on as they did after the batch.
        """
        numbers = list(numbers)
        waiting = [number for number in numbers if number not in self._answers]
        if numbers and not waiting and self._record is not None:
            state = self._record.random_state(self._keys[numbers[-1]])
            if state is not None:
                _set_random_state(self._device, state)
                self._random_state = state
        return waiting

    def add(self, answers: Mapping[int, Any]) -> None:
        """Take the answers of a batch, and put them on disk."""
        if self._record is not None:
            state = _random_state(self._device)
            has_drawn = not torch.equal(state, self._random_state)
            self._record.add({self._keys[number]: answer for number, answer in answers.items()}, state if has_drawn else None)
            self._random_state = state
        self._answers |= answers
        self._advance(len(answers), sum(self._tokens[number] for number in answers))

    def all(self) -> list[Any]:
        """All answers, in the order of the requests."""
        return [self._answers[number] for number in range(len(self._keys))]


@contextmanager
def answer_requests(
    kind: str,
    requests: Sequence[Any],
    tokens: Sequence[int],
    progress: RequestProgress,
    record: RecordedAnswers | None,
    device: torch.device,
    together: bool,
) -> Iterator[Answering]:
    """Answer requests in the block.

    Args:
        kind: the method of lm-eval's model that does it.
        requests: all that answers depend on; values that JSON can hold.
        tokens: that each request takes; where something is generated, at most.
        progress: shows how far it is.
        record: of the run, or None.
        device: where random numbers are drawn.
        together: whether several processes answer each request together, so that they must know the same answers.
    """
    keys = request_keys(kind, requests)
    known = {} if record is None else {number: record[key] for number, key in enumerate(keys) if key in record}
    if together:
        known = same_for_all(known)
    left = sum(count for number, count in enumerate(tokens) if number not in known)
    with progress(RequestCount(kind, len(keys), left, answered=len(known))) as advance:
        yield Answering(keys, tokens, known, record, advance, device)


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
