"""A folder has one writer: what asks again inside it goes on, others are refused, and a killed one leaves it free."""

import signal
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout

from act_eval.errors import InputError
from act_eval.files import make_folder
from act_eval.harness import processes
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


def fail_after_writing(folder, names, error):
    """Write some files into a folder that is held, of which study.json is a record, then fail."""
    with only_writer(folder, ["study.json"]):
        for name in names:
            (folder / name).write_text("text")
        raise error


def test_a_refused_command_leaves_nothing_behind(tmp_path):
    """In a folder inside one that it holds too, as a study and its search do."""

    def study(folder):
        with only_writer(folder, ["plan.json"]):
            (folder / "plan.json").write_text("asked")
            fail_after_writing(folder / "search", ["study.json"], InputError("no such layer"))

    with pytest.raises(InputError, match="no such layer"):
        study(tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("was_there", [False, True])
def test_what_another_command_wrote_just_before_stays(tmp_path, monkeypatch, was_there):
    """It ends between the moment at which this one is called and that at which it holds the folder."""
    folder = tmp_path / "out"
    if was_there:
        folder.mkdir()
        (folder / "study.json").write_text("asked before")

    def other_command(folder):
        make_folder(folder)
        (folder / "study.json").write_text("of the other")

    monkeypatch.setattr(processes, "make_folder", other_command)
    with pytest.raises(InputError):
        fail_after_writing(folder, ["study.json"], InputError("no such layer"))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"study.json": "of the other"}


def test_what_was_computed_before_a_refusal_stays(tmp_path):
    with pytest.raises(InputError):
        fail_after_writing(tmp_path, ["study.json", "results.json"], InputError("the second task cannot be run"))
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "study.json", "results.json"}


def test_other_failures_leave_what_is_there(tmp_path):
    """The same command goes on with it."""
    with pytest.raises(KeyboardInterrupt):
        fail_after_writing(tmp_path, ["study.json"], KeyboardInterrupt())
    assert (tmp_path / "study.json").exists()


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
