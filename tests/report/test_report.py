"""From lm-eval's files to tables, statistics and plots."""

import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers.runs import ACT, BASELINE, act_settings, write_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from statsmodels.stats.multitest import multipletests

from act_eval.report.build import ReportOptions, make_report
from act_eval.report.load import ReportError, load
from act_eval.report.older_files import current_form
from act_eval.report.pairing import pair
from act_eval.report.settings_text import describe_settings, is_baseline
from act_eval.report.statistics import compare, differs, exact_mcnemar, paired_statistics
from act_eval.report.tables import overview, print_tables
from act_eval.report.write import write_report

pytestmark = pytest.mark.tier("unit")


def compared(*folders):
    return compare(pair(load(folders)))


def written(folder, output):
    """The report of a folder, and the paths of its files by name."""
    report = make_report([folder])
    return report, {path.name: path for path in write_report(report, output)}


@pytest.mark.tier("slow")
class TestSeeds:
    """k-shot runs that differ in the seed of the few-shot sampler are averaged."""

    BASELINES = ([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    ACTS = ([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0])

    @pytest.fixture
    def folder(self, tmp_path):
        for seed, (baseline, act) in enumerate(zip(self.BASELINES, self.ACTS, strict=True)):
            write_run(tmp_path, baseline, shots=4, seed=seed, prompt=f"seed{seed}-")
            write_run(tmp_path, act, shots=4, seed=seed, prompt=f"seed{seed}-", heads=32)
        return tmp_path

    def test_mean_and_spread(self, folder):
        (row,) = [row for _, row in compared(folder).iterrows()]
        assert (row["seeds"], row["n"], row["num_fewshot"]) == (3, 4, 4)
        assert row["baseline"] == pytest.approx(np.mean(self.BASELINES))
        assert row["act"] == pytest.approx(np.mean(self.ACTS))
        means = np.mean(self.BASELINES, axis=1), np.mean(self.ACTS, axis=1)
        assert row["baseline_sd"] == pytest.approx(np.std(means[0], ddof=1))
        assert row["act_sd"] == pytest.approx(np.std(means[1], ddof=1))
        assert row["delta_sd"] == pytest.approx(np.std(means[1] - means[0], ddof=1))
        assert 0 < row["p"] == row["p_holm"] <= 1
        assert pd.isna(row["only_act"])

    def test_they_have_a_p_that_agrees_with_the_interval_and_is_corrected(self, tmp_path):
        rng = np.random.default_rng(1)
        for task in range(6):
            for seed in (1, 2, 3):
                options = {"task": f"t{task}", "shots": 2, "seed": seed}
                baseline = (rng.random(60) < 0.5).astype(float)
                write_run(tmp_path, baseline.tolist(), **options)
                changed = rng.random(60) < 0.15
                act = np.where(changed, task == 0, baseline)
                write_run(tmp_path, act.tolist(), **options, heads=32)
        table = compared(tmp_path)
        is_far = abs(table["p"] - 0.05) > 0.001
        assert is_far.any()
        assert ((table["p"] < 0.05) == ((table["low"] > 0) | (table["high"] < 0)))[is_far].all()
        assert table["p"].min() >= 2 / 10_001
        assert table["p_holm"].to_numpy(float) == pytest.approx(multipletests(table["p"].to_numpy(float), method="holm")[1])
        assert (differs(table) == (table["p_holm"] < 0.05)).all()

    @pytest.mark.usefixtures("without_plots")
    def test_table_shows_the_spread(self, folder, tmp_path):
        written(folder, tmp_path / "report")
        text = (tmp_path / "report" / "comparison.md").read_text()
        assert "| 4 | 0.500 ± 0.250 | 0.667 ± 0.144 | +0.167 ± 0.144 |" in " ".join(text.split())
        assert "means over 3 few-shot seeds" in text

    def test_a_seed_on_one_side_alone_is_left_out(self, folder):
        write_run(folder, [1.0] * 4, shots=4, seed=99, prompt="seed99-", heads=32)
        assert compared(folder).iloc[0]["seeds"] == 3

    def test_different_shots_are_not_averaged(self, folder):
        write_run(folder, [0.0] * 4, shots=2, seed=0)
        write_run(folder, [1.0] * 4, shots=2, seed=0, heads=32)
        table = compared(folder).set_index("num_fewshot")
        assert table["seeds"].to_dict() == {2: 1, 4: 3}
        assert table.loc[2, "delta"] == 1

    def test_without_examples_the_seed_decides_nothing(self, tmp_path):
        write_run(tmp_path, [1.0, 0.0], seed=1)
        write_run(tmp_path, [1.0, 1.0], seed=2, heads=32)
        row = compared(tmp_path).iloc[0]
        assert (row["seeds"], row["delta"]) == (1, 0.5)


@pytest.mark.tier("slow")
class TestCompare:
    def test_known_numbers(self, tmp_path):
        write_run(tmp_path, BASELINE)
        write_run(tmp_path, ACT, heads=32)
        row = compared(tmp_path).iloc[0]
        assert (row["n"], row["baseline"], row["act"]) == (100, 0.6, 0.75)
        assert row["delta"] == pytest.approx(0.15)
        assert (row["both"], row["only_baseline"], row["only_act"], row["neither"]) == (50, 10, 25, 15)
        assert row["p"] == pytest.approx(stats.binomtest(10, 35).pvalue)
        standard_error = np.std(np.array(ACT) - np.array(BASELINE)) / 10
        assert row["low"] == pytest.approx(0.15 - 1.96 * standard_error, abs=0.01)
        assert row["high"] == pytest.approx(0.15 + 1.96 * standard_error, abs=0.01)

    def test_the_newest_run_of_a_cell_wins(self, tmp_path):
        write_run(tmp_path, [0.0] * 4)
        write_run(tmp_path, [1.0] * 4, heads=2)
        write_run(tmp_path, [1.0, 1.0, 0.0, 0.0])
        table = compared(tmp_path)
        assert table[["baseline", "act"]].to_numpy().tolist() == [[0.5, 1.0]]

    def test_settings_and_models_stay_apart(self, tmp_path):
        for model in ("a", "b"):
            write_run(tmp_path / model, [0.0, 1.0], model=model)
            write_run(tmp_path / model, [1.0, 1.0], model=model, heads=2)
            write_run(tmp_path / model, [1.0, 0.0], model=model, heads=2, beta=0.1)
        table = compared(tmp_path / "a", tmp_path / "b")
        deltas = table.set_index(["model", "settings"])["delta"].to_dict()
        names = {beta: f"all (2 heads), beta {beta}, threshold 0.1" for beta in (0.1, 0.4)}
        assert deltas == {(model, names[beta]): delta for model in "ab" for beta, delta in ((0.1, 0.0), (0.4, 0.5))}

    def test_beta_one_is_a_baseline(self, tmp_path):
        write_run(tmp_path, [0.0, 1.0], heads=32, beta=1)
        write_run(tmp_path, [1.0, 1.0], heads=32)
        assert len(compared(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("baseline", "act", "reason"),
        [
            ({}, {"prompt": "q"}, "different prompts"),
            ({}, {"version": 2}, "version 1 to 2"),
            ({"values": [1.0]}, {}, r"different documents \(ACT alone: 1\): run"),
            ({"values": [1.0] * 9}, {}, r"different documents \(baseline alone: 2, 3, 4, 5, 6, ... \(7 documents\)\): run"),
            ({}, {"limit": 5}, "no baseline of the same model"),
            ({}, {"task": "other"}, "no baseline of the same model"),
        ],
    )
    def test_what_must_not_be_compared(self, tmp_path, baseline, act, reason):
        write_run(tmp_path, **{"values": [0.0, 1.0], **baseline})
        write_run(tmp_path, **{"values": [0.0, 1.0], "heads": 2, **act})
        with pytest.raises(ReportError, match=reason):
            compared(tmp_path)

    def test_a_stock_run_is_a_baseline(self, tmp_path):
        write_run(tmp_path, BASELINE, stock=True)
        write_run(tmp_path, ACT, heads=32, model_args={"pretrained": "some/model", "act_profile": "all", "device": "cpu"})
        (row,) = compared(tmp_path).to_dict("records")
        assert (row["baseline"], row["act"], row["num_heads"]) == (0.6, 0.75, 32)

    def test_other_model_arguments_are_refused(self, tmp_path):
        write_run(tmp_path, BASELINE, model_args="pretrained=some/model,dtype=float16")
        write_run(tmp_path, ACT, heads=32)
        with pytest.raises(
            ReportError, match=r"model arguments .* \(dtype=float16,pretrained=some/model; pretrained=some/model\)"
        ):
            compared(tmp_path)

    def test_models_that_differ_in_arguments_alone_have_rows_of_their_own(self, tmp_path):
        acts = {"float16": [1.0] * 100, "bfloat16": [0.0] * 100}
        for dtype, act in acts.items():
            arguments = f"pretrained=some/model,dtype={dtype}"
            for baseline in (BASELINE, BASELINE[::-1]):
                write_run(tmp_path, baseline, model_args=arguments)
            write_run(tmp_path, act, heads=32, model_args=arguments)
        report = make_report([tmp_path])
        rows = report.comparison.set_index("model")[["seeds", "n", "delta", "noise_changed"]].to_dict("index")
        assert rows == {
            f"some/model (dtype={dtype})": {"seeds": 1, "n": 100, "delta": pytest.approx(delta), "noise_changed": 80}
            for dtype, delta in (("float16", 0.4), ("bfloat16", -0.6))
        }
        assert set(report.runs["model"]) == set(rows) == set(report.short_names.values())
        (only,) = make_report([tmp_path], ReportOptions(patterns={"model": "*=float16)"})).comparison["delta"]
        assert only == pytest.approx(0.4)

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            ([{}, {"peft": "my/adapter"}], {"m": 0, "m (peft=my/adapter)": 1}),
            ([{"peft": "/data/mine/a"}, {"peft": "/data/mine/b"}], {"m (peft=mine/a)": 0, "m (peft=mine/b)": 1}),
            (
                [{"dtype": "a", "revision": "x"}, {"dtype": "b", "revision": "x"}, {"dtype": "b", "revision": "y"}],
                {"m (dtype=a, revision=x)": 0, "m (dtype=b, revision=x)": 1, "m (dtype=b, revision=y)": 2},
            ),
            ([{"batch_size": 1}, {"batch_size": 2}], {"m": 1}),
        ],
    )
    def test_names_of_models_say_what_differs(self, tmp_path, arguments, names):
        for number, of_run in enumerate(arguments):
            write_run(tmp_path, [0.0] * 4, model="m", model_args={"pretrained": "m", **of_run})
            act = [1.0] * number + [0.0] * (4 - number)
            write_run(tmp_path, act, model="m", model_args={"pretrained": "m", **of_run}, heads=2)
        deltas = compared(tmp_path).set_index("model")["delta"].to_dict()
        assert deltas == {name: number / 4 for name, number in names.items()}

    def test_a_baseline_that_nothing_goes_with_changes_no_name(self, tmp_path):
        for baseline in (BASELINE, BASELINE[::-1]):
            write_run(tmp_path, baseline, model_args="pretrained=some/model,dtype=float16")
        write_run(tmp_path, BASELINE)
        write_run(tmp_path, ACT, heads=32)
        (row,) = compared(tmp_path).to_dict("records")
        assert row["model"] == "some/model"
        assert pd.isna(row["noise"]), "that of another model"

    def test_several_pairs_of_a_document_are_not_averaged(self, tmp_path):
        write_run(tmp_path, BASELINE)
        write_run(tmp_path, ACT, heads=32)
        pairing = pair(load([tmp_path]))
        twice = pd.concat([pairing.values, pairing.values.tail(1)])
        with pytest.raises(ReportError, match="document 99 has several pairs"):
            compare(pairing.with_values(twice))

    @pytest.mark.parametrize(
        "sides", [({"parallelize": True}, {}), ({"cache_dir": "a"}, {"cache_dir": "b", "device_map": "auto"})]
    )
    def test_where_models_run_is_no_difference(self, tmp_path, sides):
        for heads, values, arguments in zip((0, 32), (BASELINE, ACT), sides, strict=True):
            write_run(tmp_path, values, heads=heads, model_args={"pretrained": "some/model", **arguments})
        (row,) = compared(tmp_path).to_dict("records")
        assert (row["model"], row["delta"]) == ("some/model", pytest.approx(0.15))

    @pytest.mark.usefixtures("without_plots")
    @pytest.mark.parametrize("as_text", [True, False])
    def test_access_tokens_are_nowhere(self, tmp_path, as_text):
        given = {"pretrained": "some/model", "token": "hf_secret"}
        arguments = ",".join(f"{name}={value}" for name, value in given.items()) if as_text else given
        runs = tmp_path / "runs"
        for heads, values in ((0, BASELINE), (32, ACT)):
            write_run(runs, values, heads=heads, model_args=arguments, task_config={"metadata": given})
        written(runs, tmp_path / "report")
        files = [file for file in (tmp_path / "report").rglob("*") if file.is_file()]
        assert len(files) > 3
        assert not [file for file in files if b"hf_secret" in file.read_bytes()]
        write_run(runs, ACT, heads=16, model_args={**given, "dtype": "float16"})
        (note,) = make_report([runs]).notes
        assert "dtype=float16" in note
        assert "hf_secret" not in note

    def test_other_metrics_are_refused(self, tmp_path):
        write_run(tmp_path, BASELINE)
        write_run(tmp_path, ACT, heads=32, metric="exact_match")
        with pytest.raises(
            ReportError, match=r"different metrics \(acc \(none\), text \(none\); exact_match \(none\), text \(none\)\)"
        ):
            compared(tmp_path)

    @pytest.mark.usefixtures("without_plots")
    def test_a_refusal_leaves_the_rest(self, tmp_path):
        for task, prompt in (("good", "p"), ("bad", "q")):
            write_run(tmp_path, BASELINE, task=task)
            write_run(tmp_path, ACT, heads=32, task=task, prompt=prompt)
        write_run(tmp_path, BASELINE, task="lonely")
        report, _ = written(tmp_path, tmp_path / "report")
        assert report.comparison["task"].tolist() == ["good"]
        assert [("bad" in note, "lonely" in note) for note in report.notes] == [(True, False), (False, True)]
        text = (tmp_path / "report" / "comparison.md").read_text()
        assert all(f"- {note}" in text for note in report.notes)

    def test_the_newest_complete_run_wins_and_the_rest_are_listed(self, tmp_path):
        older = write_run(tmp_path, [0.0] * 100)
        write_run(tmp_path, BASELINE)
        truncated = write_run(tmp_path, [1.0] * 100, samples=60)
        write_run(tmp_path, ACT, heads=32)
        pairing = pair(load([tmp_path]))
        assert compare(pairing).iloc[0]["baseline"] == 0.6
        assert len(pairing.notes) == 2
        assert any(older in note and "newer" in note for note in pairing.notes)
        assert any(truncated in note and "60 of 100" in note for note in pairing.notes)

    @pytest.mark.usefixtures("without_plots")
    @pytest.mark.parametrize("samples", [0, 30])
    def test_runs_without_all_samples_are_unpaired(self, tmp_path, samples):
        write_run(tmp_path, BASELINE, samples=samples)
        write_run(tmp_path, ACT, heads=32)
        report, _ = written(tmp_path, tmp_path / "report")
        (row,) = report.comparison.to_dict("records")
        assert (row["paired"], row["baseline"], row["act"], row["n"]) == (False, 0.6, 0.75, 100)
        assert row["delta"] == pytest.approx(0.15)
        assert np.isnan([row["low"], row["high"], row["p"], row["p_holm"]]).all()
        text = (tmp_path / "report" / "comparison.md").read_text()
        assert "unpaired" in text
        assert "Not compared" not in text
        assert report.notes == ()
        (note,) = report.unpaired_notes
        assert re.search(r"not paired by document, for it has (no samples|samples of 30 of 100 documents) \(baseline\)", note)
        assert text.count(note) == 1

    @pytest.mark.usefixtures("without_plots")
    def test_two_baselines_show_the_noise(self, tmp_path):
        write_run(tmp_path, BASELINE, stock=True)
        write_run(tmp_path, [0.0, *BASELINE[1:60], 1.0, 1.0, *BASELINE[62:]])
        write_run(tmp_path, ACT, heads=32)
        report, _ = written(tmp_path, tmp_path / "report")
        (row,) = report.comparison.to_dict("records")
        assert row["baseline"] == 0.61
        assert row["noise"] == pytest.approx(0.01)
        assert row["noise_changed"] == 3
        text = " ".join((tmp_path / "report" / "comparison.md").read_text().split())
        assert "| noise |" in text
        assert "| 0.010 (3 changed) |" in text

    def test_where_less_is_better(self, tmp_path):
        write_run(tmp_path, BASELINE)
        write_run(tmp_path, ACT, heads=32)
        rewrite(tmp_path, "results_*", lambda results: {**results, "higher_is_better": {"demo": {"acc": False}}})
        report, paths = written(tmp_path, tmp_path / "report")
        assert report.comparison["higher_is_better"].tolist() == [False]
        assert "| baseline | **0.600** |" in " ".join(paths["comparison.md"].read_text().split())
        assert not [name for name in paths if name.endswith(".png")]

    def test_holm(self, tmp_path):
        changes = {"a": 1, "b": 6, "c": 12}
        for task, number in changes.items():
            write_run(tmp_path, [0.0] * 40, task=task)
            write_run(tmp_path, [1.0] * number + [0.0] * (40 - number), task=task, heads=32)
        write_run(tmp_path, [1.0] * 6 + [0.0] * 34, task="b", heads=16)
        table = compared(tmp_path).set_index(["num_heads", "task"])
        assert table.loc[(16, "b"), "p_holm"] == table.loc[(16, "b"), "p"], "a table of its own"
        table = table.loc[32]
        p = {task: 2 * 0.5**number for task, number in changes.items()}
        assert table["p"].to_dict() == pytest.approx(p)
        assert table["p_holm"].to_dict() == pytest.approx({"c": 3 * p["c"], "b": 2 * p["b"], "a": p["a"]})

    @pytest.mark.parametrize("options", [{"patterns": {"task": "b"}}, {"metrics": ("acc",)}, {"patterns": {"seed": "1"}}])
    def test_what_is_left_out_of_a_report_changes_no_p(self, tmp_path, options):
        """What is shown may have been chosen after all was seen."""
        for task, number in {"a": 1, "b": 7, "c": 12}.items():
            for heads, values in ((0, [0.0] * 40), (32, [1.0] * number + [0.0] * (40 - number))):
                contents = [{"metrics": ["acc", "f1"], "f1": value / 2} for value in values]
                write_run(tmp_path, values, task=task, heads=heads, contents=contents, shots=2, seed=1)
        rows = ["task", "metric"]
        of_all, selected = make_report([tmp_path]), make_report([tmp_path], ReportOptions(**options))
        whole, some = (report.comparison.set_index(rows) for report in (of_all, selected))
        priors, some_priors = (report.label_priors.set_index(rows) for report in (of_all, selected))
        assert len(whole) == 6
        assert 0 < len(some) < 6 or "seed" in options["patterns"]
        columns = ["p", "p_holm"]
        pd.testing.assert_frame_equal(some[columns], whole.loc[some.index, columns])
        assert len(priors) == 3
        pd.testing.assert_frame_equal(some_priors[columns], priors.loc[some_priors.index, columns])
        assert whole.loc[("b", "acc"), "p_holm"] > whole.loc[("b", "acc"), "p"] == 2 / 2**7

    @pytest.mark.parametrize("second", [[1.0] * 30 + [0.0] * 70, BASELINE[::-1]], ids=["another score", "the same score"])
    def test_settings_over_other_seeds_have_a_baseline_of_their_own(self, tmp_path, second):
        of_seeds = {1: BASELINE, 2: second}
        for seed, values in of_seeds.items():
            for options in ({}, {"heads": 32, "beta": 0.2}, {"heads": 32, "beta": 0.3}):
                write_run(tmp_path, values, shots=2, seed=seed, **options)
        write_run(tmp_path, [1.0] * 55 + [0.0] * 45, shots=2, seed=1, heads=32, beta=0.6)
        table = overview(make_report([tmp_path]))
        both = f"{(0.6 + np.mean(second)) / 2:.3f}"
        assert table.texts["demo"].tolist() == [both, both, both, "100", "0.600", "0.550", "100"]
        names = [text.split(", ")[1] if "," in text else text for text in table.texts["settings"]]
        assert names == ["baseline", "beta 0.2", "beta 0.3", "n", "baseline", "beta 0.6", "n"]
        assert table.bold["demo"].tolist() == [False, False, False, False, True, False, False]

    def test_averages_of_other_tasks_have_a_baseline_of_their_own(self, tmp_path):
        """Also where they are as many, and each task has the same one."""
        for task, values in {"a": BASELINE, "b": ACT, "c": BASELINE}.items():
            write_run(tmp_path, values, task=task)
        for beta, tasks in ((0.2, "ab"), (0.6, "bc")):
            for task in tasks:
                write_run(tmp_path, ACT, task=task, heads=32, beta=beta)
        texts = overview(make_report([tmp_path])).texts
        assert texts["settings"].eq("baseline").sum() == 2
        assert texts["all tasks (2 of 3 tasks)"].tolist() == ["0.675", "0.750*", "200"] * 2

    def test_a_terminal_colours_what_has_a_star(self, tmp_path):
        """Of 17 differences, one may have an interval without zero by chance."""
        for number in range(17):
            right = {0: 67, 1: 80}.get(number, 60)
            write_run(tmp_path, BASELINE, task=f"t{number:02}")
            write_run(tmp_path, [1.0] * right + [0.0] * (100 - right), task=f"t{number:02}", heads=32)
        report = make_report([tmp_path], ReportOptions(group_by="none"))
        assert (report.comparison["low"] > 0).tolist() == [True, True, *[False] * 15]
        console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=100)
        print_tables(report, console)
        green = [line for line in console.file.getvalue().splitlines() if "\x1b[32m" in line]
        assert green
        assert all("t01" in line for line in green)
        act = overview(report).texts.set_index("settings").filter(like="heads", axis=0).iloc[0]
        assert (act["t00"], act["t01"]) == ("0.670", "0.800*")

    @pytest.mark.tier("slow")
    def test_folders_in_any_order_and_twice_change_nothing(self, tmp_path):
        for name in "abc":
            write_run(tmp_path / name, BASELINE, task=name)
            write_run(tmp_path / name, ACT, heads=32, task=name)
        folders = [tmp_path / name for name in "abc"]
        for other in (folders[::-1], [tmp_path], [tmp_path, *folders]):
            pd.testing.assert_frame_equal(compared(*other), compared(*folders))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_scores_that_are_no_numbers(self, tmp_path, value):
        write_run(tmp_path, [1.0, value])
        with pytest.raises(ReportError, match=r"acc of document 1 is (nan|inf) \(line 2 of .*samples_demo"):
            load([tmp_path])

    def test_averages_that_are_no_numbers(self, tmp_path):
        write_run(tmp_path, BASELINE, samples=0)
        write_run(tmp_path, ACT, heads=32)
        file = min(tmp_path.glob("results_*"))
        file.write_text(file.read_text().replace('"acc,none": 0.6', '"acc,none": NaN'))
        with pytest.raises(ReportError, match=r"a score in .*results_.* is not a number"):
            pair(load([tmp_path]))

    @pytest.mark.parametrize("older", [False, True])
    def test_older_files_are_read_beside_newer_ones(self, tmp_path, older):
        write_run(tmp_path, BASELINE, older=older)
        write_run(tmp_path, ACT, heads=32, older=not older)
        write_run(tmp_path, [0.0] * 100, heads=2, older=older)
        table = compared(tmp_path)
        assert table["settings"].tolist() == [f"all ({heads} heads), beta 0.4, threshold 0.1" for heads in (2, 32)]
        assert table["num_heads"].tolist() == [2, 32]

    def test_settings_that_are_missing(self, tmp_path):
        write_run(tmp_path, [1.0], heads=32, older=True)
        (file,) = tmp_path.glob("results_*")
        content = json.loads(file.read_text())
        del content["config"]["act"]["keep"]
        file.write_text(json.dumps(content))
        with pytest.raises(ReportError, match="does not say what ACT's keep was"):
            load([tmp_path])

    def test_unreadable_files(self, tmp_path):
        with pytest.raises(ReportError, match="no folder"):
            load([tmp_path / "missing"])
        with pytest.raises(ReportError, match="no results"):
            load([tmp_path])
        for text in ("{", "[]", "{}"):
            (tmp_path / "results_x.json").write_text(text)
            with pytest.raises(ReportError, match="results_x"):
                load([tmp_path])

    def test_unreadable_sample(self, tmp_path):
        write_run(tmp_path, [1.0])
        next(tmp_path.glob("samples_*")).write_text("{}\n")
        with pytest.raises(ReportError, match="line 1"):
            load([tmp_path])


