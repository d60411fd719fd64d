"""Replies of tasks that generate text: how many are empty, and how long they are, against numpy by hand."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.runs import read_samples, write_run
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar

from act_eval.report.build import ReportOptions, make_report
from act_eval.report.replies import REPLY_COLUMNS
from act_eval.report.statistics import paired_statistics
from act_eval.report.tables import markdown, print_tables
from act_eval.report.write import write_report

pytestmark = pytest.mark.tier("unit")

RESULTS = Path(__file__).parents[1] / "results"
BASELINE = [" Denver Broncos", "", "a\nb ", "Paris ", "x", "yes", " no", "four"]
ACT = ["", " \n\t", "a\nb", "", "\n", "yes", "", "longer than before"]


def write_replies(folder, replies, filters=("none",), contents=None, **options):
    """A run of a task that generates text: a reply, or a list of several, for each document."""
    options = {"metric": "f1", "values": [0.5] * len(replies), **options}
    samples = [
        {
            "arguments": {"gen_args_0": {"arg_0": f"question {number}", "arg_1": {"until": ["\n\n"]}}},
            "resps": [reply if isinstance(reply, list) else [reply]],
            "filtered_resps": ["what a filter left"],
            **(contents or {}),
        }
        for number, reply in enumerate(replies)
    ]
    write_run(folder, contents=samples, **options)
    for file in folder.glob("samples_*"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        each = [{**line, "filter": name} for name in filters for line in lines if line["filter"] == "none"]
        file.write_text("".join(json.dumps(line) + "\n" for line in each or lines))


def rows_of(*folders, **options):
    return make_report(folders, ReportOptions(**options)).replies.set_index("measure")


def test_every_number(tmp_path):
    write_replies(tmp_path, BASELINE)
    write_replies(tmp_path, ACT, heads=32)
    report = make_report([tmp_path])
    assert tuple(report.replies) == REPLY_COLUMNS
    rows = report.replies.set_index("measure")
    lengths = [np.array([14, 0, 3, 5, 1, 3, 2, 4]), np.array([0, 0, 3, 0, 0, 3, 0, 18])]
    for measure, sides in (("characters", lengths), ("empty", [of_side == 0 for of_side in lengths])):
        baseline, act = (np.asarray(of_side, dtype=float) for of_side in sides)
        row, expected = rows.loc[measure], paired_statistics(baseline, act)
        assert (row["n"], row["baseline"], row["act"]) == (8, baseline.mean(), act.mean())
        assert row["delta"] == pytest.approx(act.mean() - baseline.mean())
        assert (row["low"], row["high"], row["p"]) == (expected["low"], expected["high"], expected["p"])
        assert (row["baseline_median"], row["act_median"]) == (np.median(baseline), np.median(act))
    assert rows.loc["empty", ["only_baseline", "only_act"]].tolist() == [0, 4]
    assert rows.loc["empty", "p"] == pytest.approx(mcnemar([[1, 0], [4, 3]], exact=True).pvalue)
    assert rows.loc["characters", ["only_baseline", "only_act"]].isna().all()


def test_very_short_replies_have_no_counts_of_their_lengths(tmp_path):
    write_replies(tmp_path, ["a", "b", ""])
    write_replies(tmp_path, ["", "b", ""], heads=32)
    rows = rows_of(tmp_path)
    assert rows.loc["characters", ["only_baseline", "only_act"]].isna().all()
    assert rows.loc["empty", "only_act"] == 1


def test_every_row_has_its_own_numbers(tmp_path):
    """Also where some say how many examples there are, and others do not."""
    for number, shots in enumerate((None, 0)):
        recorded = {"n-shot": {} if shots is None else {"demo": shots}}
        for heads in (0, 16, 32):
            write_replies(tmp_path, ["a" * (heads + number)] * 3, heads=heads, recorded=recorded)
    for _, row in make_report([tmp_path]).replies.query("measure == 'characters'").iterrows():
        length = row["num_heads"] + (not pd.isna(row["num_fewshot"]))
        assert (row["act"], row["act_median"], row["baseline_median"]) == (length, length, length - row["num_heads"])


def test_several_replies_to_a_document_are_averaged(tmp_path):
    write_replies(tmp_path, [["a", ""], ["abc", "abcde"], ["", ""]])
    write_replies(tmp_path, [["", ""], ["abc", "a"], ["", "a"]], heads=32)
    rows = rows_of(tmp_path)
    assert rows["baseline"].to_dict() == pytest.approx({"empty": 1.5 / 3, "characters": 4.5 / 3})
    assert rows["act"].to_dict() == pytest.approx({"empty": 1.5 / 3, "characters": 2.5 / 3})
    assert rows["baseline_median"].to_dict() == {"empty": 0.5, "characters": 0.5}
    assert rows[["only_baseline", "only_act"]].isna().all().all()


def test_seeds_are_averaged(tmp_path):
    for seed, (baseline, act) in enumerate(((["a", ""], ["", ""]), (["abc", "a"], ["a", ""]))):
        options = {"shots": 2, "seed": seed, "prompt": f"seed{seed}-"}
        write_replies(tmp_path, baseline, **options)
        write_replies(tmp_path, act, heads=32, **options)
    rows = rows_of(tmp_path)
    assert set(rows["seeds"]) == {2}
    assert rows["baseline"].to_dict() == {"empty": 0.25, "characters": 1.25}
    assert rows["act"].to_dict() == {"empty": 0.75, "characters": 0.25}
    assert rows.loc["characters", "baseline_median"] == np.median([2, 0.5])


def test_documents_count_once_with_several_filters(tmp_path):
    write_replies(tmp_path, BASELINE, filters=("none", "strict"))
    write_replies(tmp_path, ACT, filters=("none", "strict"), heads=32)
    report = make_report([tmp_path])
    assert sorted(report.comparison["filter"]) == ["none", "strict"]
    assert report.replies["n"].tolist() == [8, 8]


def test_metrics_that_cannot_be_paired(tmp_path):
    """BLEU is of all documents at once; its replies are compared document by document."""
    for replies, heads in ((BASELINE, 0), (ACT, 32)):
        write_replies(tmp_path, replies, heads=heads, metric="bleu", values=[["a", "b"]] * 8, score=12.0)
    report = make_report([tmp_path])
    assert report.comparison["paired"].tolist() == [False]
    assert report.replies["n"].tolist() == [8, 8]


def test_what_is_asked_for(tmp_path):
    for task, metric in (("one", "f1"), ("other", "rouge")):
        write_replies(tmp_path, BASELINE, task=task, metric=metric)
        write_replies(tmp_path, ACT, heads=32, task=task, metric=metric)
        write_replies(tmp_path, ACT, heads=16, task=task, metric=metric)
    assert len(make_report([tmp_path]).replies) == 8
    assert set(make_report([tmp_path], ReportOptions(metrics=("rouge",))).replies["task"]) == {"other"}
    report = make_report([tmp_path], ReportOptions(patterns={"task": "one", "num_heads": "16", "metric": "f*"}))
    assert report.replies[["task", "num_heads"]].drop_duplicates().to_numpy().tolist() == [["one", 16]]


class TestWithout:
    def test_scores_are_no_replies(self, tmp_path):
        """A text that is scored as a whole has its log-likelihood where a reply would be."""
        rolling = {"arguments": {"gen_args_0": {"arg_0": "a text"}}, "resps": [["-12.5"]], "filtered_resps": ["-12.5"]}
        for heads in (0, 32):
            write_run(tmp_path, [0.5, 1.5], heads=heads, metric="f1", contents=[rolling] * 2)
        assert make_report([tmp_path]).replies.empty

    @pytest.mark.parametrize("resps", [None, [[]]])
    def test_samples_in_another_form(self, tmp_path, resps):
        write_replies(tmp_path, BASELINE)
        write_replies(tmp_path, ACT, heads=32, contents={"resps": resps})
        report = make_report([tmp_path])
        assert len(report.comparison) == 1
        assert report.replies.empty

    def test_no_samples(self, tmp_path):
        write_replies(tmp_path, BASELINE, samples=0)
        write_replies(tmp_path, ACT, heads=32)
        report = make_report([tmp_path])
        assert report.replies.empty
        assert len(report.unpaired_notes) == 1


@pytest.mark.tier("slow")
def test_what_lm_eval_wrote():
    replies = make_report([RESULTS]).replies
    assert replies["task"].tolist() == ["act_squad_v1"] * 2, "choices are no replies"
    rows = replies.set_index("measure")
    lengths = {}
    for file in sorted(RESULTS.glob("results_*.json")):
        content = json.loads(file.read_text())
        if "act_squad_v1" in content["results"]:
            samples = read_samples(file, "act_squad_v1")
            lengths[content["config"].get("act", {}).get("num_heads", 0)] = [
                len(sample["resps"][0][0].strip()) for sample in samples
            ]
    assert rows.loc["characters", ["baseline", "act"]].tolist() == pytest.approx([np.mean(lengths[0]), np.mean(lengths[32])])
    assert rows.loc["characters", "act_median"] == np.median(lengths[32])
    assert rows.loc["empty", ["baseline", "act"]].tolist() == [0, 0]


class TestTables:
    @pytest.fixture(scope="class")
    def report(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("replies")
        write_replies(folder, BASELINE)
        write_replies(folder, ACT, heads=32)
        return make_report([folder])

    def test_markdown(self, report):
        text = " ".join(markdown(report).split())
        assert "### Replies, some/model: all (32 heads)" in text
        assert "| demo | characters | 0 | 8 | 4.0 | 3.0 | -1.0 |" in text
        assert "| demo | empty | 0 | 8 | 0.125 | 0.625 | +0.500 |" in text
        assert "before lm-eval's filters" in text

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_terminal(self, report, width):
        console = Console(width=width, record=True, file=io.StringIO())
        print_tables(report, console)
        text = console.export_text().split("\nreplies\n")[1]
        assert max(map(len, text.splitlines())) <= width
        assert "0.125 0.625 +0.500" in " ".join(text.split())

    @pytest.mark.usefixtures("without_plots")
    @pytest.mark.tier("slow")
    def test_files(self, report, tmp_path):
        files = {path.name: path for path in write_report(report, tmp_path / "report")}
        pd.testing.assert_frame_equal(pd.read_csv(files["replies.csv"]), report.replies, check_dtype=False)
        content = json.loads(files["report.json"].read_text())["replies"]
        assert [row["measure"] for row in content] == ["characters", "empty"]
        assert content[0]["only_act"] is None
        assert ">Replies,</span>" in files["report.html"].read_text()
