"""How far the model is with the requests of a task: what is counted, and lm-eval's own bar for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from act_eval.harness.processes import is_first_process


@dataclass(frozen=True)
class RequestCount:
    """Requests that are about to run, in this process.

    Attributes:
        kind: the method of lm-eval's model that answers them.
        requests: how many there are.
        tokens: of those that are still to be answered, how many the model reads and writes; where it generates, at most.
        answered: how many are answered already, by an earlier run.
    """

    kind: str
    requests: int
    tokens: int
    answered: int = 0


Advance = Callable[[int, int], None]
"""Is told of each batch: how many requests it answered, and how many of the tokens they took."""

RequestProgress = Callable[[RequestCount], AbstractContextManager[Advance]]
"""Shows how far requests are, for as long as its context lasts."""


@contextmanager
def request_bar(count: RequestCount) -> Iterator[Advance]:
    """Show a bar as lm-eval does: requests, and how many of them run in a second."""
    bar = tqdm(
        total=count.requests,
        initial=count.answered,
        disable=not is_first_process(),
        desc=f"Running {count.kind} requests",
    )

    def advance(requests: int, tokens: int) -> None:
        bar.update(requests)

    with bar:
        yield advance


@contextmanager
def no_progress(count: RequestCount) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda requests, tokens: None
