"""A command that is refused for its input leaves nothing behind: what it made by then goes, and records are what they were.

Records are files that say what is asked for, such as `study.json`; everything else that holds something is a result, and stays.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from act_eval.files import atomic_file

_EMPTY_AT_FIRST = ("*.lock", ".answers/*.jsonl")  # files of ours that hold nothing yet


@dataclass(frozen=True)
class FolderAsItWas:
    """What a folder was before a command wrote to it, which holds it for itself from then until it has restored it or is done.

    Attributes:
        folder: the folder.
        missing: what was not there before it was made to hold the folder, the deepest first.
        paths: all else that was below it.
        patterns: of records: shell-style, of paths as seen from the folder.
        records: what those held that were there.
    """

    folder: Path
    missing: tuple[Path, ...]
    paths: frozenset[Path]
    patterns: tuple[str, ...]
    records: Mapping[Path, bytes]

    @classmethod
    def of(cls, folder: Path, patterns: Collection[str] = (), missing: Collection[Path] | None = None) -> FolderAsItWas:
        """Look at a folder, which is held, so that no other command changes it any more, or missing.

        Args:
            folder: which one.
            patterns: of records.
            missing: what was missing before the folder was made to hold it, see `missing_paths`; what is, by default.
        """
        missing = missing_paths(folder) if missing is None else tuple(missing)
        paths = frozenset(_below(folder)).difference(missing)
        records = {path: path.read_bytes() for path in paths if _matches(path, folder, patterns) and path.is_file()}
        return cls(folder, missing, paths, tuple(patterns), records)

    def restore(self) -> None:
        """Remove new records, empty files of ours and empty folders, and undo what changed in records.

        Where there are other new files, which are results, all of it stays. So do folders that hold what others wrote.
        """
        new = [path for path in _below(self.folder) if path not in self.paths]
        files = [path for path in new if path.is_symlink() or not path.is_dir()]
        records = [path for path in files if _matches(path, self.folder, self.patterns)]
        empty = [path for path in files if not path.lstat().st_size]
        if set(files) - {*records, *empty}:
            return
        for path in {*records, *(path for path in empty if _matches(path, self.folder, _EMPTY_AT_FIRST))}:
            path.unlink()
        for path, content in self.records.items():
            if not path.is_file() or path.read_bytes() != content:
                with atomic_file(path) as file:
                    file.write(content)
        for path in (*(path for path in reversed(new) if path not in files), *self.missing):
            with suppress(OSError):
                path.rmdir()


def missing_paths(path: Path) -> tuple[Path, ...]:
    """A path and the folders above it, as far as they are not there; the deepest first."""
    return tuple(each for each in (path, *path.parents) if not each.exists())


def _below(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder, folders before what they hold."""
    for place, folders, names in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *names))


def _matches(path: Path, folder: Path, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(path.relative_to(folder).as_posix(), pattern) for pattern in patterns)
