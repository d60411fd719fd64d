"""Finished units of a search on disk, from which a search that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from act_eval.continued_folder import go_on_in
from act_eval.errors import InputError
from act_eval.files import atomic_file
from act_eval.head_scores import plot_head_scores
from act_eval.search.piece_file import Arrays, PieceFile

IDENTITY_FILE = "search.json"
_UNITS = "units"
PROFILE_FILE, HEAD_SETS_FILE = "profile.json", "heads_together.csv"
_OWNED = (_UNITS, PROFILE_FILE, HEAD_SETS_FILE, f"{plot_head_scores.name}.*")


@dataclass(frozen=True)
class UnitStore:
    """Units of work by name, each a file of arrays in `units/`, and a file of pieces while it is not finished.

    Attributes:
        folder: the search's output folder.
        identity: all that the units depend on, as text.
    """

    folder: Path
    identity: str = ""

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], needed_bytes: int) -> UnitStore:
        """Start a search in a folder, or go on with the one that is there; one of anything else is set aside, see `go_on_in`.

        Args:
            folder: made when missing.
            identity: everything that the units depend on; values that JSON can hold.
            needed_bytes: roughly what all units will take.

        Raises:
            InputError: the folder cannot be written to, or the disk is too full.
        """
        try:
            (folder / _UNITS).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            with atomic_file(folder / _UNITS / "probe") as file:
                file.write(b"\0" * 4096)
            (folder / _UNITS / "probe").unlink()
        except OSError as error:
            raise InputError(f"the search cannot write to {folder} ({error}): choose another folder.") from error
        if free < needed_bytes:
            raise InputError(
                f"the disk of {folder} has {free / 2**20:.0f} MiB free, but the search needs about "
                f"{needed_bytes / 2**20:.0f} MiB: make room, or choose another folder."
            )
        go_on_in(folder, IDENTITY_FILE, identity, _OWNED)
        (folder / _UNITS).mkdir(exist_ok=True)
        return cls(folder, json.dumps(identity))

    @property
    def is_empty(self) -> bool:
        """Whether no unit has been begun."""
        return not any((self.folder / _UNITS).iterdir())

    def load(self, name: str) -> Arrays | None:
        """Read a finished unit; None where there is none, or no whole one."""
        try:
            with np.load(self._path(name), allow_pickle=False) as file:
                arrays = dict(file)
        except (EOFError, OSError, ValueError, zipfile.BadZipFile):
            return None  # not there, or not a whole file: it is computed and written anew
        self.pieces(name).delete()  # which a kill left behind
        return arrays

    def save(self, name: str, arrays: Arrays) -> None:
        """Put a finished unit on disk; its pieces are not needed any more."""
        with atomic_file(self._path(name)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        self.pieces(name).delete()

    def pieces(self, name: str, about: str = "") -> PieceFile:
        """The file of a unit's pieces; `about` is what they depend on beside the search's identity and the unit's name."""
        key = hashlib.sha256(json.dumps([self.identity, name, about]).encode()).digest()
        return PieceFile(self.folder / _UNITS / f"{name}.pieces", key)

    def _path(self, name: str) -> Path:
        return self.folder / _UNITS / f"{name}.npz"
