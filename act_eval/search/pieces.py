"""The pieces of a unit of work: those that an earlier run has done, and a place to keep more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from act_eval.harness.memory import Halved
from act_eval.search.piece_file import Arrays


def keep_nothing(name: str, arrays: Arrays) -> None:
    """Put a piece nowhere: what `Pieces.keep` is by default, and where another process writes."""


def _show_nothing(share: float, computed: bool) -> None:
    pass


@dataclass(frozen=True)
class Pieces:
    """The pieces of a unit of work, or of some of its documents where these do not fit into memory together.

    By default nothing is there, and nothing is kept.

    Attributes:
        done: what an earlier run has done, by name.
        keep: puts a piece on disk under its name.
        show: is told which share of the unit is done by now, and whether this run computed what was added last.
        documents: how many the unit has.
        part: the documents that the pieces are of, all by default.
    """

    done: Mapping[str, Arrays] = field(default_factory=dict)
    keep: Callable[[str, Arrays], None] = keep_nothing
    show: Callable[[float, bool], None] = _show_nothing
    documents: int = 1
    part: range = range(1)

    def load(self, name: str) -> Arrays | None:
        """What a piece gave in an earlier run, or None."""
        return self.done.get(self._full_name(name))

    def run(self, name: str, compute: Callable[[], Arrays], reaches: float) -> Arrays:
        """What a piece gave in an earlier run; else compute it and keep it. See `reach` for the share that is done then."""
        arrays = self.load(name)
        if arrays is not None:
            self.reach(reaches, computed=False)
            return arrays
        arrays = compute()
        self.save(name, arrays)
        self.reach(reaches, computed=True)
        return arrays

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep what a piece gave."""
        self.keep(self._full_name(name), arrays)

    def reach(self, share: float, computed: bool) -> None:
        """Tell that a share of the work on these documents is done, and whether this run computed what was added last."""
        self.show((self.part.start + share * len(self.part)) / self.documents, computed)

    def of_part(self, part: range) -> Pieces:
        """The pieces of some of the unit's documents."""
        return replace(self, part=part)

    def halved(self, what: str) -> Halved:
        """Which ranges of something had to be halved, since they do not fit into memory together."""
        return _HalvedRanges(self, what)

    def _full_name(self, name: str) -> str:
        return f"{self.part.start}-{self.part.stop}/{name}"


@dataclass(frozen=True)
class _HalvedRanges:
    """Pieces that say which ranges had to be halved."""

    pieces: Pieces
    what: str

    def __contains__(self, items: range) -> bool:
        return self.pieces.load(self._name(items)) is not None

    def add(self, items: range) -> None:
        self.pieces.save(self._name(items), {})

    def _name(self, items: range) -> str:
        return f"{self.what} {items.start}-{items.stop} halved"
