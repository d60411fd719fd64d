"""Keep each task's statistics on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.continued_folder import go_on_in
from act_eval.head_scores import plot_head_scores
from act_eval.sinks import plots
from act_eval.sinks.statistics import SinkStatistics

PROVENANCE_FILE = "sinks.json"
_OWNED = ("statistics_*.npz", "document_map.npz", *(f"{drawn.name}.*" for drawn in (*plots.ALL, plot_head_scores)))


@dataclass(frozen=True)
class StatisticsStore:
    """Statistics by task, each in a file `statistics_<task>.npz`, beside `sinks.json`, which says what they are of.

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
            return SinkStatistics.load(self.path(task))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # not there, or not a whole file: they are collected anew

    def save(self, task: str, statistics: SinkStatistics) -> None:
        """Put a finished task's statistics on disk."""
        statistics.save(self.path(task))

    def path(self, task: str) -> Path:
        """The file of a task."""
        return self.folder / f"statistics_{task.replace('/', '_')}.npz"
