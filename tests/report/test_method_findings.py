"""What a report says of several methods against one baseline: what is tested, what is marked, and where it stands."""

import json
import re

import jsonschema
import numpy as np
import pandas as pd
import pytest
from helpers.runs import ACT, BASELINE, samples_file, write_choices, write_run
from helpers.studies import NO_HASH, options_of, plan, write_comparison_of_methods

from act_eval.errors import InputError
from act_eval.planned_runs import PlannedRun, add_planned_runs
from act_eval.report.build import Report, ReportOptions, make_report
from act_eval.report.flips import Flips
from act_eval.report.intervals import PairedDocuments
from act_eval.report.load import ReportError, load
from act_eval.report.loaded_studies import LoadedStudy
from act_eval.report.machine_readable import schema
from act_eval.report.method_tables import METHODS_NOTE, methods_table
from act_eval.report.methods import best_method, check_paired_scores, compare_documents, difference, findings_without_heads
from act_eval.report.plots import plot_methods
from act_eval.report.tables import overview
from act_eval.report.write import write_report
from act_eval.study_record import BASELINE as PLAIN
from act_eval.study_record import METHODS_FILE, STUDY_COMMAND, MethodsRecord, Score, SearchedMethod, write_methods

pytestmark = pytest.mark.tier("unit")

TITLE = "Methods against one baseline, some/model"
BETTER = [1.0] * 80 + [0.0] * 20


def documents(gained, lost, n=400, start=0):
    """Outcomes of documents, half of which the baseline has right: so many wrong ones become right, and right ones wrong."""
    baseline = np.arange(n) % 2 == 0
    calibrated = baseline.copy()
    calibrated[np.flatnonzero(~baseline)[start : start + gained]] = True
    calibrated[np.flatnonzero(baseline)[start : start + lost]] = False
    return PairedDocuments(baseline.astype(float), calibrated.astype(float), np.ones(n))


def compared(values, tasks=("one", "two"), without=(), after=None):
    searched = {name: SearchedMethod(8, 13.0, name, NO_HASH) for name in values}
    searched |= {name: SearchedMethod(0, 13.0, "no head was chosen", NO_HASH) for name in without}
    record = MethodsRecord({}, {task: Score("acc", "none") for task in tasks}, searched)
    settings = {name: f"{name} (8 heads)" for name in values}
    comparison = LoadedStudy(record, "some/model", settings, settings, {}, frozenset(), is_finished=True)
    baselines = dict.fromkeys(tasks, documents(0, 0))
    of_values = {name: dict.fromkeys(tasks, found) for name, found in values.items()}
    return compare_documents(comparison, of_values, baselines, after)


def report_of(*comparisons):
    tables = [pd.DataFrame({"model": ["some/model"]})] * 4
    return Report(*tables, Flips(pd.DataFrame(columns=["model"]), 0), (), method_comparisons=comparisons)


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
        assert "act is best: +20.0 points over the baseline" in results.headline
        assert results.counting.set_index("method")["differs"].to_dict() == {"act": True, "temperature": False, "boost": True}

    def test_is_not_marked_where_two_are_alike(self):
        results = compared({"act": documents(80, 0), "remove": documents(78, 0, start=40), "boost": documents(0, 30)})
        assert results.best is None
        assert not results.table["best"].any()
        assert results.headline.startswith("act, remove are better than the baseline; which method is best")

    def test_is_not_marked_where_none_is_better_than_the_baseline(self):
        results = compared({"act": documents(3, 2), "remove": documents(0, 30)})
        assert results.best is None
        assert results.headline == "No method is better than the baseline as far as these documents can tell."

    def test_a_single_method_with_heads(self):
        results = compared({"act": documents(80, 0)}, without=("remove",))
        assert results.best == "act"
        assert results.headline.startswith("act is better than the baseline, by +20.0 points (95% interval +1")
        assert results.headline.endswith("); for no other method were heads found.")

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
        assert compared({"act": self.RAW}).sentences == ()
        (said,) = self.compared(tasks=("one",)).sentences
        assert said.startswith("Correcting label priors alone changes the baseline by +20.0 points (95% interval +1")
        assert "; after that act adds -1.0 points (95% interval -" in said
        assert said.endswith("), which may be nothing.")
        (of_two,) = self.compared().sentences
        assert "alone changes the baseline, on average over all 2 tasks, of which 1 has them, by +10.0 points" in of_two
        assert "; after that act adds +9.5 points" in of_two

    def test_nothing_is_added_where_no_method_is_better(self):
        results = compared({"act": documents(3, 2)}, after={"act": {"one": documents(2, 2)}})
        assert "after that" not in results.sentences[0]

    def test_it_stands_in_the_table(self):
        texts = methods_table(self.compared()).texts.set_index("method")["priors corrected"].tolist()
        assert texts == ["+0.095", ""]

    def test_it_is_drawn_beside_the_differences(self):
        (axes,) = plot_methods(report_of(self.compared())).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["baseline, label priors corrected", "act"]
        drawn = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes.containers}
        np.testing.assert_allclose([points[0] for points in drawn.values()], [[20, 1.14], [9.5, 0.86], [10, 0]], atol=1e-9)

    def test_it_is_not_drawn_where_there_are_none(self):
        (axes,) = plot_methods(report_of(compared({"act": self.RAW, "boost": documents(3, 2)}, without=("remove",)))).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["boost", "act"]
        assert len(axes.containers) == 1
        assert plot_methods(report_of(compared({}, without=("act", "remove")))) is None


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
    assert nothing.headline == "No head was chosen for any method, so there is nothing to compare with the baseline."


