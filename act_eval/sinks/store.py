"""Keep statistics on disk, task by task and batch by batch, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from act_eval.continued_folder import go_on_in
from act_eval.files import atomic_file
from act_eval.head_scores import plot_head_scores
from act_eval.sinks import plots
from act_eval.sinks.statistics import SinkStatistics

PROVENANCE_FILE = "sinks.json"
_OWNED = (
    "statistics_*.npz",
    "unfinished_*.npz",
    "document_map.npz",
    *(f"{drawn.name}.*" for drawn in (*plots.ALL, plot_head_scores)),
)


@dataclass(frozen=True)
class BegunTask:
    """A task whose first documents have been looked at.

    Attributes:
        done: how many.
        halved: the documents, from a number up to another one, that do not fit into memory together: int64 `[lists, 2]`.
        statistics: of the documents that have been looked at.
    """

    done: int
    halved: np.ndarray
    statistics: SinkStatistics


@dataclass(frozen=True)
class StatisticsStore:
    """Statistics by task, each in a file `statistics_<task>.npz`, beside `sinks.json`, which says what they are of.

    A task that is not finished has a file `unfinished_<task>.npz`, which is as long as that of a finished one.

    Attributes:
        folder: the output folder.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, provenance: Mapping[str, Any]) -> StatisticsStore:
        """Go on with the statistics in a folder; those of anything else are set aside with their figures, see `go_on_in`.

        Args:
            folder: exists.
            provenance: all that the statistics depend on; values that JSON can hold.
        """
        go_on_in(folder, PROVENANCE_FILE, provenance, _OWNED)
        return cls(folder)

    def load(self, task: str) -> SinkStatistics | None:
        """A finished task's statistics, or None."""
        try:
            statistics = SinkStatistics.load(self.path(task))
        except (EOFError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None  # not there, or not a whole file: they are collected anew
        self._begun_path(task).unlink(missing_ok=True)  # which a kill left behind
        return statistics

    def save(self, task: str, statistics: SinkStatistics) -> None:
        """Put a finished task's statistics on disk."""
        statistics.save(self.path(task))
        self._begun_path(task).unlink(missing_ok=True)

    def load_begun(self, task: str) -> BegunTask | None:
        """What has been looked at of a task, or None."""
        try:
            with np.load(self._begun_path(task), allow_pickle=False) as file:
                arrays = dict(file)
            return BegunTask(int(arrays.pop("done")), arrays.pop("halved"), SinkStatistics.from_arrays(arrays))
        except (EOFError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None  # not there, or not a whole file: the task is begun anew

    def save_begun(self, task: str, begun: BegunTask) -> None:
        """Put on disk what has been looked at of a task, in place of what was there."""
        arrays = {"done": np.array(begun.done), "halved": begun.halved, **begun.statistics.arrays}
        with atomic_file(self._begun_path(task)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def path(self, task: str) -> Path:
        """The file of a finished task."""
        return self._path("statistics", task)

    def _begun_path(self, task: str) -> Path:
        return self._path("unfinished", task)

    def _path(self, prefix: str, task: str) -> Path:
        return self.folder / f"{prefix}_{task.replace('/', '_')}.npz"
