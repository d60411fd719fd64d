"""A folder after a command was refused: as it was, unless there are results."""

import pytest

from act_eval.refusals import FolderAsItWas

pytestmark = pytest.mark.tier("unit")

PATTERNS = ["plan.json", "answers/*.json"]


def content(folder):
    """All that is below a folder: texts of files, None for folders."""
    return {path.relative_to(folder): None if path.is_dir() else path.read_text() for path in folder.rglob("*")}


def write(folder, **texts):
    for name, text in texts.items():
        file = folder / name.replace("__", "/").replace("_json", ".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_what_was_made_is_gone(tmp_path):
    """Records, empty files of ours and empty folders; and the folders above, as far as they were made."""
    (tmp_path / "there").mkdir()
    folder = tmp_path / "there" / "new" / "out"
    before = FolderAsItWas.of(folder, PATTERNS)
    empty = {".lock": "", "answers__.one.lock": "", "below__.lock": "", ".answers__of_one.jsonl": ""}
    write(folder, plan_json="asked", answers__one_json="settings", **empty)
    before.restore()
    assert content(tmp_path) == {(tmp_path / "there").relative_to(tmp_path): None}


@pytest.mark.parametrize("result", ["score", "plan_json_copy", "below__plan_json", ".answers__of_one.jsonl"])
def test_results_stay_with_all_that_is_beside_them(tmp_path, result):
    before = FolderAsItWas.of(tmp_path / "out", PATTERNS)
    write(tmp_path / "out", plan_json="asked", lock="", **{result: "0.5"})
    written = content(tmp_path)
    before.restore()
    assert content(tmp_path) == written


def test_empty_files_of_others_stay(tmp_path):
    """Another program may write in the same folder, such as the current one."""
    before = FolderAsItWas.of(tmp_path, PATTERNS)
    write(tmp_path, plan_json="asked", **{".lock": "", "marker": "", "package__empty": ""})
    before.restore()
    assert {str(path) for path in content(tmp_path)} == {"marker", "package", "package/empty"}


def test_what_was_there_is_there_again(tmp_path):
    write(tmp_path, plan_json="asked", score="0.5", below__score="0.4", empty="")
    (tmp_path / "folder").mkdir()
    was = content(tmp_path)
    before = FolderAsItWas.of(tmp_path, PATTERNS)
    write(tmp_path, plan_json="asked otherwise", answers__one_json="settings", **{".lock": ""})
    before.restore()
    assert content(tmp_path) == was


def test_a_record_that_was_deleted_comes_back(tmp_path):
    write(tmp_path, plan_json="asked")
    before = FolderAsItWas.of(tmp_path, PATTERNS)
    (tmp_path / "plan.json").unlink()
    before.restore()
    assert content(tmp_path) == {(tmp_path / "plan.json").relative_to(tmp_path): "asked"}


def test_a_folder_above_that_others_use_stays(tmp_path):
    before = FolderAsItWas.of(tmp_path / "new" / "out", PATTERNS)
    write(tmp_path / "new" / "out", **{".lock": ""})
    write(tmp_path / "new" / "other", score="0.5")
    before.restore()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["other"]


def test_nothing_was_made(tmp_path):
    FolderAsItWas.of(tmp_path / "new" / "out", PATTERNS).restore()
    assert content(tmp_path) == {}