def of_both_tasks(**values):
    return {(method, task): of_run for method, of_run in values.items() for task in ("a", "b")}


class TestFiles:
    """A report on a folder that holds a comparison of methods, from its files alone."""

    VALUES = of_both_tasks(**{PLAIN: BASELINE, "act": ACT, "boost": BETTER})

    @pytest.fixture
    def folder(self, tmp_path):
        write_comparison_of_methods(tmp_path / "methods", self.VALUES, without=("remove",))
        return tmp_path / "methods"

    def test_numbers_are_those_of_the_report(self, folder):
        report = make_report([folder])
        (findings,) = report.method_comparisons
        of_tasks = findings.table[~findings.table["task"].eq("all tasks") & findings.table["heads"].gt(0)]
        columns = ["task", "n", "baseline", "delta", "low", "high"]
        told = [rows[columns].round(12).sort_values(columns).to_numpy().tolist() for rows in (of_tasks, report.comparison)]
        assert told[0] == told[1]
        assert len(told[0]) == 4
        of_remove = findings.table[findings.table["method"] == "remove"]
        assert of_remove["score"].tolist() == of_remove["baseline"].tolist() == [np.mean(BASELINE)] * 3

    def test_it_stands_in_every_file(self, folder):
        report = make_report([folder])
        (findings,) = report.method_comparisons
        written = {path.name: path for path in write_report(report, folder)}
        assert {"methods.csv", "methods.png", "methods.svg"} <= set(written)
        table = pd.read_csv(written["methods.csv"])
        assert table["model"].unique().tolist() == ["some/model"]
        assert table["method"].tolist() == [name for name in ("act", "boost", "remove") for _ in range(3)]
        for name in ("comparison.md", "comparison.tex", "report.html"):
            text = " ".join(re.sub("</?span[^>]*>", "", written[name].read_text()).split())
            for said in (
                findings.headline,
                "Methods against one baseline, some/model, 200 documents",
                METHODS_NOTE.partition(";")[0],
            ):
                assert said in text
        content = json.loads(written["report.json"].read_text())
        jsonschema.validate(content, schema())
        (told,) = content["method_comparisons"]
        assert told["sentences"] == [findings.headline, *findings.sentences]
        of_boost = {"heads": 4, "full_passes": 13.0, "settings": "boost", "profile_hash": NO_HASH}
        assert told["record"]["searched"]["boost"] == of_boost
        assert [row["delta"] for row in told["table"]] == findings.table["delta"].tolist()

    def test_files_of_an_earlier_report_are_removed(self, folder):
        assert "methods.csv" in {path.name for path in write_report(make_report([folder]), folder)}
        (folder / METHODS_FILE).unlink()
        assert "methods.csv" not in {path.name for path in write_report(make_report([folder]), folder)}
        assert not list(folder.glob("methods.*"))

    @pytest.mark.parametrize("missing", [[("act", "a")], [("act", "a"), ("act", "b")], [(PLAIN, "b")]])
    def test_nothing_is_said_before_it_is_finished(self, tmp_path, missing):
        write_comparison_of_methods(tmp_path, self.VALUES, missing=missing)
        report = make_report([tmp_path])
        assert report.method_comparisons == ()
        assert report.unfinished is not None

    def test_nothing_is_said_before_all_searches_have_ended(self, folder):
        write_methods(MethodsRecord({}, {task: Score("acc", "none") for task in ("a", "b")}), folder)
        assert make_report([folder]).method_comparisons == ()

    @pytest.mark.parametrize("pattern", [{"task": "a"}, {"settings": "act*"}, {"settings": "boost*"}])
    def test_nothing_is_said_of_a_part(self, folder, pattern):
        assert make_report([folder], ReportOptions(patterns=pattern)).method_comparisons == ()

    def test_further_runs_in_the_folder_are_not_its_own(self, folder):
        (before,) = make_report([folder]).method_comparisons
        for variant, values in ((PLAIN, BASELINE), ("act", BETTER)):
            write_run(folder, values, **options_of(variant, "c"))
            write_run(folder, values, **options_of(variant, "a", shots=3))
        (after,) = make_report([folder]).method_comparisons
        pd.testing.assert_frame_equal(before.table, after.table)

    def test_several_models_have_a_table_each(self, tmp_path):
        other = of_both_tasks(**{PLAIN: BASELINE, "act": BETTER, "boost": ACT})
        write_comparison_of_methods(tmp_path / "one", self.VALUES, model="some/one")
        write_comparison_of_methods(tmp_path / "other", other, model="some/other")
        report = make_report([tmp_path])
        told = {findings.model: findings.counting["delta"].tolist() for findings in report.method_comparisons}
        assert told["some/one"] == pytest.approx([np.mean(ACT) - np.mean(BASELINE), np.mean(BETTER) - np.mean(BASELINE)])
        assert told["some/other"] == pytest.approx(told["some/one"][::-1])
        assert [axes.get_title(loc="left") for axes in plot_methods(report).axes] == ["some/one", "some/other"]

    def test_numbers_of_a_later_comparison_are_not_those_of_an_earlier_one(self, tmp_path):
        """Of runs that are alike a report has the newest, so that there is nothing to say of the earlier comparison."""
        write_comparison_of_methods(tmp_path / "earlier", self.VALUES)
        write_comparison_of_methods(tmp_path / "later", of_both_tasks(**{PLAIN: BASELINE, "act": BETTER, "boost": ACT}))
        report = make_report([tmp_path])
        (findings,) = report.method_comparisons
        assert findings.counting["delta"].iloc[0] == pytest.approx(np.mean(BETTER) - np.mean(BASELINE))
        assert "methods of some/model: not all of their runs are in this report, or can be paired by document." in report.notes

    def test_a_later_run_of_another_command_is_not_its_own(self, folder):
        asked = {"recorded": {"act_eval_run": {"asked": {"task": "a"}}}}
        write_run(folder, BETTER, **{**options_of("act", "a"), **asked})
        report = make_report([folder])
        assert report.method_comparisons == ()
        assert any(note.startswith("methods of some/model: not all of their runs") for note in report.notes)

    def test_runs_of_other_heads_than_the_searches_found_are_not_its_own(self, tmp_path):
        write_comparison_of_methods(tmp_path, self.VALUES, profile_hash="1" * 16)
        report = make_report([tmp_path])
        assert report.method_comparisons == ()
        assert any(note.startswith("methods of some/model: not all of their runs") for note in report.notes)

    def test_label_priors_are_corrected_as_elsewhere_in_the_report(self, tmp_path):
        rng = np.random.default_rng(0)
        values = {(variant, "a"): None for variant in (PLAIN, "act")}
        for shift, (variant, task) in enumerate(values):
            scores = rng.normal(size=(42, 3)) + shift * np.eye(3)[0]
            write_choices(tmp_path, scores, [0, 1, 2] * 14, **options_of(variant, task))
        write_comparison_of_methods(tmp_path, values, missing=values)
        report = make_report([tmp_path])
        (findings,) = report.method_comparisons
        (row,) = findings.table.to_dict("records")
        (corrected,) = report.label_priors.to_dict("records")
        assert row["corrected_delta"] == pytest.approx(corrected["delta"])
        assert row["corrected_low"] == pytest.approx(corrected["low"])
        assert findings.correction.delta == pytest.approx(corrected["baseline"] - row["baseline"])
        assert "Correcting label priors alone" in findings.sentences[0]


