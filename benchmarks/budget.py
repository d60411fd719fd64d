"""Run programs one after the other within a time budget: what no longer fits is skipped, what takes too long is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import json_lines


@dataclass(frozen=True)
class Part:
    """A program that writes rows into a file.

    Attributes:
        name: for people.
        kind: which parts have rows alike.
        command: program and arguments; `--output FILE` is added.
        least: seconds without which it is not worth starting.
        most: seconds after which it is stopped, with the rows that it has written by then.
        needs: modules without which it cannot run.
    """

    name: str
    kind: str
    command: Sequence[str]
    least: float
    most: float
    needs: Sequence[str] = ()


@dataclass
class Budget:
    """Seconds that are left of a number of seconds."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since it was made."""
        return self.clock() - self._began

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 where it is overdrawn."""
        return self.seconds - self.spent


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, None where it was stopped, and the end of what it printed."""

    status: int | None
    said: str


def run_program(command: Sequence[str], seconds: float) -> Ended:
    """Run a program with all that it starts for at most some seconds."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return Ended(status, said.read().decode(errors="replace")[-2000:])


def run_parts(
    parts: Sequence[Part],
    budget: Budget,
    run: Callable[[Sequence[str], float], Ended] = run_program,
    tell: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run parts in turn.

    Args:
        parts: the most important one first.
        budget: for all of them.
        run: runs a command for at most some seconds.
        tell: is told what became of each.

    Returns:
        For each: `part`, `kind`, `state` ("done", "stopped", "failed" or "skipped"), `why` unless it is done, `seconds`,
        the `rows` that it wrote, and what it `said` last where it failed.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            record = _run_part(part, Path(folder) / f"{number}.jsonl", budget, run)
            records.append(record)
            tell(f"{part.name}: {summary(record)}")
    return records


def summary(record: Mapping[str, Any]) -> str:
    """What became of a part, in a few words."""
    if record["state"] == "skipped":
        return f"skipped: {record['why']}"
    why = "" if record["state"] == "done" else f": {record['why']}"
    return f"{record['state']} after {record['seconds']:.0f} s, {len(record['rows'])} rows{why}"


def _run_part(part: Part, output: Path, budget: Budget, run: Callable[[Sequence[str], float], Ended]) -> dict[str, Any]:
    nothing = {"part": part.name, "kind": part.kind, "state": "skipped", "seconds": 0.0, "rows": []}
    missing = [module for module in part.needs if find_spec(module) is None]
    if missing:
        return {**nothing, "why": f"{', '.join(missing)} cannot be imported"}
    if budget.left < part.least:
        return {**nothing, "why": f"it needs {part.least:.0f} s, and {max(0.0, budget.left):.0f} s are left"}
    began, allowed = budget.spent, min(part.most, budget.left)
    ended = run([*part.command, "--output", str(output)], allowed)
    record = {**nothing, "state": "done", "seconds": budget.spent - began, "rows": json_lines.read(output)}
    if ended.status is None:
        record |= {"state": "stopped", "why": f"it may take {allowed:.0f} s"}
    elif ended.status:
        last = ended.said.strip().rpartition("\n")[2]
        record |= {"state": "failed", "why": f"{last} (exit status {ended.status})", "said": ended.said}
    return record
