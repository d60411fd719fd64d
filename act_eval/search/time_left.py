"""How long a search takes, as soon as its first batch has run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from act_eval.progress import Row, time_left
from act_eval.search.planned_costs import PlannedCosts

Part = Literal["estimates", "exact", "validation"]


class TimeLeft:
    """Measures how fast a search is, and knows what it still costs.

    Args:
        planned: of the search.
        processes: that share the work.
        clock: seconds.
        afterwards: layer passes of what comes after the search, and belongs to the same work.
    """

    def __init__(
        self,
        planned: PlannedCosts,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        afterwards: float = 0.0,
    ) -> None:
        from_the_end = {
            "validation": planned.validation,
            "exact": planned.validation + planned.baseline + planned.exact,
            "estimates": planned.total,
        }
        self._from = {part: (passes * planned.full_pass + afterwards) / processes for part, passes in from_the_end.items()}
        self._whole = (planned.total * planned.full_pass + afterwards) / processes
        self._name, self._included = ("search, then evaluation", ", evaluation included") if afterwards else ("search", "")
        self._part: Part | None = None
        self._left = self._computed = 0.0
        self._clock = clock
        self._started: float | None = None
        self._told = False

    def enter(self, part: Part) -> None:
        """A stage of a part of the search begins; all parts before it are done."""
        if part != self._part:
            self._part, self._left = part, self._from[part]

    def start(self) -> None:
        """Something is computed from now on."""
        if self._started is None:
            self._started = self._clock()

    def count(self, layer_passes: float, computed: bool) -> None:
        """Layer passes are done, which this run computed, or which an earlier one did."""
        self._left -= layer_passes
        if computed:
            self._computed += layer_passes

    @property
    def seconds(self) -> float | None:
        """How long the rest takes, at most; None as long as nothing was computed."""
        if self._started is None or not self._computed:
            return None
        return max(0.0, self._left) * (self._clock() - self._started) / self._computed

    def row(self) -> Row:
        """How far the whole of it is."""
        return Row(self._name, min(1.0, 1 - max(0.0, self._left) / self._whole), time_left(self.seconds))

    def first_words(self) -> str | None:
        """What to tell the user after the first batch, in a line; None as long as nothing was computed, and after that."""
        if self._told or self.seconds is None:
            return None
        self._told = True
        minutes = round(self.seconds / 60)
        left = f"at most about {minutes} minute{'s are' if minutes > 1 else ' is'}" if minutes else "less than a minute is"
        return f"The first batch has run: {left} left{self._included}."