SCORES = {"a": Score("acc", "none"), "cola": Score("mcc", "none")}
CONFIG_OF_COLA = {"metric_list": [{"metric": "mcc", "aggregation": "matthews_corrcoef"}]}


class TestScoresThatAreNotPaired:
    def write(self, folder, *variants):
        for variant, values in variants:
            write_run(folder, values, **options_of(variant, "a"))
            pairs = [[int(value), 1] for value in values]
            of_cola = {"metric": "mcc", "score": 0.3, "task_config": CONFIG_OF_COLA}
            write_run(folder, pairs, **options_of(variant, "cola"), **of_cola)
        names = [name for name, _ in variants]
        plan(folder, [(name, task) for name in names for task in SCORES])
        heads = 4 if "act" in names else 0
        write_methods(MethodsRecord({}, SCORES, {"act": SearchedMethod(heads, 1.0, "act", NO_HASH)}), folder)

    def test_are_not_averaged(self, tmp_path):
        self.write(tmp_path, (PLAIN, BASELINE), ("act", ACT))
        report = make_report([tmp_path])
        assert report.method_comparisons == ()
        with pytest.raises(ReportError, match=r"cola cannot be paired by document in mcc \(none\)"):
            check_paired_scores(MethodsRecord({}, SCORES), report.comparison)
        check_paired_scores(MethodsRecord({}, {"a": SCORES["a"]}), report.comparison)

    def test_of_the_baseline_alone(self, tmp_path):
        self.write(tmp_path, (PLAIN, BASELINE))
        results = load([tmp_path])
        (comparison,) = results.method_comparisons
        with pytest.raises(ReportError, match=r"cola cannot be paired by document in mcc \(none\)"):
            findings_without_heads(comparison, results)


