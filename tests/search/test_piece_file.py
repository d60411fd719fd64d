"""Files of pieces: what is not whole counts as not there, and no piece ever has numbers that were not written."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.search.piece_file import PieceFile
from act_eval.search.store import UnitStore

pytestmark = pytest.mark.tier("unit")

PIECES = {
    "0-8/baseline": {"log_probs": np.array([-1.5, np.nan, -np.inf]), "affected": np.zeros((2, 1, 0), dtype=bool)},
    "0-8/layer3-0": {"log_probs": np.arange(6) / 7, "greedy": np.arange(6) % 2 == 0, "at_once": np.array(4)},
    "0-4/halved": {},
}


def assert_written(found):
    """Every piece that is found is one that was written."""
    for name, arrays in found.items():
        assert arrays.keys() == PIECES[name].keys()
        for key, array in arrays.items():
            expected = PIECES[name][key]
            assert (array.dtype, array.shape, array.tobytes()) == (expected.dtype, expected.shape, expected.tobytes()), key


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file with all pieces, and where each of them ends."""
    file, ends = PieceFile(tmp_path_factory.mktemp("pieces") / "unit-0.pieces", b"this work"), [0]
    for name, arrays in PIECES.items():
        file.append(name, arrays)
        ends.append(file.path.stat().st_size)
    return file, ends


def test_round_trip(written):
    file, ends = written
    found = file.read()
    assert list(found) == list(PIECES)
    assert_written(found)
    assert file.path.stat().st_size == ends[-1]
    assert PieceFile(file.path.with_name("none.pieces"), b"").read() == {}


def test_cut_off_at_every_byte(written, tmp_path):
    """As a kill in the middle of writing leaves it: whole pieces count, and the file goes on after them."""
    file, ends = written
    content = file.path.read_bytes()
    cut = PieceFile(tmp_path / "cut.pieces", file.key)
    for length in range(len(content) + 1):
        cut.path.write_bytes(content[:length])
        found = cut.read()
        assert_written(found)
        whole = sum(end <= length for end in ends[1:])
        assert list(found) == list(PIECES)[:whole], length
        if length % 16 == 0:
            name = list(PIECES)[-1]
            cut.append(name, PIECES[name])
            assert list(cut.read()) == list(dict.fromkeys([*list(PIECES)[:whole], name]))


def test_any_changed_byte(written, tmp_path):
    file, ends = written
    content = file.path.read_bytes()
    changed = PieceFile(tmp_path / "changed.pieces", file.key)
    for place in range(len(content)):
        changed.path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        found = changed.read()
        assert_written(found)
        assert len(found) == sum(end <= place for end in ends[1:])


def test_twice_the_same_piece(tmp_path):
    """The first counts, which is what an earlier run went on from."""
    file = PieceFile(tmp_path / "unit-0.pieces", b"this work")
    for value in (1, 2):
        file.append("0-8/baseline", {"log_probs": np.array(value)})
    assert file.read()["0-8/baseline"]["log_probs"] == 1


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(range(4))), max_size=6))
def test_bytes_of_anything_between_pieces(tmp_path_factory, written, parts):
    """Foreign bytes, and pieces of this and of other work, in any order: those of this work before anything else count."""
    file, ends = written
    content = file.path.read_bytes()
    pieces = [content[start:end] for start, end in pairwise(ends)]
    other = PieceFile(tmp_path_factory.mktemp("other") / "other.pieces", b"other work")
    other.append("0-8/baseline", {"log_probs": np.zeros(3), "affected": np.ones((2, 1, 0), dtype=bool)})
    pieces.append(other.path.read_bytes())
    mixed = PieceFile(other.path.with_name("mixed.pieces"), file.key)
    mixed.path.write_bytes(b"".join(pieces[part] if isinstance(part, int) else part for part in parts))
    found = mixed.read()
    assert_written(found)
    expected = []
    for part in parts:
        if part == b"":
            continue
        if not isinstance(part, int) or part == 3:
            break
        expected.append(list(PIECES)[part])
    assert list(found) == list(dict.fromkeys(expected))
    assert mixed.read().keys() == found.keys()


def test_objects_are_refused(tmp_path):
    """Nothing is unpickled, whatever a file holds."""
    file = PieceFile(tmp_path / "unit-0.pieces", b"")
    file.append("0-8/baseline", {"log_probs": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        file.read()


class TestStore:
    """Pieces beside the units that they become."""

    def test_a_finished_unit_has_no_pieces(self, tmp_path):
        store = UnitStore.open(tmp_path, {"seed": 1}, 0)
        assert store.is_empty
        store.pieces("unit-0").append("0-8/baseline", PIECES["0-8/baseline"])
        assert not store.is_empty
        assert store.load("unit-0") is None
        left_behind = store.pieces("unit-0").path.read_bytes()
        store.save("unit-0", {"margin": np.ones(1)})
        assert store.pieces("unit-0").read() == {}
        store.pieces("unit-0").path.write_bytes(left_behind)
        assert store.load("unit-0") is not None
        assert {file.name for file in (tmp_path / "units").iterdir()} == {"unit-0.npz"}

    @pytest.mark.parametrize(
        ("identity", "unit", "about"),
        [({"seed": 2}, "unit-0", "heads"), ({"seed": 1}, "unit-1", "heads"), ({"seed": 1}, "unit-0", "")],
    )
    def test_pieces_of_other_work_are_none(self, tmp_path, identity, unit, about):
        written = UnitStore.open(tmp_path / "one", {"seed": 1}, 0).pieces("unit-0", "heads")
        written.append("0-8/baseline", PIECES["0-8/baseline"])
        assert written.read()
        other = UnitStore.open(tmp_path / "other", identity, 0).pieces(unit, about)
        other.path.write_bytes(written.path.read_bytes())
        assert other.read() == {}
