"""Folders of long work: gone on with, set aside, brought back."""

import json
import os
from contextlib import suppress

import pytest

from act_eval import continued_folder
from act_eval.continued_folder import go_on_in

pytestmark = pytest.mark.tier("unit")

OWNED = ("units", "table.csv")


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def write(folder, mark):
    (folder / "units").mkdir(exist_ok=True)
    (folder / "units" / f"{mark}-0").write_text(mark)
    (folder / "units" / "same-name").write_text(mark)
    (folder / "table.csv").write_text(mark)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notes.txt").write_text("of the user")
    go_on_in(tmp_path, "work.json", {"a": {"b": 1}}, OWNED)
    write(tmp_path, "first")
    return tmp_path


def test_the_same_work_goes_on_without_a_word(folder, caplog):
    before = content(folder)
    go_on_in(folder, "work.json", {"a": {"b": 1}}, OWNED)
    assert content(folder) == before
    assert caplog.messages == []


def test_other_work_begins_anew_and_the_first_comes_back(folder, caplog):
    first = content(folder)
    go_on_in(folder, "work.json", {"a": {"b": 2}, "c": None}, OWNED)
    (aside,) = folder.glob("earlier-*")
    (message,) = caplog.messages
    assert message.startswith(
        f"{folder}: the work begins anew, since this has changed: a.b (1; now 2), c (not recorded; now none)."
    )
    assert message.endswith(f"What was there is in {aside.name}.")
    assert {name for name in content(folder) if not name.startswith("earlier")} == {"notes.txt", "work.json"}
    write(folder, "second")
    second = content(folder)
    go_on_in(folder, "work.json", {"a": {"b": 1}}, OWNED)
    assert {name: text for name, text in content(folder).items() if not name.startswith("earlier")} == first
    go_on_in(folder, "work.json", {"a": {"b": 2}, "c": None}, OWNED)
    assert content(folder) == second


@pytest.mark.parametrize("moves", range(4))
def test_killed_while_it_sets_aside(folder, monkeypatch, moves):
    first, done = content(folder), []

    def replace(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(source)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(continued_folder.os, "replace", replace)
        with suppress(KeyboardInterrupt):
            go_on_in(folder, "work.json", {"a": 2}, OWNED)
    assert len(done) == min(moves, 3)
    go_on_in(folder, "work.json", {"a": 2}, OWNED)
    assert not (folder / "units").exists()
    write(folder, "second")
    go_on_in(folder, "work.json", {"a": {"b": 1}}, OWNED)
    assert {name: text for name, text in content(folder).items() if not name.startswith("earlier")} == first


def test_a_record_that_cannot_be_read(folder, caplog):
    (folder / "work.json").write_text('{"a": ')
    go_on_in(folder, "work.json", {"a": 2}, OWNED)
    assert "since this has changed: work.json, which is not readable." in caplog.text
    assert json.loads((folder / "work.json").read_text()) == {"a": 2}
    (aside,) = folder.glob("earlier-*")
    assert (aside / "table.csv").read_text() == "first"


def test_many_changes_are_counted(folder, caplog):
    go_on_in(folder, "work.json", {f"setting {number}": "x" * 1000 for number in range(9)}, OWNED)
    assert len(caplog.messages[0]) < 400
    assert "and 7 more" in caplog.messages[0]
