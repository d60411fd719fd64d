"""Answers on disk, batch by batch: what is read back is what was written, or is not there."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.thorough import examples
from hypothesis import given
from hypothesis import strategies as st

from act_eval.harness.recorded_answers import RecordedAnswers, remove_answers, request_keys

pytestmark = pytest.mark.tier("unit")

ANSWERS = st.one_of(st.text(), st.tuples(st.floats(allow_nan=False), st.booleans()))
BATCHES = st.lists(st.dictionaries(st.text(min_size=1), ANSWERS, min_size=1, max_size=4), min_size=1, max_size=5)


def write(folder, batches, process=0):
    answers = RecordedAnswers(folder, "run", process)
    for batch in batches:
        answers.add(batch)
    answers.close()
    return folder / f"run-{process}.jsonl"


def read(folder, keys, run="run"):
    answers = RecordedAnswers(folder, run, None)
    return {key: answers[key] for key in keys if key in answers}


@given(BATCHES)
def test_round_trip(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("answers")
    write(folder, batches)
    expected = {key: answer for batch in batches for key, answer in batch.items()}
    found = read(folder, expected)
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)  # to the last bit, also of -0.0 and infinities


@examples(20)
@given(BATCHES, st.data())
def test_cut_off_anywhere_a_batch_is_whole_or_missing(tmp_path_factory, batches, data):
    numbered = [{f"{number}-{key}": answer for key, answer in batch.items()} for number, batch in enumerate(batches)]
    folder = tmp_path_factory.mktemp("answers")
    file = write(folder, numbered)
    content = file.read_bytes()
    length = data.draw(st.integers(0, len(content)))
    file.write_bytes(content[:length])
    whole = [batch for batch, end in zip(numbered, ends(content), strict=True) if end <= length]
    keys = [key for batch in numbered for key in batch]
    assert read(folder, keys) == {key: answer for batch in whole for key, answer in batch.items()}
    write(folder, [{"later": "answer"}])
    assert read(folder, ["later", *keys]) == {"later": "answer"} | {k: a for batch in whole for k, a in batch.items()}


def ends(content):
    """How long a file must be at least to hold each of its batches: their lines without the line's end."""
    found, position = [], 0
    for line in content.split(b"\n")[:-1]:
        position += len(line) + 1
        if line:
            found.append(position - 1)
    return found


@examples(30)
@given(st.data())
def test_changed_bytes_are_never_another_answer(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("answers")
    batches = [{"first": (-1.25, True)}, {"second": "text"}]
    file = write(folder, batches)
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    was_end_of_line = content[place] == ord("\n")
    content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    file.write_bytes(content)
    found = read(folder, ["first", "second"])
    assert found.items() <= {"first": (-1.25, True), "second": "text"}.items()
    assert found or was_end_of_line, "a line that was not touched is lost"


def test_a_file_of_something_else_counts_as_nothing(tmp_path):
    (tmp_path / "run-0.jsonl").write_bytes(b'\x00\xff\n{"answers": {"key": 1}}\n\n \n')
    assert read(tmp_path, ["key"]) == {}


def test_processes_write_their_own_and_read_all(tmp_path):
    write(tmp_path, [{"a": 1.0}], process=0)
    write(tmp_path, [{"b": 2.0}], process=1)
    assert read(tmp_path, "abc") == {"a": 1.0, "b": 2.0}
    assert read(tmp_path, "abc", run="another") == {}
    reader = RecordedAnswers(tmp_path, "run", None)
    reader.add({"c": 3.0})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run-0.jsonl", "run-1.jsonl"]


def test_removing_leaves_other_runs(tmp_path):
    folder = tmp_path / "answers"
    write(folder, [{"a": 1.0}])
    RecordedAnswers(folder, "another", 0).add({"a": 2.0})
    RecordedAnswers(folder, "run", 0).remove()
    assert [file.name for file in folder.iterdir()] == ["another-0.jsonl"]
    remove_answers(folder, ["another"])
    assert list(folder.iterdir()) == []
    remove_answers(folder / "missing", ["another"])


def test_one_process_removes_while_another_begins_to_write(tmp_path):
    """The folder stays, since the other one may have made it a moment before."""
    folder = tmp_path / "answers"

    def begin_and_end():
        for _ in range(200):
            RecordedAnswers(folder, "run", 1).remove()

    with ThreadPoolExecutor() as pool:
        ended = pool.submit(begin_and_end)
        while not ended.done():
            remove_answers(folder, ["finished"])
        ended.result()
    assert list(folder.iterdir()) == []


def test_random_state_of_a_batch(tmp_path):
    answers = RecordedAnswers(tmp_path, "run")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    answers.add({"a": "x", "b": "y"}, state)
    answers.add({"c": "z"})
    again = RecordedAnswers(tmp_path, "run")
    assert torch.equal(again.random_state("a"), state)
    assert torch.equal(again.random_state("b"), state)
    assert again.random_state("c") is None


class TestKeys:
    def test_equal_requests_are_told_apart_by_their_order(self):
        keys = request_keys("loglikelihood", [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2), (3,))])
        assert len(set(keys)) == 3
        assert keys == request_keys("loglikelihood", [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2), (3,))])
        assert keys[1] == request_keys("loglikelihood", [((1,), (2, 3))])[0]

    def test_all_that_a_request_holds_counts(self):
        settings = {"until": ["\n"], "max_gen_toks": 8}
        requests = [("a", settings), ("b", settings), ("a", {**settings, "temperature": math.pi})]
        keys = {key for kind in ("generate_until", "loglikelihood") for key in request_keys(kind, requests)}
        assert len(keys) == 6
        assert request_keys("x", [("a", {"b": 1, "c": 2})]) == request_keys("x", [("a", {"c": 2, "b": 1})])
