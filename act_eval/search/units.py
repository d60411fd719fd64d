"""Units of work: batches of documents that are computed once, by one of the processes, and kept on disk.

Processes that hold parts of the model compute every unit together. A unit comes to the disk piece by piece, so that a search
that was stopped in the middle of a unit goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from accelerate.utils import gather_object

from act_eval.harness.memory import run_in_parts
from act_eval.harness.processes import is_first_process, same_for_all
from act_eval.progress import ProgressDisplay, StageProgress
from act_eval.search.batches import DocumentBatch, batches_by_length
from act_eval.search.documents import CalibrationDocument
from act_eval.search.piece_file import Arrays
from act_eval.search.pieces import Pieces, keep_nothing
from act_eval.search.store import UnitStore
from act_eval.search.time_left import Part, TimeLeft

Compute = Callable[[Sequence[CalibrationDocument], Pieces], Arrays]
"""Computes some documents of a unit, of which an earlier run may have done pieces.

Gives arrays with the documents as their last dimension, and numbers that are sums over documents.
"""


@dataclass(frozen=True)
class Stage:
    """What is computed for a list of documents, unit by unit.

    Attributes:
        name: prefix of the units' names.
        part: of the search that the stage belongs to.
        text: says what it does.
        layers: how many decoder layers each token of the documents runs through, at most.
        about: what the numbers depend on beside the search's identity, the name and the documents.
    """

    name: str
    part: Part
    text: str
    layers: int
    about: str = ""


@dataclass(frozen=True)
class StageResult:
    """What all units of a stage give together.

    Attributes:
        order: int64 `[documents]`, the document of each column, by its number among the stage's documents.
        arrays: by name, with the documents as their last dimension; numbers are sums over all documents.
    """

    order: np.ndarray
    arrays: Arrays


@dataclass(frozen=True)
class UnitRunner:
    """Computes stages of a search unit by unit, and goes on where an earlier run stopped.

    Attributes:
        store: keeps finished units, and pieces of the others.
        rank, world_size: this process's number among those that share the units, and how many these are.
        batch_size: contexts of a unit; a document that has more is a unit of its own.
        time_left: is told what is done.
        display: shows both.
    """

    store: UnitStore
    rank: int
    world_size: int
    batch_size: int
    time_left: TimeLeft
    display: ProgressDisplay

    @property
    def _is_shared(self) -> bool:
        return self.world_size > 1

    def run(self, stage: Stage, documents: Sequence[CalibrationDocument], compute: Compute) -> StageResult:
        """Compute a stage's units, or read them where they are done; each process takes its share, and all get all.

        Args:
            stage: what is computed.
            documents: at least one.
            compute: does it for the documents of one unit.
        """
        batches = batches_by_length(documents, self.batch_size)
        of_units = [[documents[number] for number in batch] for batch in batches]
        costs = [stage.layers * DocumentBatch.from_documents(of_unit).padded_tokens for of_unit in of_units]
        mine = range(self.rank, len(batches), self.world_size)
        done = {unit: arrays for unit in mine if (arrays := self.store.load(f"{stage.name}-{unit}")) is not None}
        if not self._is_shared:
            done = same_for_all(done)
        self.time_left.enter(stage.part)
        total = sum(costs[unit] for unit in mine)
        progress = StageProgress(self.display, stage.text, total, "layer passes", whole=self.time_left.row)
        for unit in mine:
            shown = _UnitProgress(costs[unit], progress, self.time_left)
            if unit not in done:
                self.time_left.start()
                done[unit] = self._compute(stage, f"{stage.name}-{unit}", of_units[unit], compute, shown)
                shown.reach(1.0, computed=True)
                self._tell_time_left()
            else:
                shown.reach(1.0, computed=False)
        everything: dict[int, Arrays] = {}
        for share in gather_object([done]) if self._is_shared else [done]:
            everything |= share
        return StageResult(np.concatenate(batches), _merged([everything[unit] for unit in range(len(batches))]))

    def once(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Compute something that each process needs once, or read it where an earlier run has done it.

        Args:
            name: of what is computed.
            compute: gives numbers.
        """
        unit = f"{name}-{self.rank}"
        arrays = self.store.load(unit)
        if not self._is_shared:
            arrays = same_for_all(arrays)
        if arrays is None:
            arrays = compute()
            if self._writes:
                self.store.save(unit, arrays)
        return arrays

    @property
    def _writes(self) -> bool:
        """Whether this process puts on disk what it computes: its own share, or what all compute together."""
        return self._is_shared or is_first_process()

    def _compute(
        self, stage: Stage, unit: str, documents: Sequence[CalibrationDocument], compute: Compute, shown: _UnitProgress
    ) -> Arrays:
        """Compute a unit from the pieces that are done, and put it on disk."""
        file = self.store.pieces(unit, stage.about)
        kept = file.read() if self._writes else {}
        if not self._is_shared:
            kept = same_for_all(kept)
        whole = range(len(documents))
        pieces = Pieces(kept, file.append if self._writes else keep_nothing, shown.reach, len(documents), whole)

        def compute_part(part: Sequence[int]) -> Arrays:
            of_part = pieces.of_part(range(part[0], part[-1] + 1))
            some = [documents[number] for number in part]
            if len(some) == len(documents):
                return compute(some, of_part)
            return of_part.run("all", lambda: compute(some, of_part), reaches=1.0)

        arrays = _merged(run_in_parts(compute_part, whole, pieces.halved("documents")))
        if self._writes:
            self.store.save(unit, arrays)
        return arrays

    def _tell_time_left(self) -> None:
        line = self.time_left.first_words()
        if line is not None:
            self.display.print(line)


class _UnitProgress:
    """How far a unit is.

    Args:
        cost: layer passes of the unit, at most.
        progress: of the stage.
        time_left: of the search.
    """

    def __init__(self, cost: int, progress: StageProgress, time_left: TimeLeft) -> None:
        self._cost, self._progress, self._time_left = cost, progress, time_left
        self._reached = 0

    def reach(self, share: float, computed: bool) -> None:
        """A share of the unit is done, of which this run, or an earlier one, computed what was added last."""
        added = round(share * self._cost) - self._reached
        if added > 0:
            self._reached += added
            self._time_left.count(added, computed)
            (self._progress.advance if computed else self._progress.skip)(added)


def _merged(parts: Sequence[Arrays]) -> Arrays:
    """Join what several lists of documents gave into what one list gives."""
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1) if array.ndim else np.sum([part[name] for part in parts])
        for name, array in parts[0].items()
    }
