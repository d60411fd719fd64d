"""Files that grow by one piece of work at a time, each with a checksum: whatever is not whole counts as not there.

A piece is on its way to the disk when `append` returns, so that a kill of the process does not lose it. The disk is not waited
for: what a crash of the machine loses or tears is found by its checksum, and computed again.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]

_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 32
_NAME = "name of the piece"


@dataclass(frozen=True)
class PieceFile:
    """Pieces of one unit of work by name, one after the other in a file.

    Attributes:
        path: of the file, which need not exist.
        key: up to 64 bytes that stand for all that the pieces depend on. It goes into the checksums, so that a piece of
            anything else counts as not there.
    """

    path: Path
    key: bytes

    def read(self) -> dict[str, Arrays]:
        """Read the whole pieces up to the first that is not whole, which is cut off with all that follows it.

        Where a name occurs twice, its first piece counts.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        found: dict[str, Arrays] = {}
        end = 0
        for name, arrays, end in self._pieces(content):  # noqa: B007 (the end of the last piece is needed below)
            found.setdefault(name, arrays)
        if end < len(content):
            os.truncate(self.path, end)
        return found

    def append(self, name: str, arrays: Arrays) -> None:
        """Add a piece."""
        buffer = io.BytesIO()
        np.savez(buffer, **{_NAME: np.array(name), **arrays})  # type: ignore[arg-type]
        payload = buffer.getvalue()
        with self.path.open("ab") as file:
            file.write(len(payload).to_bytes(_LENGTH_BYTES, "little") + self._checksum(payload) + payload)

    def delete(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)

    def _pieces(self, content: bytes) -> Iterator[tuple[str, Arrays, int]]:
        """Yield name and arrays of each whole piece, and where it ends, up to the first that is not whole."""
        start = 0
        while start < len(content):
            begin = start + _LENGTH_BYTES + _CHECKSUM_BYTES
            start = begin + int.from_bytes(content[start : start + _LENGTH_BYTES], "little")
            payload = content[begin:start]
            if start > len(content) or content[begin - _CHECKSUM_BYTES : begin] != self._checksum(payload):
                return
            with np.load(io.BytesIO(payload), allow_pickle=False) as file:
                arrays = dict(file)
            yield str(arrays.pop(_NAME)), arrays, start

    def _checksum(self, payload: bytes) -> bytes:
        return hashlib.blake2b(payload, digest_size=_CHECKSUM_BYTES, key=self.key).digest()
