"""The report on a comparison that is running, or was stopped: what is there, and what is not."""

import json
import re

import pytest
from helpers.runs import ACT, BASELINE, write_run

from act_eval.cli.app import main
from act_eval.planned_runs import IDENTITY_KEY, PLANNED_RUNS_FILE, PlannedRun, add_planned_runs
from act_eval.report.build import ReportOptions, make_report
from act_eval.report.load import ReportError, load
from act_eval.report.machine_readable import to_json
from act_eval.report.page import page
from act_eval.report.tables import latex, markdown, overview
from act_eval.report.unfinished import Unfinished
from act_eval.task_groups import TaskGroup, add_groups

pytestmark = pytest.mark.tier("unit")

TASKS = [f"task_{number}" for number in range(8)]


def planned(variant, task, seed=1234):
    return PlannedRun(variant, task, seed, {"variant": variant, "task": task, "seed": seed, "model_args": {}})


def plan(folder, tasks=TASKS, variants=("ACT", "baseline"), seeds=(1234,)):
    folder.mkdir(parents=True, exist_ok=True)
    add_groups({"group": TaskGroup(tuple(TASKS[:6])), "inner": TaskGroup(tuple(TASKS[:3]))}, folder)
    add_planned_runs((planned(variant, task, seed) for variant in variants for task in tasks for seed in seeds), folder)


def finish(folder, variant, task, seed=1234, **options):
    """Write the results of a planned run."""
    values, heads = (ACT, 8) if variant == "ACT" else (BASELINE, 0)
    asked = {IDENTITY_KEY: {"asked": planned(variant, task, seed).asked}}
    return write_run(folder / "model", values, heads=heads, task=task, seed=seed, recorded=asked, **options)


def finish_both(folder, tasks):
    for task in tasks:
        for variant in ("ACT", "baseline"):
            finish(folder, variant, task)


@pytest.fixture
def folder(tmp_path):
    """Both sides of two tasks of eight, ACT alone of a third, and the baseline alone of a fourth."""
    plan(tmp_path)
    finish_both(tmp_path, TASKS[:2])
    finish(tmp_path, "ACT", TASKS[2])
    finish(tmp_path, "baseline", TASKS[3])
    return tmp_path


def test_says_how_far_it_is(folder):
    sentences = make_report([folder]).unfinished.sentences()
    assert sentences == [
        "6 of 16 runs are finished; the rest is not in this report.",
        "ACT lacks 3 of 6 tasks of group (task_3, task_4, task_5); 2 of 8 tasks (task_6, task_7).",
        "baseline lacks 3 of 6 tasks of group (task_2, task_4, task_5); 2 of 8 tasks (task_6, task_7).",
        "Baseline or ACT alone is there, so that they are not compared yet: task_2, task_3.",
    ]


@pytest.mark.usefixtures("without_plots")
def test_in_all_that_is_written(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["act-eval", "report", str(folder)])
    main()
    printed = capsys.readouterr().out
    sentences = make_report([folder]).unfinished.sentences()
    texts = {name: (folder / name).read_text() for name in ("comparison.md", "comparison.tex", "report.html")}
    for sentence in sentences:
        assert f"{sentence}\n" in printed
        assert sentence in texts["comparison.md"]
        assert f"% {sentence}\n" in texts["comparison.tex"]
        assert f"<p>{sentence}</p>" in texts["report.html"]
    assert texts["comparison.md"].startswith(sentences[0])
    assert "not compared: " not in printed
    content = json.loads((folder / "report.json").read_text())["unfinished"]
    assert (content["planned"], content["finished"], content["sentences"]) == (16, 6, sentences)
    assert content["waiting"] == ["task_2", "task_3"]
    assert {"variant": "ACT", "task": "task_3", "seed": 1234} in content["missing"]
    assert len(content["missing"]) == 10


def test_averages_do_not_look_complete(folder):
    report = make_report([folder])
    assert report.groups[["group", "tasks", "of_tasks"]].to_numpy().tolist() == [["group", 2, 6]]
    assert "group (2 of 6 tasks)" in overview(report).texts
    assert "| 2 of 6 |" in re.sub(" +", " ", markdown(report))
    (row,) = make_report([folder], ReportOptions(group_by="all")).groups.to_dict("records")
    assert (row["group"], row["tasks"], row["of_tasks"]) == ("all tasks", 2, 8)
    (row,) = make_report([folder], ReportOptions(group_by="all", patterns={"task": "task_[0-4]"})).groups.to_dict("records")
    assert (row["tasks"], row["of_tasks"]) == (2, 5)
    some = ReportOptions(group_by="all", patterns={"task": ("task_[0-3]", "task_4")})
    assert make_report([folder], some).groups["of_tasks"].tolist() == [5]


def test_nothing_is_said_where_all_is_finished(tmp_path):
    plan(tmp_path)
    finish_both(tmp_path, TASKS)
    report = make_report([tmp_path])
    assert report.unfinished is None
    assert not report.notes
    assert report.groups["tasks"].tolist() == report.groups["of_tasks"].tolist() == [8, 6, 3]
    assert json.loads(to_json(report))["unfinished"] is None
    assert "unfinished" not in re.sub("<style>.*</style>", "", page(report, {}), flags=re.DOTALL)
    for text in (markdown(report), latex(report)):
        assert "finished" not in text


