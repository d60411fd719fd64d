"""Files that grow by one line of JSON at a time and survive a kill: what is whole stays, half a last line is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from act_eval.errors import InputError
from act_eval.files import make_folder

Append = Callable[[Mapping[str, Any]], None]


@contextmanager
def open_journal(path: Path) -> Iterator[Append]:
    """Open a file to append to it, alone; made when missing, with its folder.

    Yields:
        A function that puts a record on disk; it is there for good when the function returns.

    Raises:
        InputError: another process has the file open, or it cannot be written.
    """
    try:
        make_folder(path.parent)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0), path.open("ab") as file:
            file.truncate(_whole_lines(path))

            def append(record: Mapping[str, Any]) -> None:
                file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())

            yield append
    except Timeout:
        raise InputError(f"another process is writing {path}: wait until it has finished.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder.") from error


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The whole records of a file; none if it does not exist. Raises InputError when it holds something else."""
    try:
        lines = path.read_bytes()[: _whole_lines(path)].splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise InputError(f"line {number} of {path} is not what was written there ({error}): delete the line.") from error
        records.append(record)
    return records


def _whole_lines(path: Path) -> int:
    """The number of bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1