def rewrite(folder, pattern, change):
    """Change each JSON object of the files that match: whole files, or line by line."""
    for file in folder.glob(pattern):
        texts = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
        file.write_text("".join(json.dumps(change(json.loads(text))) + "\n" for text in texts))


class TestSettings:
    OLDER = act_settings(32, 0.4, older=True) | {"profile_hash": "0123456789abcdef"}

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({}, "all (32 heads), beta 0.4, threshold 0.1"),
            ({"threshold": None, "alpha": 5, "beta": 1 / 3}, "all (32 heads), beta 0.3333333333, alpha 5"),
            ({"method": "remove", "beta": None}, "all (32 heads), remove, threshold 0.1"),
            ({"method": "temperature", "beta": None, "theta": 2, "threshold": None}, "all (32 heads), temperature, theta 2"),
            ({"sink_share": 0.4, "keep": "first-token"}, "all (32 heads), beta 0.4, threshold 0.1, 40% of sinks, first-token"),
            ({"decode": "row", "base": "sdpa"}, "all (32 heads), beta 0.4, threshold 0.1, decode row, base sdpa"),
            ({"profile": "a/b/c.json"}, "b/c.json 01234567 (32 heads), beta 0.4, threshold 0.1"),
            ({"profile": "1:1+2+3+4+5+6+7+8"}, "1:1+2+3+4+5+6+7+8 (32 heads), beta 0.4, threshold 0.1"),
            (
                {"profile": "1:1+2+3+4+5+6+7+8+9+10+11"},
                "1:1+2+3+4+5+6+7+8... 01234567 (32 heads), beta 0.4, threshold 0.1",
            ),
            ({"beta": 1}, "baseline"),
            ({"beta": 1, "decode": "official"}, "all (32 heads), beta 1, threshold 0.1, decode official"),
            ({"beta": 1, "changes_nothing": False}, "all (32 heads), beta 1, threshold 0.1"),
            ({"changes_nothing": True}, "baseline"),
            ({"num_heads": 0}, "baseline"),
        ],
    )
    def test_older_files_in_words(self, change, text):
        act = {name: value for name, value in {**self.OLDER, **change}.items() if name != "beta" or value is not None}
        assert describe_settings(act) == text
        assert is_baseline(act) == (text == "baseline")
        assert describe_settings(current_form(act)) == text

    def test_what_is_said_in_words_is_taken_as_it_is(self):
        act = {"text": "whatever came later", "num_heads": 3, "changes_nothing": False}
        assert describe_settings(act) == "whatever came later"
        assert describe_settings({**act, "changes_nothing": True}) == describe_settings({**act, "num_heads": 0}) == "baseline"
        assert describe_settings(None) == "baseline"

    def test_an_attention_backend_is_named_also_where_the_words_do_not(self):
        act = {"text": "all (3 heads), beta 0.4", "num_heads": 3, "changes_nothing": False, "base": "eager"}
        assert describe_settings(act) == describe_settings(current_form(act)) == "all (3 heads), beta 0.4, base eager"
        assert describe_settings({**act, "base": None}) == act["text"]
        assert describe_settings({**act, "num_heads": 0}) == "baseline"


