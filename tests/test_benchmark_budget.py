"""Programs within a time budget: what no longer fits is skipped, what takes too long is stopped and keeps its rows."""

import fcntl
import sys
from pathlib import Path

import json_lines
import pytest
from budget import Budget, Ended, Part, run_parts, run_program, summary

pytestmark = pytest.mark.tier("unit")


class Clock:
    """Time that passes when a program runs."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def part(name, least=10, most=100, needs=()):
    return Part(name, "kind", [name], least, most, needs)


def runner(clock, **programs):
    """Runs programs that take so many seconds, end with a status, and write a row for each ten seconds."""
    calls = []

    def run(command, seconds):
        takes, status = programs[command[0]]
        calls.append((command[0], seconds))
        for _ in range(int(min(takes, seconds) // 10)):
            json_lines.append(command_output(command), {"from": command[0]})
        clock.now += min(takes, seconds)
        return Ended(None if takes > seconds else status, "a line\nthe last line\n")

    return run, calls


def command_output(command):
    assert command[-2] == "--output"
    return Path(command[-1])


def test_parts_share_the_budget(clock):
    run, calls = runner(clock, a=(30, 0), b=(50, 0), c=(15, 0), d=(5, 0))
    told = []
    records = run_parts([part("a"), part("b", most=40), part("c", least=30), part("d")], Budget(95, clock), run, told.append)
    # b may take 40 s of the 65 that are left; then 25 are left, too little for c, and enough for d.
    assert calls == [("a", 95), ("b", 40), ("d", 25)]
    assert [record["state"] for record in records] == ["done", "stopped", "skipped", "done"]
    assert records[2]["why"] == "it needs 30 s, and 25 s are left"
    assert told[2] == "c: skipped: it needs 30 s, and 25 s are left"


def test_what_is_stopped_keeps_its_rows(clock):
    run, _ = runner(clock, a=(1000, 0))
    (record,) = run_parts([part("a", most=35)], Budget(95, clock), run, str)
    assert record == {
        "part": "a",
        "kind": "kind",
        "state": "stopped",
        "why": "it may take 35 s",
        "seconds": 35,
        "rows": [{"from": "a"}] * 3,
    }


def test_a_failure_ends_with_what_the_program_said_last(clock):
    run, _ = runner(clock, a=(20, 3), b=(20, 0))
    failed, done = run_parts([part("a"), part("b")], Budget(95, clock), run, str)
    assert failed["state"] == "failed"
    assert failed["said"] == "a line\nthe last line\n"
    assert summary(failed) == "failed after 20 s, 2 rows: the last line (exit status 3)"
    assert done["state"] == "done"


def test_a_part_without_its_modules_is_skipped(clock):
    run, calls = runner(clock)
    (record,) = run_parts([part("a", needs=("json", "no_such_module"))], Budget(95, clock), run, str)
    assert (record["state"], record["why"]) == ("skipped", "no_such_module cannot be imported")
    assert calls == []


def test_a_half_written_row_does_not_count(tmp_path):
    path = tmp_path / "rows"
    assert json_lines.read(path) == []
    json_lines.append(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2')
    assert json_lines.read(path) == [{"n": 1}]


@pytest.mark.tier("process")
def test_a_program_runs(tmp_path):
    command = [
        sys.executable,
        "-c",
        "import sys; open(sys.argv[1], 'a').write('x'); print('said'); sys.exit(4)",
        tmp_path / "a",
    ]
    assert run_program(command, 60) == Ended(4, "said\n")
    assert (tmp_path / "a").read_text() == "x"


CHILD = """
import fcntl, pathlib, sys, threading
file = open("lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
threading.Event().wait(20)
pathlib.Path("survived").touch()
"""


@pytest.mark.tier("process")
def test_a_program_is_stopped_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"
    assert run_program([sys.executable, "-c", parent], 2).status is None
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which is free once the child has ended
    assert not (tmp_path / "survived").exists()
