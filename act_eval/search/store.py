"""Finished units of a search on disk, from which a search that was killed goes on."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from act_eval.errors import InputError
from act_eval.files import atomic_file

IDENTITY_FILE = "search.json"
_UNITS = "units"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class UnitStore:
    """Units of work by name, each a file of arrays in `units/`.

    Attributes:
        folder: the search's output folder.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], needed_bytes: int) -> UnitStore:
        """Start a search in a folder, or go on with the one that is there.

        Args:
            folder: made when missing.
            identity: everything that the units depend on; values that JSON can hold.
            needed_bytes: roughly what all units will take.

        Raises:
            InputError: the folder cannot be written to, the disk is too full, or the folder holds a search with another
                identity.
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
        store = cls(folder)
        store._check_identity(json.loads(json.dumps(identity)))
        return store

    def _check_identity(self, identity: dict[str, Any]) -> None:
        file = self.folder / IDENTITY_FILE
        if not file.is_file():
            with atomic_file(file) as target:
                target.write((json.dumps(identity, indent=2) + "\n").encode())
            return
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is not readable ({error}): choose another folder.") from error
        for key in sorted({*identity, *earlier}):
            if identity.get(key) != earlier.get(key):
                raise InputError(
                    f"{self.folder} holds a search with another {key} ({_brief(earlier.get(key))}; now "
                    f"{_brief(identity.get(key))}): choose another folder, or give the same settings to go on with it."
                )

    def load(self, name: str) -> Arrays | None:
        """Read a finished unit; None where there is none, or no whole one."""
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None  # not there, or not a whole file: it is computed and written anew

    def save(self, name: str, arrays: Arrays) -> None:
        """Put a finished unit on disk."""
        with atomic_file(self._path(name)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _path(self, name: str) -> Path:
        return self.folder / _UNITS / f"{name}.npz"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