@pytest.mark.tier("slow")
class TestGroups:
    @pytest.fixture
    def folder(self, tmp_path):
        """Three tasks, of which two form a subgroup, and two others have a tag."""
        for task in "abc":
            write_run(tmp_path, [0.0, 1.0], task=task)
            write_run(tmp_path, [1.0, 1.0], task=task, heads=32)

        def add_groups(results):
            (task,) = results["configs"]
            tags = {} if task == "a" else {"tag": ["tagged"]}
            return {**results, "configs": {task: tags}, "group_subtasks": {"outer": ["inner", "c"], "inner": ["a", "b"]}}

        rewrite(tmp_path, "results_*", add_groups)
        return tmp_path

    @pytest.mark.parametrize(
        ("by", "expected"),
        [("group", {"inner": 2, "outer": 3}), ("tag", {"all tasks": 3, "tagged": 2}), ("all", {"all tasks": 3}), ("none", {})],
    )
    def test_members(self, folder, by, expected):
        groups = make_report([folder], ReportOptions(group_by=by)).groups
        assert dict(zip(groups["group"], groups["tasks"], strict=True)) == expected
        assert (groups["delta"] == 0.5).all()


class TestFlips:
    def test_answers_by_length(self, tmp_path):
        """With acc_norm, the answer is the choice with the greatest log-probability per character."""
        for value in (0.0, 1.0):
            write_run(tmp_path, [value], heads=int(value), metric="acc_norm", beta=0.4)

        def lengthen(sample):
            scores = ("-4.0", "-6.0") if sample["acc_norm"] else ("-2.0", "-6.0")
            requests = {"short": {"arg_0": "p", "arg_1": " ab"}, "long": {"arg_0": "p", "arg_1": " abcd"}}
            return {**sample, "arguments": requests, "filtered_resps": [[score, "False"] for score in scores]}

        rewrite(tmp_path, "samples_*", lengthen)
        (flip,) = make_report([tmp_path]).flips.documents.to_dict("records")
        assert (flip["answer_baseline"], flip["gold"], flip["answer_act"]) == ("ab", "abcd", "abcd")
        assert (flip["margin_baseline"], flip["margin_act"]) == (-0.5, 0.5)

    CHOICES = ("a", "bbbbbbbbbb")

    @pytest.mark.parametrize(
        ("metric", "sides", "answers", "margins"),
        [
            ("acc", ([-2, -3], [-3, -2]), ("a", "bbbbbbbbbb"), (-1, 1)),
            ("acc_norm", ([-0.1, -3], [-2, -3]), ("a", "bbbbbbbbbb"), (-0.2, 1.7)),
            ("acc_bytes", ([-0.1, -3], [-2, -3]), ("a", "bbbbbbbbbb"), (-0.2, 1.7)),
            ("acc_mutual_info", ([-2, -3, -1, -1.5], [-2, -3, -1, -9]), ("a", "bbbbbbbbbb"), (-0.5, 7)),
            ("acc_mutual_info", ([-2, -3], [-3, -2]), ("", ""), None),  # scores without context are not there
            ("exact_match", ([-2, -3], [-3, -2]), ("", ""), None),  # whether the right choice is what would be generated
            ("acc", ([-3, -2], [-2, -3]), ("", ""), None),  # not what was logged
        ],
    )
    def test_answers_and_margins_are_those_of_the_metric(self, tmp_path, metric, sides, answers, margins):
        for side, scores in enumerate(sides):
            arguments = {
                f"{context}{number}": {"arg_0": context, "arg_1": f" {self.CHOICES[number]}"}
                for context in ("Q", "")[: len(scores) // 2]
                for number in range(2)
            }
            contents = {"arguments": arguments, "filtered_resps": [[str(score), "False"] for score in scores]}
            write_run(tmp_path, [float(side)], heads=side, metric=metric, contents=[contents])
        (flip,) = make_report([tmp_path]).flips.documents.to_dict("records")
        assert (flip["gold"], flip["change"]) == ("bbbbbbbbbb", "gained")
        assert (flip["answer_baseline"], flip["answer_act"]) == answers
        found = [flip["margin_baseline"], flip["margin_act"]]
        assert found == pytest.approx(margins) if margins else all(map(np.isnan, found))

    def test_bytes_are_not_characters(self, tmp_path):
        for side, score in enumerate((-1.0, -3.0)):
            arguments = {str(number): {"arg_0": "Q", "arg_1": f" {text}"} for number, text in enumerate(("abc", "\N{SNOWMAN}"))}
            contents = {"arguments": arguments, "filtered_resps": [[str(score), "False"], ["-2.0", "False"]]}
            write_run(tmp_path, [float(side)], heads=side, metric="acc_bytes", contents=[contents])
        (flip,) = make_report([tmp_path]).flips.documents.to_dict("records")
        assert (flip["answer_baseline"], flip["answer_act"]) == ("abc", "\N{SNOWMAN}")
        assert (flip["margin_baseline"], flip["margin_act"]) == pytest.approx((-1 / 3, 1 / 3))

    def test_requests_without_context_are_no_choices(self, tmp_path):
        """Mutual information scores every choice once more without its context."""
        for value in (0.0, 1.0):
            write_run(tmp_path, [value], heads=int(value))

        def add_requests(sample):
            alone = {f"alone_{choice}": {"arg_0": "", "arg_1": f" {choice}"} for choice in ("no", "yes")}
            return {**sample, "arguments": {**sample["arguments"], **alone}}

        rewrite(tmp_path, "samples_*", add_requests)
        (flip,) = make_report([tmp_path]).flips.documents.to_dict("records")
        assert (flip["prompt"], flip["gold"], flip["answer_act"]) == ("prompt 0", "yes", "yes")


class TestStatistics:
    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_counts_add_up(self, pairs):
        baseline, act = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
        result = paired_statistics(baseline, act)
        counts = [result[name] for name in ("both", "only_baseline", "only_calibrated", "neither")]
        assert sum(counts) == result["n"] == len(pairs)
        assert result["delta"] == pytest.approx((result["only_calibrated"] - result["only_baseline"]) / len(pairs))
        assert result["low"] <= result["delta"] + 1e-12
        assert result["high"] >= result["delta"] - 1e-12
        assert 0 < result["p"] <= 1

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_swapping_negates(self, pairs):
        baseline, act = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
        one, other = paired_statistics(baseline, act), paired_statistics(act, baseline)
        assert one["delta"] == -other["delta"]
        assert one["p"] == other["p"]
        assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), abs=2 / len(pairs))

    def test_hand_computed(self):
        flips = paired_statistics(np.zeros(6), np.ones(6))
        assert (flips["delta"], flips["high"], flips["p"]) == (1, 1, 2 / 64)
        assert flips["low"] == pytest.approx(
            2 * stats.beta(6.8, 0.8).ppf(0.025) - 1, abs=0.04
        )  # 4 standard errors of 10,000 draws
        single = paired_statistics(np.ones(1), np.zeros(1))
        assert (single["n"], single["delta"], single["p"]) == (1, -1, 1)

    def test_nothing_changed(self):
        assert exact_mcnemar(0, 0) == 1

    def test_scores_that_are_no_outcomes_have_no_counts(self):
        assert not {"both", "only_baseline", "only_calibrated", "neither"} & set(
            paired_statistics(np.array([0.5, 1.0]), np.array([0.2, 1.0]))
        )


