"""Answers to a task's requests on disk, batch by batch as they come, from which a run that was killed goes on.

A file has a line for each batch: a digest of what follows, then the answers. A line that was cut off in the middle, or that was
changed, does not fit its digest and counts as missing, so that its batch runs again.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash

logger = logging.getLogger(__name__)


def request_keys(kind: str, requests: Sequence[Any]) -> list[str]:
    """Name requests by their content, and those of equal content by their order.

    Args:
        kind: the method of lm-eval's model that answers them.
        requests: all that their answers depend on; values that JSON can hold.
    """
    numbering: Counter[str] = Counter()
    keys = []
    for request in requests:
        content = xxhash.xxh3_128_hexdigest(json.dumps([kind, request], sort_keys=True, default=str).encode())
        keys.append(f"{content}-{numbering[content]}")
        numbering[content] += 1
    return keys


class RecordedAnswers:
    """The answers of one run.

    Args:
        folder: made when missing; belongs to the answers of runs alone.
        run: a name that changes with all that the answers depend on.
        process: number of this process; each writes a file of its own, and reads those of all. None where another writes.
    """

    def __init__(self, folder: Path, run: str, process: int | None = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._run = folder, run
        self._answers: dict[str, Any] = {}
        self._random_states: dict[str, str] = {}
        for file in _files(folder, run):
            self._read(file)
        self._file = None if process is None else (folder / f"{run}-{process}.jsonl").open("ab")
        if self._file is not None and self._file.tell():
            self._file.write(b"\n")  # so that a line that was cut off spoils no other

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, answers: Mapping[str, Any], random_state: torch.Tensor | None = None) -> None:
        """Put the answers of a batch on disk.

        Args:
            answers: by the names of their requests: texts, or tuples of what JSON can hold.
            random_state: of torch after the batch, uint8 `[bytes]`, where it drew random numbers.
        """
        if self._file is None:
            return
        state = None if random_state is None else base64.b64encode(random_state.numpy().tobytes()).decode()
        content = json.dumps({"answers": dict(answers), "random_state": state}).encode()
        self._file.write(_digest(content) + b" " + content + b"\n")
        self._file.flush()

    def random_state(self, key: str) -> torch.Tensor | None:
        """The state of torch's random numbers after the batch of a request, where that batch drew some."""
        state = self._random_states.get(key)
        return None if state is None else torch.tensor(list(base64.b64decode(state)), dtype=torch.uint8)

    def close(self) -> None:
        """Keep the files for a later run."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Delete the files, of all processes."""
        self.close()
        remove_answers(self._folder, [self._run])

    def _read(self, file: Path) -> None:
        for line in filter(None, file.read_bytes().split(b"\n")):
            digest, _, content = line.partition(b" ")
            if digest != _digest(content):
                logger.warning("%s: a batch is not whole and is run again.", file.name)
                continue
            batch = json.loads(content)
            self._answers |= {
                key: tuple(answer) if isinstance(answer, list) else answer for key, answer in batch["answers"].items()
            }
            if batch["random_state"] is not None:
                self._random_states |= dict.fromkeys(batch["answers"], batch["random_state"])


def remove_answers(folder: Path, runs: Iterable[str]) -> None:
    """Delete what lies in a folder of the answers of some runs, by their names; others may be writing to it, so it stays."""
    for run in runs:
        for file in _files(folder, run):
            file.unlink(missing_ok=True)


def _files(folder: Path, run: str) -> list[Path]:
    return sorted(folder.glob(f"{run}-*.jsonl"))


def _digest(content: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(content).encode()
