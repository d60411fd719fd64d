"""Several methods against one baseline: what is tested, what is marked, and the whole of it on the embedded model."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers.runs import ACT, BASELINE, write_run
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.compare.recorded import FinishedRuns
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments, arguments_of_method
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.methods.registry import built_in_methods
from act_eval.report.intervals import PairedDocuments
from act_eval.report.load import ReportError
from act_eval.study.method_plot import plot_methods
from act_eval.study.method_results import (
    best_method,
    compare_documents,
    difference,
    method_results,
    method_texts,
    methods_table,
)
from act_eval.study.methods import ComparedMethods, MethodComparison, SearchedMethod
from act_eval.study.settings import StudySettings
from act_eval.study_record import Score, StudyRecord

pytestmark = pytest.mark.tier("unit")


def documents(gained, lost, n=400, start=0):
    """Outcomes of documents, half of which the baseline has right: so many wrong ones become right, and right ones wrong."""
    baseline = np.arange(n) % 2 == 0
    calibrated = baseline.copy()
    calibrated[np.flatnonzero(~baseline)[start : start + gained]] = True
    calibrated[np.flatnonzero(baseline)[start : start + lost]] = False
    return PairedDocuments(baseline.astype(float), calibrated.astype(float), np.ones(n))


def compared(values, tasks=("one", "two"), without=(), after=None):
    record = StudyRecord({}, {task: Score("acc", "none") for task in tasks}, tuple(tasks))
    searched = {name: SearchedMethod(8, 13.0, name) for name in values}
    searched |= {name: SearchedMethod(0, 13.0, "no head was chosen") for name in without}
    of_methods = ComparedMethods(record, searched, {}, FinishedRuns([]))
    baselines = dict.fromkeys(tasks, documents(0, 0))
    of_values = {name: dict.fromkeys(tasks, found) for name, found in values.items()}
    return compare_documents(of_methods, of_values, baselines, after)


class TestDifference:
    def test_is_paired_and_on_average_over_tasks(self):
        found = difference([documents(40, 0), documents(0, 20)])
        assert found["delta"] == pytest.approx((40 - 20) / 400 / 2)
        assert (found["n"], found["baseline"]) == (800, 0.5)
        assert found["low"] < found["delta"] < found["high"]

    @pytest.mark.parametrize(("gained", "lost"), [(40, 5), (5, 40), (20, 20), (0, 0), (4, 0), (12, 3)])
    def test_p_agrees_with_the_interval(self, gained, lost):
        found = difference([documents(gained, lost)])
        assert 0 < found["p"] <= 1
        if abs(found["p"] - 0.05) > 0.01:
            assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)


class TestBest:
    def test_is_marked_where_it_is_better_than_all_others(self):
        results = compared({"act": documents(80, 0), "temperature": documents(10, 9), "boost": documents(0, 30)})
        assert results.best == "act"
        assert results.table[results.table["best"]][["method", "task"]].to_numpy().tolist() == [["act", "all tasks"]]
        assert "act is best: +20.0 points over the baseline" in results.sentence()
        assert results.counting.set_index("method")["differs"].to_dict() == {"act": True, "temperature": False, "boost": True}

    def test_is_not_marked_where_two_are_alike(self):
        results = compared({"act": documents(80, 0), "remove": documents(78, 0, start=40), "boost": documents(0, 30)})
        assert results.best is None
        assert not results.table["best"].any()
        assert results.sentence().startswith("act, remove are better than the baseline; which method is best")

    def test_is_not_marked_where_none_is_better_than_the_baseline(self):
        results = compared({"act": documents(3, 2), "remove": documents(0, 30)})
        assert results.best is None
        assert results.sentence() == "No method is better than the baseline as far as these documents can tell."

    def test_a_single_method_with_heads(self):
        results = compared({"act": documents(80, 0)}, without=("remove",))
        assert results.best == "act"
        assert results.sentence().startswith("act is better than the baseline, by +20.0 points (95% interval +1")
        assert results.sentence().endswith("); for no other method were heads found.")

    def test_pairs_are_corrected(self):
        """What two methods alone would tell, they do not beside six others that are alike."""
        near = {"best": documents(30, 0), "rival": documents(25, 0)}
        many = {**near, **{f"other {number}": documents(1, 0) for number in range(6)}}
        found = [
            best_method(compared(values, ("one",)).counting, {name: [of_task] for name, of_task in values.items()})
            for values in (near, many)
        ]
        assert found == ["best", None]


def test_holm_is_over_methods():
    results = compared({"act": documents(12, 2), "remove": documents(11, 2), "boost": documents(10, 2)}, ("one",))
    rows = results.counting.sort_values("p")
    expected = np.minimum(1, np.maximum.accumulate(rows["p"].to_numpy(float) * [3, 2, 1]))
    np.testing.assert_allclose(rows["p_holm"].to_numpy(float), expected)


class TestLabelPriors:
    """What a method gains, beside what correcting label priors gains without it."""

    RAW = documents(80, 0)
    CORRECTED = PairedDocuments(RAW.calibrated, np.where(np.arange(400) < 4, 1 - RAW.calibrated, RAW.calibrated), RAW.weights)

    def compared(self, **others):
        return compared({"act": self.RAW}, without=("remove",), after={"act": {"one": self.CORRECTED}}, **others)

    def test_what_is_left_is_over_all_tasks(self):
        table = self.compared().table.set_index(["method", "task"])
        left = (self.CORRECTED.calibrated - self.CORRECTED.baseline).mean()
        assert table.loc[("act", "one"), "corrected_delta"] == pytest.approx(left)
        assert pd.isna(table.loc[("act", "two"), "corrected_delta"])
        assert table.loc[("act", "all tasks"), "corrected_delta"] == pytest.approx((left + 0.2) / 2)
        assert pd.isna(table.loc[("remove", "all tasks"), "corrected_delta"])
        row = table.loc[("act", "all tasks")]
        assert row["corrected_low"] < row["corrected_delta"] < row["corrected_high"]

    def test_the_correction_is_of_the_baseline_alone(self):
        assert self.compared().correction.delta == pytest.approx(0.2 / 2)
        assert self.compared(tasks=("one",)).correction.delta == pytest.approx(0.2)

    def test_it_is_said_beside_what_is_better(self):
        assert compared({"act": self.RAW}).about_label_priors() is None
        said = self.compared(tasks=("one",)).about_label_priors()
        assert said.startswith("Correcting label priors alone changes the baseline by +20.0 points (95% interval +1")
        assert "; after that act adds -1.0 points (95% interval -" in said
        assert said.endswith("), which may be nothing.")
        assert "; after that act adds +9.5 points" in self.compared().about_label_priors()
        assert self.compared().sentences() == [self.compared().sentence(), self.compared().about_label_priors()]

    def test_nothing_is_added_where_no_method_is_better(self):
        results = compared({"act": documents(3, 2)}, after={"act": {"one": documents(2, 2)}})
        assert "after that" not in results.about_label_priors()

    def test_it_stands_in_table_and_files(self):
        results = self.compared()
        texts = methods_table(results).texts.set_index("method")["priors corrected"].tolist()
        assert texts == ["+0.095", ""]
        assert results.about_label_priors() in method_texts(results)["methods.md"]
        assert "corrected_delta" in method_texts(results)["methods.csv"]

    def test_it_is_drawn_beside_the_differences(self):
        (axes,) = plot_methods(self.compared()).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["baseline, label priors corrected", "act"]
        drawn = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes.containers}
        np.testing.assert_allclose([points[0] for points in drawn.values()], [[20, 1.14], [9.5, 0.86], [10, 0]], atol=1e-9)

    def test_it_is_not_drawn_where_there_are_none(self):
        (axes,) = plot_methods(compared({"act": self.RAW, "boost": documents(3, 2)}, without=("remove",))).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["boost", "act"]
        assert len(axes.containers) == 1
        assert plot_methods(compared({}, without=("act", "remove"))) is None


def test_a_method_without_heads_is_the_baseline():
    results = compared({"act": documents(80, 0)}, without=("remove",))
    row = results.counting.set_index("method").loc["remove"]
    assert (row["baseline"], row["score"], row["delta"], row["heads"]) == (0.5, 0.5, 0, 0)
    assert pd.isna(row["p_holm"])
    table = methods_table(results).texts.set_index("method")
    assert table.loc["remove", "95% interval"] == "= baseline"
    assert table.loc["act (best)", "delta"] == "+0.200*"
    nothing = compared({}, without=("act", "remove"))
    assert nothing.best is None
    assert not nothing.table["differs"].any()
    assert set(method_texts(nothing)) == {"methods.csv", "methods.md", "methods.tex"}


class EveryRun:
    has = staticmethod(lambda content: True)


@pytest.mark.parametrize("with_heads", [True, False])
def test_a_score_that_is_not_paired_by_document(tmp_path, with_heads):
    arguments = ACTArguments.from_model_args({"act_profile": "all"})
    model_args = {"pretrained": "some/model"}
    config = {"metric_list": [{"metric": "mcc", "aggregation": "matthews_corrcoef"}]}
    for task, of_task in (("a", {}), ("cola", {"metric": "mcc", "score": 0.3, "task_config": config})):
        for heads, values in ((0, BASELINE), (32, ACT)):
            kept = values if task == "a" else [[int(value), 1] for value in values]
            of_run = {**model_args, **(arguments.model_args if heads else {"act_profile": "none"})}
            write_run(tmp_path, kept, task=task, heads=heads, model_args=of_run, **of_task)
    record = StudyRecord({}, {"a": Score("acc", "none"), "cola": Score("mcc", "none")}, ("a",))
    searched = {"act": SearchedMethod(32 if with_heads else 0, 1.0, "act")}
    found = ComparedMethods(record, searched, {"act": arguments} if with_heads else {}, EveryRun())
    with pytest.raises(ReportError, match=r"cola cannot be paired by document in mcc \(none\)"):
        method_results(found, tmp_path)


def test_each_method_gets_the_arguments_that_it_takes():
    given = {"pretrained": "x", "act_alpha": 5, "act_beta": 0.2, "act_theta": 1.3, "act_base": "eager"}
    methods = ("act", "temperature", "zerotuning")
    assert arguments_of_method(given, "act", methods) == {
        "pretrained": "x", "act_alpha": 5, "act_beta": 0.2, "act_base": "eager", "act_method": "act"
    }  # fmt: skip
    assert arguments_of_method(given, "temperature", methods) == {
        "pretrained": "x", "act_theta": 1.3, "act_base": "eager", "act_method": "temperature"
    }  # fmt: skip
    assert arguments_of_method(given, "zerotuning", methods) == {
        "pretrained": "x", "act_base": "eager", "act_method": "zerotuning"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "model_args", "study", "culprit"),
    [
        (("act",), {}, {}, "names act: name two methods or more"),
        (("act", "remove", "act"), {}, {}, "names act twice"),
        (("act", "louder"), {}, {}, "there is no method 'louder'"),
        (("act", "remove"), {"act_method": "boost"}, {}, "act_method does not go with it"),
        (("act", "remove"), {"act_theta": 2}, {}, "takes beta, not theta"),
        (("act", "remove"), {"act_beta": 1}, {}, "act_beta=1 changes nothing"),
        (("act", "scale-first-token"), {}, {}, "needs gamma"),
        (("act", "pasta"), {}, {}, "name it with act_span"),
        (("act", "remove"), {}, {"also": ("demo_choice",)}, "evaluates the heads of one method beside"),
    ],
)
def test_bad_input(methods, model_args, study, culprit):
    of_method = partial(StudySettings, prompts=PromptSettings(("demo_topic",)), **study)
    with pytest.raises(InputError, match=culprit) as error:
        MethodComparison.of_methods(of_method, ModelSettings(model_args, "cpu", 8), methods)
    assert "\n" not in str(error.value)


def test_all_methods_can_be_compared():
    """Those too that take parameters of their own, which no other method knows."""
    given = {"act_gamma": 1.5, "act_bias": 1, "act_psi": 0.3, "act_span": "question", "act_alpha": 5}
    of_method = partial(StudySettings, prompts=PromptSettings(("demo_topic",)))
    comparison = MethodComparison.of_methods(of_method, ModelSettings(given, "cpu", 8), tuple(built_in_methods()))
    acts = {name: study.search(("demo_topic",)).act for name, study in comparison.studies.items()}
    assert {name: act.method.name for name, act in acts.items()} == {name: name for name in built_in_methods()}
    assert acts["scale-first-token"].method.gamma == 1.5
    assert acts["target-span"].span == acts["pasta"].span == "question"


TOP_HEADS = ("--selection", "top-k", "--k", "2")


def run(*options, output, methods="act,temperature", tasks="demo_topic,demo_choice", selection=TOP_HEADS):
    """Compare methods on few documents of the embedded model; options at the end go before others."""
    arguments = ["study", "--tasks", tasks, "--methods", methods, "--layers", "2", "--limit", "8", "--search-limit", "6"]
    arguments += [*selection, "--device", "cpu", "--output", str(output), *options]
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "methods"
    assert run(output=folder, methods="act,zerotuning").exit_code == 0
    return folder


@pytest.mark.tier("slow")
class TestFoldersWithResults:
    @pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
    def test_gammas_that_are_given_are_not_those_that_were_searched_for(self, finished, dry_run):
        before = (finished / "methods.csv").read_bytes()
        given = ("--model-args", "act_gamma_up=2,act_gamma_down=0.5")
        other = run(*given, *dry_run, output=finished, methods="act,zerotuning")
        assert isinstance(other.exception, InputError)
        assert "asked for otherwise (methods.zerotuning.tuned" in str(other.exception)
        assert (finished / "methods.csv").read_bytes() == before

    def test_numbers_are_those_of_the_report(self, finished):
        methods = pd.read_csv(finished / "methods.csv")
        report, groups = pd.read_csv(finished / "comparison.csv"), pd.read_csv(finished / "groups.csv")
        of_report = pd.concat([report, groups.rename(columns={"group": "task"})])
        columns = ["task", "n", "baseline", "delta", "low", "high"]
        told = [frame[columns].round(9).sort_values(columns).to_numpy().tolist() for frame in (methods, of_report)]
        assert told[0] == told[1]
        assert len(told[0]) == 6

    def test_what_runs_anew_is_foreseen(self, finished):
        """Searches depend on the size of batches, to the last digit."""
        same = run("--dry-run", output=finished, methods="act,zerotuning")
        assert same.output.count("the search is finished") == 2
        other = run("--dry-run", "--batch-size", "5", output=finished, methods="act,zerotuning")
        assert other.output.count("The search costs at most") == 2

    def test_a_study_of_one_method_is_refused(self, finished):
        arguments = ["study", "--tasks", "demo_topic", "--limit", "4", "--device", "cpu", "--output", str(finished)]
        refused = CliRunner().invoke(cli.app, arguments)
        assert isinstance(refused.exception, InputError)
        assert "holds a comparison of methods: choose another folder" in str(refused.exception)


@pytest.mark.tier("slow")
def test_where_no_method_has_heads_the_baseline_is_told(tmp_path):
    done = run(output=tmp_path, tasks="demo_choice", selection=())
    assert done.exit_code == 0
    table = pd.read_csv(tmp_path / "methods.csv")
    assert table["heads"].tolist() == [0, 0]
    assert table["score"].tolist() == table["baseline"].tolist()
    assert table["delta"].tolist() == [0, 0]
    assert table["n"].tolist() == [8, 8]
    scores = json.loads(next(tmp_path.glob("**/results_*.json")).read_text())["results"]["demo_choice"]
    assert table["baseline"].iloc[0] == pytest.approx(scores["acc,none"])
    assert "No head was chosen for any method, so there is nothing to compare" in done.output


@pytest.mark.tier("slow")
def test_heads_are_those_of_the_share(tmp_path):
    done = run("--model-args", "act_head_share=0.5", output=tmp_path, methods="act,remove", tasks="demo_choice")
    assert done.exit_code == 0
    table = pd.read_csv(tmp_path / "methods.csv")
    assert table["heads"].eq(1).all()
    assert table["settings"].str.endswith("; 50% of the 2 heads found").all()


@pytest.mark.tier("slow")
def test_prompts_of_all_methods_are_looked_at_before_the_first_search(tmp_path):
    refused = run("--model-args", "act_span=examples", output=tmp_path / "none", methods="act,pasta")
    assert isinstance(refused.exception, InputError)
    assert "has nothing that act_span=examples names" in str(refused.exception)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--random-draws", "3"), "--random-draws is about a study of one method"),
        (("--also-limit", "3"), "--also-limit is about tasks that are evaluated beside"),
        (("--pilot", "x"), "--pilot is about a study of one method"),
    ],
)
def test_options_that_would_change_nothing(tmp_path, options, culprit):
    refused = run(*options, output=tmp_path / "none")
    assert isinstance(refused.exception, InputError)
    assert culprit in str(refused.exception)


@pytest.mark.tier("slow")
def test_on_the_embedded_model(tmp_path):
    """Searches on the same documents, one baseline, one table; once more nothing runs, and another comparison is refused."""
    arguments = ["study", "--tasks", "demo_topic", "--methods", "act, zerotuning, bias-span", "--layers", "2", "--limit", "12"]
    arguments += ["--search-limit", "8", "--selection", "top-k", "--k", "2", "--device", "cpu"]
    arguments += ["--model-args", "act_alpha=5,dtype=float32,act_bias=1,act_span=question"]
    arguments += ["--output", str(tmp_path / "methods")]
    foreseen = CliRunner().invoke(cli.app, [*arguments, "--dry-run"], catch_exceptions=False)
    assert foreseen.output.count("The search costs at most") == 3
    assert not (tmp_path / "methods").exists()
    first = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert first.exit_code == 0
    folder = tmp_path / "methods"
    table = pd.read_csv(folder / "methods.csv")
    assert table["method"].tolist() == ["act", "zerotuning", "bias-span"]
    assert (table["heads"] == 2).all()
    assert table["baseline"].nunique() == 1
    searches = [json.loads((folder / "search" / name / "profile.json").read_text()) for name in table["method"]]
    assert len({profile["provenance"]["documents_hash"] for profile in searches}) == 1
    assert json.loads((folder / "methods.json").read_text())["searched"]["act"]["heads"] == 2
    before = (folder / "methods.csv").read_bytes()
    again = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert again.exit_code == 0
    assert (folder / "methods.csv").read_bytes() == before
    assert len(list(folder.glob("**/results_*.json"))) == 4
    other = CliRunner().invoke(cli.app, [*arguments, "--search-limit", "6"])
    assert isinstance(other.exception, InputError)
    assert "asked for otherwise" in str(other.exception)