@pytest.mark.tier("slow")
class TestFilesOfAnEarlierReport:
    @pytest.fixture
    def folder(self, tmp_path):
        for task in "ab":
            write_run(tmp_path, BASELINE, task=task)
            write_run(tmp_path, ACT, task=task, heads=32)
        return tmp_path

    def test_are_removed_where_there_are_none_now(self, folder, tmp_path):
        output = tmp_path / "report"
        write_report(make_report([folder]), output)
        assert {path.name for path in output.iterdir()} > {"groups.csv", "label_prior_groups.csv"}
        for suffix in ("png", "svg"):
            (output / f"number_of_heads.{suffix}").touch()
        others = ("notes.csv", "improvement.pdf", "by_beta.md")
        for name in others:
            (output / name).write_text("of somebody else")
        (output / "subjects.csv").mkdir()
        some = ReportOptions(patterns={"task": "a"})
        written = write_report(make_report([folder], some), output)
        assert {path.name for path in output.iterdir()} == {path.name for path in written} | {*others, "subjects.csv"}

    def test_are_not_found_in_a_folder_without_a_report(self, folder, tmp_path):
        """What has one of the names there is somebody else's."""
        output = tmp_path / "report"
        output.mkdir()
        (output / "replies.csv").write_text("of somebody else")
        write_report(make_report([folder]), output)
        assert (output / "replies.csv").read_text() == "of somebody else"


