"""How far a long work is: a bar on the terminal, behind a small interface so that another display can take its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn, Protocol

from tqdm import tqdm

from act_eval.harness.processes import is_first_process


class Progress(Protocol):
    """Shows how far a stage of some work is."""

    def advance(self, amount: float) -> None:
        """More of the work has been done."""

    def skip(self, amount: float) -> None:
        """More of the work was done by an earlier run, or need not be done: that says nothing about how fast this one is."""

    def aside(self) -> AbstractContextManager[None]:
        """Inside the context, lines may be printed."""


class ShowProgress(Protocol):
    """Begins to show the progress of a stage, until its context ends."""

    def __call__(self, text: str, total: float, unit: str) -> AbstractContextManager[Progress]:
        """`text` says what the stage does, and `total` how much that is, in a unit."""


class Bar:
    """Progress in a bar of tqdm, which the first process alone shows."""

    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def advance(self, amount: float) -> None:
        """See `Progress`."""
        self._bar.update(amount)

    def skip(self, amount: float) -> None:
        """See `Progress`."""
        if self._bar.disable:
            return
        self._bar.initial += amount
        self._bar.n += amount
        self._bar.last_print_n += amount
        self._bar.refresh()

    def aside(self) -> AbstractContextManager[None]:
        """See `Progress`."""
        return tqdm.external_write_mode()


@contextmanager
def progress_bar(text: str, total: float, unit: str) -> Iterator[Progress]:
    """Show a stage's progress in a bar; see `ShowProgress`."""
    with tqdm(total=total, desc=text, unit=unit, unit_scale=True, disable=not is_first_process()) as bar:
        yield Bar(bar)
