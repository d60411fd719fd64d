"""Keep each task's statistics on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.files import atomic_file
from act_eval.sinks.statistics import SinkStatistics

PROVENANCE_FILE = "sinks.json"


@dataclass(frozen=True)
class StatisticsStore:
    """Statistics by task, each in a file `statistics_<task>.npz`, beside `sinks.json`, which says what they are of.

    Attributes:
        folder: the output folder.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, provenance: Mapping[str, Any]) -> StatisticsStore:
        """Go on with the statistics in a folder, or delete them where they are of anything else.

        Args:
            folder: exists.
            provenance: all that the statistics depend on; values that JSON can hold.
        """
        store, file = cls(folder), folder / PROVENANCE_FILE
        content = (json.dumps(provenance, indent=2, ensure_ascii=False) + "\n").encode()
        if not file.is_file() or file.read_bytes() != content:
            for other in folder.glob("statistics_*.npz"):
                other.unlink()
            with atomic_file(file) as target:
                target.write(content)
        return store

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