@pytest.mark.tier("slow")
def test_report_files(tmp_path):
    write_run(tmp_path / "runs", BASELINE)
    write_run(tmp_path / "runs", ACT, heads=32)
    report, paths = written(tmp_path / "runs", tmp_path / "report")
    names = ("improvement", "label_priors", "scatter", "heat_map")
    plots = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    texts = [
        "comparison.md",
        "comparison.csv",
        "comparison.tex",
        "label_priors.csv",
        "labels.csv",
        "report.json",
        "report.html",
    ]
    assert list(paths) == [*texts, *plots]
    markdown = paths["comparison.md"].read_text()
    assert "| demo | acc | 0 | 100 | 0.600 | 0.750 | +0.150 |" in " ".join(markdown.split())
    pd.testing.assert_frame_equal(pd.read_csv(paths["comparison.csv"]), report.comparison, check_dtype=False)
    assert paths["improvement.png"].read_bytes().startswith(b"\x89PNG")
    texts = [element.text for element in ElementTree.parse(paths["improvement.svg"]).iter("{http://www.w3.org/2000/svg}text")]
    assert "demo" in texts


@pytest.mark.tier("slow")
def test_the_same_runs_give_the_same_files(tmp_path):
    write_run(tmp_path / "runs", BASELINE)
    write_run(tmp_path / "runs", ACT, heads=32)
    (_, first), (_, second) = (written(tmp_path / "runs", tmp_path / name) for name in "ab")
    assert list(first) == list(second)
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes()