def test_nothing_is_said_where_nothing_is_planned(tmp_path):
    finish_both(tmp_path, TASKS[:2])
    finish(tmp_path, "ACT", TASKS[2])
    report = make_report([tmp_path])
    assert report.unfinished is None
    assert ["no baseline of the same model" in note for note in report.notes] == [True]


def test_results_count_whatever_is_planned(tmp_path):
    plan(tmp_path)
    finish_both(tmp_path, TASKS)
    plan(tmp_path, [*TASKS, "another"])
    (tmp_path / "deeper").mkdir()
    report = make_report([tmp_path])
    assert report.unfinished.headline == "16 of 18 runs are finished"
    assert report.unfinished.sentences()[1:] == ["ACT; baseline lack another."]
    assert make_report([tmp_path, tmp_path / "model"]).unfinished.headline == "16 of 18 runs are finished"


def test_one_side_alone(tmp_path, capsys, monkeypatch):
    plan(tmp_path)
    for task in TASKS:
        finish(tmp_path, "ACT", task)
    monkeypatch.setattr("sys.argv", ["act-eval", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = "act-eval: nothing can be compared yet, for 8 of 16 runs are finished: report again later.\n"
    assert capsys.readouterr().err == said


def test_nothing_yet(tmp_path):
    plan(tmp_path)
    with pytest.raises(ReportError, match="none of 16 planned runs is finished: report again later, or compare again"):
        make_report([tmp_path])


def test_what_is_wrong_besides_is_still_said(tmp_path):
    plan(tmp_path)
    finish_both(tmp_path, TASKS[:1])
    finish(tmp_path, "ACT", TASKS[1], version=1)
    finish(tmp_path, "baseline", TASKS[1], version=2)
    finish(tmp_path, "ACT", TASKS[2])
    report = make_report([tmp_path])
    assert ["the task changed from version 2 to 1" in note for note in report.notes] == [True]
    assert report.unfinished.waiting == (TASKS[2],)


def test_runs_that_are_not_wanted_count_as_finished(folder):
    assert len(load([folder], lambda content: "task_0" in content["configs"]).unfinished.missing) == 10


class TestSentences:
    def test_seeds(self):
        runs = [planned("ACT", task, seed) for task in TASKS[:2] for seed in (1, 2)]
        assert Unfinished(tuple(runs), tuple(runs[:2])).sentences() == [
            "2 of 4 runs are finished; the rest is not in this report.",
            "ACT, seed 1; ACT, seed 2 lack task_0.",
        ]

    def test_models(self):
        asked = [{"model_args": {"pretrained": f"/a/b/{model}"}} for model in ("x", "y")]
        runs = tuple(PlannedRun("ACT", task, 1, model) for model in asked for task in TASKS[:2])
        sentences = Unfinished(runs, runs[1:]).sentences()
        assert sentences[1:] == ["x, ACT lacks task_1.", "y, ACT lacks all 2 tasks."]

    def test_many_points_of_a_sweep(self):
        runs = tuple(planned(f"beta {beta}", task) for beta in range(20) for task in TASKS[:2])
        (_, *lines) = Unfinished(runs, runs[3:]).sentences()
        assert lines == [
            "beta 1 lacks task_1.",
            "beta 2; beta 3; beta 4; beta 5; beta 6 and 13 more lack all 2 tasks.",
        ]

    def test_whole_groups_and_many_tasks(self):
        names = [f"t{number}" for number in range(20)]
        runs = tuple(planned("baseline", name) for name in names)
        groups = {
            "whole": TaskGroup(tuple(names)),
            "not_planned": TaskGroup(("t0", "x")),
            "part": TaskGroup(("t0", "t1")),
        }
        (_, line) = Unfinished(runs, runs, groups).sentences()
        assert line == "baseline lacks all 20 tasks of whole."
        (_, line) = Unfinished(runs, runs[3:], groups).sentences()
        assert line == "baseline lacks 17 of 20 tasks of whole (t3, t4, t5, t6, t7 and 12 more)."
        (_, line) = Unfinished(runs, runs).sentences()
        assert line == "baseline lacks all 20 tasks."


class TestWhileItIsWritten:
    def test_unfinished_folders_are_left_out(self, folder):
        before = to_json(make_report([folder]))
        half = folder / ".unfinished-x" / "model"
        half.mkdir(parents=True)
        (half / "results_2027-01-01T00-00-00.000000.json").write_text('{"config": ')
        (half / "samples_task_4_2027-01-01T00-00-00.000000.jsonl").write_text('{"doc_id": ')
        (half / PLANNED_RUNS_FILE).write_text("")
        (folder / f".{PLANNED_RUNS_FILE}.unfinished").write_text("[")
        finish(folder / ".unfinished-y", "ACT", TASKS[5])
        assert to_json(make_report([folder])) == before

    def test_samples_that_are_there_before_their_results(self, folder):
        before = to_json(make_report([folder]))
        (folder / "model" / "samples_task_4_2027-01-01T00-00-00.000000.jsonl").write_text('{"doc_id": ')
        assert to_json(make_report([folder])) == before

    def test_folders_that_vanish(self, folder, monkeypatch):
        """Between the listing of a folder and the look into it."""
        before = to_json(make_report([folder]))
        gone = folder / "aaa"
        gone.mkdir()
        from act_eval import files

        real = files.os.walk

        def walk(*arguments, **options):
            for place, folders, names in real(*arguments, **options):
                if "aaa" in folders:
                    gone.rmdir()
                yield place, folders, names

        monkeypatch.setattr(files.os, "walk", walk)
        assert to_json(make_report([folder])) == before
        assert not gone.exists()
