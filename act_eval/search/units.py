"""Units of work: batches of documents that are computed once, by one of the processes, and kept on disk.

Processes that hold parts of the model compute every unit together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from accelerate.utils import gather_object
from tqdm import tqdm

from act_eval.harness.memory import run_in_parts
from act_eval.harness.processes import is_first_process, same_for_all
from act_eval.search.batches import batches_by_length
from act_eval.search.documents import CalibrationDocument
from act_eval.search.store import Arrays, UnitStore

Compute = Callable[[Sequence[CalibrationDocument]], Arrays]
"""Computes a unit: arrays with the documents as their last dimension, and numbers that are sums over documents."""


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
        store: keeps finished units.
        rank, world_size: this process's number among those that share the units, and how many these are.
        batch_size: contexts of a unit; a document that has more is a unit of its own.
    """

    store: UnitStore
    rank: int
    world_size: int
    batch_size: int

    def run(self, stage: str, documents: Sequence[CalibrationDocument], compute: Compute, text: str) -> StageResult:
        """Compute a stage's units, or read them where they are done; each process takes its share, and all get all.

        Args:
            stage: prefix of the units' names.
            documents: at least one.
            compute: what to do with the documents of one unit.
            text: of the progress bar.
        """
        batches = batches_by_length(documents, self.batch_size)
        tokens = [sum(documents[number].length * len(documents[number].requests) for number in batch) for batch in batches]
        mine, shared = range(self.rank, len(batches), self.world_size), self.world_size > 1
        done = {unit: arrays for unit in mine if (arrays := self.store.load(f"{stage}-{unit}")) is not None}
        if not shared:
            done = same_for_all(done)
        bar = tqdm(
            total=sum(tokens[unit] for unit in mine),
            initial=sum(tokens[unit] for unit in done),
            desc=text,
            unit="tok",
            unit_scale=True,
            disable=not is_first_process(),
        )
        with bar:
            for unit in mine:
                if unit not in done:
                    done[unit] = _merged(run_in_parts(compute, [documents[number] for number in batches[unit]]))
                    if shared or is_first_process():
                        self.store.save(f"{stage}-{unit}", done[unit])
                    bar.update(tokens[unit])
        everything: dict[int, Arrays] = {}
        for share in gather_object([done]) if shared else [done]:
            everything |= share
        return StageResult(np.concatenate(batches), _merged([everything[unit] for unit in range(len(batches))]))


def _merged(parts: Sequence[Arrays]) -> Arrays:
    """Join what several lists of documents gave into what one list gives."""
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1) if array.ndim else np.sum([part[name] for part in parts])
        for name, array in parts[0].items()
    }
