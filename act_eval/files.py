"""Files that appear whole or not at all, and folders that can be made or not."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from act_eval.errors import InputError

UNFINISHED = ".unfinished-"  # what names of folders begin with in which results are being written


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name when it is whole, or not at all.

    Several writers of one file wait for each other. What a killed one leaves beside it is written over by the next.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with _held_alone(unfinished) as file:
        try:
            file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _held_alone(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write over what is in it, made when missing, while no other process or thread has it open by this."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "wb") as file:
            with suppress(OSError):  # on a disk that knows no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still_at(path, file):  # and was neither renamed nor removed by who held it before
                yield file
                return


def _is_still_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_texts(texts: Mapping[str, str | None], folder: Path) -> list[Path]:
    """Write texts to files of a folder, by name; those that are None are left out. Returns the paths of the files."""
    paths = []
    for name, text in texts.items():
        if text is not None:
            paths.append(folder / name)
            with atomic_file(paths[-1]) as file:
                file.write(text.encode())
    return paths


def remove_unwritten(names: Iterable[str], written: Collection[Path], folder: Path) -> None:
    """Remove files that an earlier command of the same kind wrote, and this one did not.

    Args:
        names: of all files that the command may write.
        written: the paths of those that it wrote.
        folder: where they are.
    """
    for path in (folder / name for name in names):
        if path not in written and path.is_file():
            path.unlink(missing_ok=True)


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder whose names match a shell-style pattern, sorted, but for those in unfinished folders.

    Folders that vanish meanwhile hold nothing.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(UNFINISHED)]
        found += [Path(place, name) for name in names if fnmatchcase(name, pattern)]
    return sorted(found)


def make_folder(path: Path) -> None:
    """Make a folder to write to, and those above it, unless it is there. Raises InputError when that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder.") from error
