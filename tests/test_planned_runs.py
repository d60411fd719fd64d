"""What comparisons keep of what they are to run."""

import json

import pytest

from act_eval.errors import InputError
from act_eval.planned_runs import (
    IDENTITY_KEY,
    PLANNED_RUNS_FILE,
    PlannedRun,
    add_planned_runs,
    asked_of,
    missing_runs,
    read_planned_runs,
)

pytestmark = pytest.mark.tier("unit")


def planned(variant="ACT", task="a", seed=1, model="m", **asked):
    return PlannedRun(variant, task, seed, {"task": task, "seed": seed, "model_args": {"pretrained": model}, **asked})


def kept(folder):
    return read_planned_runs(folder / PLANNED_RUNS_FILE)


def test_other_runs_are_added(tmp_path):
    add_planned_runs([planned(), planned("baseline")], tmp_path)
    assert kept(tmp_path) == [planned(), planned("baseline")]
    others = [planned(task="b"), planned(seed=2), planned(model="n"), planned("beta 0.4")]
    add_planned_runs(others, tmp_path)
    assert {json.dumps(run.asked) for run in kept(tmp_path)} == {json.dumps(run.asked) for run in [planned(), *others]}
    assert len(kept(tmp_path)) == 6


def test_the_same_in_other_words_takes_the_place(tmp_path):
    add_planned_runs([planned(limit=4), planned(task="b", limit=4)], tmp_path)
    add_planned_runs([planned(limit=8)], tmp_path)
    assert kept(tmp_path) == [planned(limit=8), planned(task="b", limit=4)]


def test_the_same_plan_gives_the_same_bytes(tmp_path):
    runs = [planned(task=task, variant=variant) for task in "cab" for variant in ("baseline", "ACT")]
    contents = set()
    for order in (runs, runs[::-1], runs):
        add_planned_runs(order, tmp_path)
        contents.add((tmp_path / PLANNED_RUNS_FILE).read_bytes())
    assert len(contents) == 1


def test_results_say_what_is_finished():
    runs = [planned(), planned("baseline", limit=None), planned(task="b")]
    assert missing_runs(runs, []) == runs
    results = {IDENTITY_KEY: json.loads(json.dumps({"asked": runs[1].asked}))}
    assert missing_runs(runs, [asked_of(results)]) == [runs[0], runs[2]]
    assert missing_runs(runs, [run.asked for run in runs]) == []


@pytest.mark.parametrize("results", [{}, {IDENTITY_KEY: None}, {IDENTITY_KEY: {}}, {IDENTITY_KEY: {"asked": "x"}}])
def test_results_of_others(results):
    assert asked_of(results) is None


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}x", '[{"variant": "ACT"}]', '[{"variant": 1, "task": 1, "seed": "x", "asked": {}}]']
)
def test_damaged_files_are_refused_in_a_sentence(text, tmp_path):
    file = tmp_path / PLANNED_RUNS_FILE
    file.write_text(text)
    with pytest.raises(InputError, match=r"does not hold the planned runs of a comparison .*: delete it, and compare again"):
        read_planned_runs(file)
    with pytest.raises(InputError, match="delete it"):
        add_planned_runs([planned()], tmp_path)
