"""A folder has one writer: what asks again inside it goes on, others are refused, and a killed one leaves it free."""

import signal
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout

from act_eval.errors import InputError
from act_eval.harness.processes import only_writer

pytestmark = pytest.mark.tier("unit")

HOLD = """
import sys
from pathlib import Path
from act_eval.harness.processes import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def is_held(folder):
    try:
        FileLock(folder / ".lock", timeout=0).acquire().lock.release()
    except Timeout:
        return True
    return False


def test_a_study_holds_the_folder_in_which_its_comparison_runs(tmp_path):
    with only_writer(tmp_path / "out"):
        with only_writer(tmp_path / "out"), only_writer(tmp_path / "out" / "search"):
            assert is_held(tmp_path / "out" / "search")
        assert is_held(tmp_path / "out")
        assert not is_held(tmp_path / "out" / "search")
    assert not is_held(tmp_path / "out")


def test_the_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path):
        raise KeyError
    assert not is_held(tmp_path)


def test_the_same_folder_by_another_path(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(InputError, match="another command is writing to link: "):
        only_writer((tmp_path / "link").relative_to(tmp_path)).__enter__()


@pytest.mark.tier("process")
def test_a_killed_process_leaves_the_folder_free(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="wait until it has finished, or choose another folder"), only_writer(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with only_writer(tmp_path):
        assert is_held(tmp_path)