class TestSeeds:
    SEEDS = (1, 2)

    @pytest.fixture
    def folder(self, tmp_path):
        """One of the methods does better with each seed, and the other one is the same."""
        of_seeds = {(variant, seed): ACT for variant in ("act", "boost") for seed in self.SEEDS}
        of_seeds |= {(PLAIN, seed): BASELINE for seed in self.SEEDS}
        planned = []
        for (variant, seed), values in of_seeds.items():
            options = options_of(variant, "a", shots=3)
            asked_for = {**options["recorded"]["act_eval_run"]["asked"], "seed": seed}
            options |= {"recorded": {"act_eval_run": {"asked": asked_for}}, "seed": seed}
            write_run(tmp_path, values, **options)
            planned.append(PlannedRun(variant, "a", seed, asked_for, STUDY_COMMAND))
        add_planned_runs(planned, tmp_path)
        searched = {name: SearchedMethod(4, 13.0, name, NO_HASH) for name in ("act", "boost")}
        write_methods(MethodsRecord({}, {"a": Score("acc", "none")}, searched), tmp_path)
        return tmp_path

    def test_all_of_them_count(self, folder):
        (findings,) = make_report([folder]).method_comparisons
        assert findings.best is None
        assert findings.table["delta"].tolist() == pytest.approx([np.mean(ACT) - np.mean(BASELINE)] * 2)

    def test_methods_are_not_compared_on_other_seeds_than_each_other(self, folder):
        """Samples of one seed of one method are gone."""
        (of_one, *_) = [file for file in folder.glob("**/results_*.json") if "'act', 'seed': 2" in str(_variant_and_seed(file))]
        samples_file(of_one, "a").unlink()
        report = make_report([folder])
        assert report.method_comparisons == ()
        assert not report.comparison["paired"].all()
        assert overview(report).texts.columns[2:].tolist() == ["a, paired", "a, unpaired"]
        assert {path.name for path in write_report(report, folder / "report")} > {"heat_map.png", "comparison.md"}

    def test_nothing_is_said_of_some_seeds(self, folder):
        assert make_report([folder], ReportOptions(patterns={"seed": "1"})).method_comparisons == ()


def _variant_and_seed(file):
    asked_for = json.loads(file.read_text())["act_eval_run"]["asked"]
    return {"variant": asked_for["model_args"]["act_profile"], "seed": asked_for["seed"]}


def test_where_no_method_has_heads_a_report_says_so(tmp_path):
    write_comparison_of_methods(tmp_path, of_both_tasks(**{PLAIN: BASELINE}), without=("act", "boost"))
    with pytest.raises(ReportError, match=r"no head was chosen for any method, so there is nothing to report on: methods\.csv"):
        make_report([tmp_path])


SEARCHED = '{"act": {"heads": HEADS, "full_passes": 13.0, "settings": "act", "profile_hash": "x"}}'
DAMAGED = '{"asked": {}, "scores": SCORES, "searched": SEARCHED}'.replace("SEARCHED", SEARCHED)
OF_A = '{"a": {"metric": "acc", "filter": "none"}}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"asked": {}}',
        '{"asked": {}, "scores": {"a": "acc"}, "searched": null}',
        DAMAGED.replace("SCORES", "{}").replace("HEADS", "4"),
        DAMAGED.replace("SCORES", OF_A).replace("HEADS", "null"),
        DAMAGED.replace("SCORES", OF_A).replace("HEADS", '"many"'),
        DAMAGED.replace("SCORES", OF_A).replace("HEADS", "4").replace('"asked": {}', '"asked": []'),
    ],
)
def test_a_record_that_is_none(tmp_path, content):
    write_comparison_of_methods(tmp_path, of_both_tasks(**{PLAIN: BASELINE, "act": ACT}))
    (tmp_path / METHODS_FILE).write_text(content)
    with pytest.raises(InputError, match="is not the record of a comparison of methods") as error:
        make_report([tmp_path])
    assert "\n" not in str(error.value)
