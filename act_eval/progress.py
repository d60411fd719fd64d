"""How far long work is: bars in a terminal, and a line now and then where output goes to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 60.0
_REFRESHES_PER_SECOND = 2

Clock = Callable[[], float]
"""Seconds since any moment."""


@dataclass(frozen=True)
class Row:
    """One thing that is under way.

    Attributes:
        name: what it is.
        share: how much of it is done, from 0 to 1.
        detail: the numbers, in words.
    """

    name: str
    share: float
    detail: str


class _NameColumn(ProgressColumn):
    """Names, which give way to bars and numbers where there is no room for all."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class ProgressDisplay:
    """Shows rows as long as its block lasts; what is printed on the console meanwhile stands above them.

    Args:
        console: where it is shown; not at all where it is quiet.
        clock: measures time.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._tasks: list[TaskID] = []
        self._bars = Progress(
            _NameColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            expand=True,
        )
        self._last_line = clock()

    def __enter__(self) -> ProgressDisplay:
        if self._has_bars:
            self._bars.start()
        self._last_line = self._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._has_bars:
            self._bars.stop()

    def print(self, line: str) -> None:
        """Print a line above what is shown."""
        print_line(self._console, line)

    @property
    def _has_bars(self) -> bool:
        return self._console.is_terminal and not self._console.quiet

    def show(self, *rows: Row) -> None:
        """Show these rows from now on."""
        if self._has_bars:
            self._show_bars(rows)
        elif self._clock() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = self._clock()
            text = "; ".join(f"{row.name} {row.share:.0%}, {row.detail}" for row in rows)
            print_line(self._console, text)

    def _show_bars(self, rows: tuple[Row, ...]) -> None:
        for task in self._tasks[len(rows) :]:
            self._bars.remove_task(task)
        del self._tasks[len(rows) :]
        for place, row in enumerate(rows):
            if place == len(self._tasks):
                self._tasks.append(self._bars.add_task(row.name, total=1.0, detail=row.detail))
            task = self._tasks[place]
            if self._bars.tasks[place].description != row.name:
                self._bars.reset(task)  # so that its time is that of what is shown
            self._bars.update(task, description=row.name, completed=row.share, detail=row.detail)


class StageProgress:
    """How far a stage of some work is.

    Args:
        display: shows it.
        text: what the stage does.
        total: how much that is.
        unit: of what, in the plural.
        clock: measures time.
        whole: says how far the work is that the stage is a part of; None where it is all of it.
    """

    def __init__(
        self,
        display: ProgressDisplay,
        text: str,
        total: float,
        unit: str,
        clock: Clock = time.monotonic,
        whole: Callable[[], Row] | None = None,
    ) -> None:
        self._display, self._text, self._total, self._unit, self._clock = display, text, total, unit, clock
        self._whole = whole
        self._start = clock()
        self._advanced = self._skipped = 0.0
        self._show()

    def advance(self, amount: float) -> None:
        """More of the work has been done."""
        self._advanced += amount
        self._show()

    def skip(self, amount: float) -> None:
        """More of the work was done by an earlier run, or need not be done: that says nothing about how fast this one is."""
        self._skipped += amount
        self._show()

    def _show(self) -> None:
        done = self._advanced + self._skipped
        left = max(self._total - done, 0.0)
        seconds = left * (self._clock() - self._start) / self._advanced if self._advanced else None
        share = min(done / self._total, 1.0) if self._total else 1.0
        row = Row(self._text, share, f"{done:,.0f} of {self._total:,.0f} {self._unit}, {time_left(seconds)}")
        self._display.show(*([] if self._whole is None else [self._whole()]), row)


@contextmanager
def stage_progress(
    console: Console,
    text: str,
    total: float,
    unit: str,
    clock: Clock = time.monotonic,
) -> Iterator[StageProgress]:
    """Show how far a stage is while the block lasts; see `StageProgress`."""
    with ProgressDisplay(console, clock) as display:
        yield StageProgress(display, text, total, unit, clock)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is, without wrapping: what looks like rich's markup or emoji codes is text too."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def time_left(seconds: float | None) -> str:
    """Say about how long something still takes; None where that is not known yet."""
    if seconds is None:
        return "time left unknown"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left"
