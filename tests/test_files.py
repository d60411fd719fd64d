"""Files that appear whole or not at all, also where several write them."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from act_eval.files import atomic_file

pytestmark = pytest.mark.tier("unit")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_writer_waits_for_another_one(tmp_path):
    """Neither writes into the other's file, or moves it away from under it."""
    path, started = tmp_path / "report.html", threading.Event()

    def write_second():
        started.set()
        with atomic_file(path) as file:
            file.write(b"second")

    second = threading.Thread(target=write_second)
    with atomic_file(path) as file:
        second.start()
        started.wait()
        file.write(b"the first one")
    second.join()
    assert content(tmp_path) == {"report.html": b"second"}


def test_what_several_write_at_once_is_whole(tmp_path):
    path = tmp_path / "report.html"

    def write_and_read(byte):
        for _ in range(50):
            with atomic_file(path) as file:
                file.write(byte * 100_000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor() as pool:
        for written in [pool.submit(write_and_read, byte) for byte in (b"a", b"b", b"c")]:
            written.result()
    assert list(content(tmp_path)) == ["report.html"]


def write_half(path, error):
    with atomic_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "report.html"
    path.write_bytes(b"before")
    with pytest.raises(error):
        write_half(path, error)
    assert content(tmp_path) == {"report.html": b"before"}


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    (tmp_path / ".report.html.unfinished").write_bytes(b"longer than what is written now")
    with atomic_file(tmp_path / "report.html") as file:
        file.write(b"now")
    assert content(tmp_path) == {"report.html": b"now"}


def test_others_may_read_it_as_they_may_read_other_files(tmp_path):
    umask = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "report.html") as file:
            file.write(b"text")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o644
