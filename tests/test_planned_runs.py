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
    each_once,
    missing_runs,
    read_planned_runs,
)

pytestmark = pytest.mark.tier("unit")


def planned(variant="ACT", task="a", seed=1, model="m", command="compare", **asked):
    return PlannedRun(variant, task, seed, {"task": task, "seed": seed, "model_args": {"pretrained": model}, **asked}, command)


def kept(folder):
    return read_planned_runs(folder / PLANNED_RUNS_FILE)


def in_order(*runs):
    return sorted(runs, key=lambda run: (run.model, run.variant, run.task, run.seed))


def test_what_is_finished_stays_and_the_rest_of_an_earlier_plan_is_dropped(tmp_path):
    first = [planned(), planned("baseline"), planned("beta 0.9"), planned(task="b"), planned(seed=2)]
    add_planned_runs(first, tmp_path)
    assert kept(tmp_path) == in_order(*first)
    now = [planned(), planned("baseline"), planned("beta 0.2")]
    add_planned_runs(now, tmp_path, [run.asked for run in (planned(task="b"), planned(task="other"))])
    assert kept(tmp_path) == in_order(*now, planned(task="b"))


def test_plans_of_other_commands_and_models_stay(tmp_path):
    others = [planned(model="n"), planned("beta 0.4", command="sweep"), planned("heads found", command="study")]
    for run in others:
        add_planned_runs([run], tmp_path)
    add_planned_runs([planned("baseline")], tmp_path)
    assert kept(tmp_path) == in_order(*others, planned("baseline"))


def test_runs_of_the_same_name_that_several_commands_asked_for(tmp_path):
    of_study, of_compare = planned("baseline", command="study", limit=40), planned("baseline", limit=4)
    add_planned_runs([of_study], tmp_path)
    add_planned_runs([of_compare], tmp_path)
    assert kept(tmp_path) == [of_compare, of_study]
    same = planned("baseline", command="sweep", limit=4)
    add_planned_runs([same], tmp_path)
    assert len(kept(tmp_path)) == 3
    assert [run.asked for run in each_once(kept(tmp_path))] == [of_compare.asked, of_study.asked]


def test_plans_of_versions_that_do_not_say_which_command_made_them(tmp_path):
    runs = [{"variant": run.variant, "task": run.task, "seed": 1, "asked": run.asked} for run in (planned(), planned(task="b"))]
    (tmp_path / PLANNED_RUNS_FILE).write_text(json.dumps(runs))
    assert {run.command for run in kept(tmp_path)} == {""}
    add_planned_runs([planned("beta 0.2", command="sweep")], tmp_path, [planned(task="b").asked])
    assert {(run.variant, run.task) for run in kept(tmp_path)} == {("ACT", "b"), ("beta 0.2", "a")}


def test_the_same_in_other_words_takes_the_place(tmp_path):
    add_planned_runs([planned(limit=4), planned(task="b", limit=4)], tmp_path)
    add_planned_runs([planned(limit=8)], tmp_path, [planned(limit=4).asked, planned(task="b", limit=4).asked])
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
