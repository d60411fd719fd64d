"""Label priors: every number against numpy by hand, what must change nothing, and what has none."""

import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.runs import LABELS, read_samples, samples_file, write_choices, write_run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar

from act_eval.report.answers import NO_CHOICES, NO_GOLD, NOT_READABLE, OWN_CHOICES, AnswersReader
from act_eval.report.build import ReportOptions, make_report
from act_eval.report.label_priors import (
    LABEL_COLUMNS,
    LABEL_PRIOR_COLUMNS,
    LABEL_PRIOR_GROUP_COLUMNS,
    halves,
    subtract_label_priors,
)
from act_eval.report.statistics import paired_statistics
from act_eval.report.tables import latex, markdown, print_tables
from act_eval.report.write import write_report

pytestmark = pytest.mark.tier("unit")

RESULTS = Path(__file__).parents[1] / "results"


def made_up(seed, documents=41, labels=3, bias=2.0):
    """Gold labels, and log-probabilities of two runs that know something of them but prefer the first label."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, labels, documents)
    signal = 1.2 * np.eye(labels)[gold] + rng.normal(0, 0.8, (documents, labels))
    runs = [signal + rng.normal(0, 0.6, (documents, labels)) + np.eye(labels)[0] * of_run for of_run in (bias, bias / 2)]
    return gold, [-np.abs(run - 10) for run in runs]


def by_hand(scores):
    """What is predicted before and after correction, computed document by document and label by label."""
    scores = np.asarray(scores, dtype=float)
    documents, labels = scores.shape
    probabilities = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in scores.tolist()]
    second = set(np.random.default_rng(0).permutation(documents).argsort()[documents // 2 :].tolist())
    after = []
    for document in range(documents):
        others = [other for other in range(documents) if (other in second) != (document in second)]
        priors = [sum(probabilities[other][label] for other in others) / len(others) for label in range(labels)]
        corrected = [math.log(probabilities[document][label]) - math.log(priors[label]) for label in range(labels)]
        after.append(corrected.index(max(corrected)))
    before = [row.index(max(row)) for row in scores.tolist()]
    return np.array(before), np.array(after), np.mean(probabilities, axis=0)


def check_row(row, gold, baseline, act):
    """A row of the label priors of one seed against `by_hand`."""
    sides = {"baseline": by_hand(baseline), "act": by_hand(act)}
    right = {side: (after == gold).astype(float) for side, (_, after, _) in sides.items()}
    right_before = {side: (before == gold).mean() for side, (before, _, _) in sides.items()}
    assert (row["n"], row["labels"]) == (len(gold), np.shape(baseline)[1])
    for side in sides:
        assert row[side] == pytest.approx(right[side].mean())
        assert row[f"{side}_before"] == pytest.approx(right_before[side])
    assert row["delta"] == pytest.approx(right["act"].mean() - right["baseline"].mean())
    assert row["delta_before"] == pytest.approx(right_before["act"] - right_before["baseline"])
    table = [[np.sum((right["baseline"] == b) & (right["act"] == a)) for a in (1, 0)] for b in (1, 0)]
    assert [[row["both"], row["only_baseline"]], [row["only_act"], row["neither"]]] == table
    assert row["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    expected = paired_statistics(right["baseline"], right["act"])
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])


def check_labels(rows, gold, baseline, act):
    """The labels of one task and one seed against `by_hand`."""
    for side, scores in (("baseline", baseline), ("act", act)):
        before, after, probabilities = by_hand(scores)
        assert rows[f"{side}_probability"].to_numpy() == pytest.approx(probabilities)
        for when, predicted in (("before", before), ("after", after)):
            counts = np.bincount(predicted, minlength=len(rows))
            right = np.bincount(predicted[predicted == gold], minlength=len(rows))
            assert rows[f"{side}_predicted_{when}"].tolist() == counts.tolist()
            assert rows[f"{side}_right_{when}"].tolist() == right.tolist()
    assert rows["n"].tolist() == np.bincount(gold, minlength=len(rows)).tolist()


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """A folder with two tasks, and what is in their files by task."""
    tmp_path = tmp_path_factory.mktemp("two_tasks")
    made = {}
    for number, task in enumerate(("first", "second")):
        gold, runs = made_up(number, documents=41 + number)
        for heads, scores in zip((0, 32), runs, strict=True):
            write_choices(tmp_path, scores, gold, task=task, heads=heads)
        made[task] = gold, runs
    return tmp_path, made


@pytest.fixture(scope="module")
def report(two_tasks):
    return make_report([two_tasks[0]])


class TestNumbers:
    def test_two_tasks(self, two_tasks, report):
        _, made = two_tasks
        assert tuple(report.label_priors) == LABEL_PRIOR_COLUMNS
        assert tuple(report.labels) == LABEL_COLUMNS
        rows = report.label_priors.set_index("task")
        assert rows.index.tolist() == ["first", "second"]
        for task, (gold, runs) in made.items():
            check_row(rows.loc[task], gold, *runs)
            labels = report.labels[report.labels["task"] == task]
            assert labels["label"].tolist() == ["World", "Sports", "Business"]
            check_labels(labels, gold, *runs)
        assert (rows["baseline"] > rows["baseline_before"] + 0.1).all(), "the first label was preferred"
        assert report.priors.notes == ()

    def test_average(self, two_tasks, report):
        _, made = two_tasks
        (row,) = report.label_prior_groups.to_dict("records")
        assert tuple(row) == LABEL_PRIOR_GROUP_COLUMNS
        assert (row["group"], row["tasks"], row["of_tasks"], row["n"]) == ("all tasks", 2, 2, 83)
        for place, side in enumerate(("baseline", "act")):
            of_tasks = [[by_hand(runs[place])[when] == gold for gold, runs in made.values()] for when in (0, 1)]
            before, after = (np.mean([right.mean() for right in of_when]) for of_when in of_tasks)
            assert (row[f"{side}_before"], row[side]) == (pytest.approx(before), pytest.approx(after))
        assert row["delta"] == pytest.approx(row["act"] - row["baseline"])
        assert row["low"] < row["delta"] < row["high"]
        (plain,) = report.groups.to_dict("records")
        for name in ("baseline", "act", "delta", "low", "high"):
            assert row[f"{name}_before"] == plain[name]

    @pytest.mark.tier("slow")
    def test_what_lm_eval_wrote(self):
        report = make_report([RESULTS])
        rows = report.label_priors[report.label_priors["num_heads"] == 32].set_index("task")
        assert rows.index.tolist() == ["act_mmlu", "demo_sentiment", "demo_topic"]
        for task, row in rows.iterrows():
            sides = {}
            for file in sorted(RESULTS.glob("results_*.json")):
                content = json.loads(file.read_text())
                heads = content["config"].get("act", {}).get("num_heads", 0)
                if task in content["results"] and heads in (0, 32):
                    samples = sorted(read_samples(file, task), key=lambda sample: sample["doc_id"])
                    sides[heads] = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
                    gold = np.array([int(sample["target"]) for sample in samples])
            check_row(row, gold, sides[0], sides[32])
            of_task = (report.labels["task"] == task) & (report.labels["num_heads"] == 32)
            check_labels(report.labels[of_task], gold, sides[0], sides[32])
        assert report.priors.notes == (
            "No label priors of demo_choice: choices differ from document to document.",
            "No label priors of act_squad_v1: there is neither acc nor acc_norm.",
        )
        assert set(report.label_prior_groups["tasks"]) == {2}
        assert set(report.label_prior_groups["of_tasks"]) == {3}

    def test_every_row_has_its_own_numbers(self, tmp_path):
        """Also where some say how many examples or documents there are, and others do not."""
        cells = {}
        for number, (task, shots, limit) in enumerate((("b", None, 41), ("a", None, None), ("a", 0, 50), ("a", None, 41))):
            gold, runs = made_up(number, bias=number)
            cells[task, shots, limit] = gold, runs
            recorded = {"n-shot": {} if shots is None else {task: shots}}
            for heads, scores in ((0, runs[0]), (16, runs[1]), (32, runs[0][::-1])):
                options = {"recorded": recorded, "limit": limit, "context": f"{number} {limit}"}
                write_choices(tmp_path, scores, gold, task=task, heads=heads, **options)
        report = make_report([tmp_path])
        names = ["task", "num_fewshot", "limit"]
        assert len(report.label_priors) == 8
        for _, row in report.label_priors.iterrows():
            gold, (baseline, act) = cells[tuple(None if pd.isna(name) else name for name in row[names])]
            act = act if row["num_heads"] == 16 else baseline[::-1]
            check_row(row, gold, baseline, act)
            same = report.labels[[*names, "num_heads"]].astype(object).fillna("").eq(row[[*names, "num_heads"]].fillna(""))
            check_labels(report.labels[same.all(axis=1)], gold, baseline, act)

    def test_seeds_are_averaged(self, tmp_path):
        gold = made_up(0)[0]
        runs = {seed: made_up(0, bias=seed)[1] for seed in (1, 3)}
        for (seed, sides), (heads, side) in itertools.product(runs.items(), ((0, 0), (32, 1))):
            write_choices(tmp_path, sides[side], gold, heads=heads, shots=4, seed=seed, context=f"seed{seed}")
        report = make_report([tmp_path])
        (row,) = report.label_priors.to_dict("records")
        assert (row["seeds"], row["num_fewshot"], row["n"]) == (2, 4, 41)
        for place, side in enumerate(("baseline", "act")):
            means = [(by_hand(sides[place])[1] == gold).mean() for sides in runs.values()]
            assert row[side] == pytest.approx(np.mean(means))
            assert row[f"{side}_sd"] == pytest.approx(np.std(means, ddof=1))
            counts = [np.bincount(by_hand(sides[place])[0], minlength=3) for sides in runs.values()]
            assert report.labels[f"{side}_predicted_before"].tolist() == np.mean(counts, axis=0).tolist()
        assert report.labels["n"].tolist() == np.bincount(gold).tolist()
        assert any(".5 (" in line for line in markdown(report).splitlines() if "World" in line)

    @pytest.mark.parametrize(("delimiter", "labels"), [(" ", ("a", "longer", "word")), ("", (" a", " longer", " word"))])
    def test_per_character(self, tmp_path, delimiter, labels):
        """acc_norm: lengths are those that lm-eval used, with the white space that is part of the choice."""
        gold, runs = made_up(5, bias=0)
        runs = [run * 3 for run in runs]
        for heads, scores in zip((0, 32), runs, strict=True):
            metrics = ("acc", "acc_norm")
            write_choices(tmp_path, scores, gold, labels, delimiter=delimiter, metrics=metrics, heads=heads, task_config={})
        report = make_report([tmp_path])
        rows = report.label_priors.set_index("metric")
        lengths = np.array([len(label) for label in labels])
        check_row(rows.loc["acc"], gold, *runs)
        check_row(rows.loc["acc_norm"], gold, *(run / lengths for run in runs))
        assert rows["baseline"].nunique() == 2
        assert set(report.labels["label"]) == {"a", "longer", "word"}


class TestCorrection:
    def test_a_preference_is_taken_out(self):
        """A model that always says the first of three labels, and knows the right one below that."""
        gold = np.arange(60) % 3
        scores = np.eye(3)[gold] + [5, 0, 0]
        assert set(scores.argmax(axis=1)) == {0}
        assert subtract_label_priors(scores, halves(60)).argmax(axis=1).tolist() == gold.tolist()

    def test_documents_that_are_sorted_by_label(self, tmp_path):
        """Halves of one label each would leave nothing right: they are drawn at random."""
        gold = np.repeat([0, 1], 50)
        scores = np.eye(2)[gold] - 5
        (first,) = np.flatnonzero(np.diff(gold)) + 1
        wrong = subtract_label_priors(scores, np.arange(100) >= first).argmax(axis=1)
        assert subtract_label_priors(scores, halves(100)).argmax(axis=1).tolist() == gold.tolist()
        assert (wrong == gold).mean() == 1, "a clear signal survives even that"
        unsure = np.eye(2)[gold] * 0.1 + [0.3, 0] - 5
        sizes = [np.bincount(gold[halves(100) == half], minlength=2) for half in (False, True)]
        assert np.min(sizes) >= 15
        assert (subtract_label_priors(unsure, halves(100)).argmax(axis=1) == gold).all()

    @given(st.integers(2, 500))
    def test_halves(self, documents):
        second = halves(documents)
        assert second.sum() == documents - documents // 2
        assert np.array_equal(second, halves(documents))

    scores = arrays.arrays(float, st.tuples(st.integers(2, 12), st.integers(2, 5)), elements=st.floats(-50, 0, width=16))

    @given(scores, st.integers(-100, 100))
    def test_what_all_labels_of_a_document_share_changes_nothing(self, scores, shift):
        shifts = np.arange(len(scores))[:, None] * shift
        second = halves(len(scores))
        assert subtract_label_priors(scores + shifts, second) == pytest.approx(subtract_label_priors(scores, second), abs=1e-6)

    @given(scores, st.randoms())
    def test_other_orders_of_the_labels(self, scores, random):
        order = random.sample(range(scores.shape[1]), scores.shape[1])
        second = halves(len(scores))
        corrected = subtract_label_priors(scores, second)
        assert subtract_label_priors(scores[:, order], second) == pytest.approx(corrected[:, order], abs=1e-9)

    @given(scores)
    def test_no_document_corrects_itself(self, scores):
        """What a half is corrected with does not depend on that half."""
        second = halves(len(scores))
        changed = np.where(second[:, None], scores, 0.0)
        priors = [part - subtract_label_priors(part, second) for part in (log_softmax(scores), log_softmax(changed))]
        assert priors[0][~second] == pytest.approx(priors[1][~second], abs=1e-9)

    def test_tiny_probabilities(self):
        """Log-probabilities of long labels are far below what an exponential can hold."""
        gold = np.arange(40) % 2
        scores = np.eye(2)[gold] * 3 + [-2000.0, -900.0]
        assert subtract_label_priors(scores, halves(40)).argmax(axis=1).tolist() == gold.tolist()

    def test_orders_of_files_and_documents(self, two_tasks, report, tmp_path_factory):
        folder, _ = two_tasks
        other = tmp_path_factory.mktemp("other")
        for file in folder.iterdir():
            lines = file.read_text().splitlines(keepends=True)
            folder_of_file = other / str(len(file.name) % 2)
            folder_of_file.mkdir(exist_ok=True)
            (folder_of_file if file.suffix == ".json" else other).joinpath(file.name).write_text("".join(lines[::-1]))
        for file in other.glob("samples_*"):
            for results in other.rglob(f"results_*{file.stem[-26:]}.json"):
                file.rename(results.parent / file.name)
        again = make_report([other])
        pd.testing.assert_frame_equal(again.label_priors, report.label_priors)
        pd.testing.assert_frame_equal(again.labels, report.labels)


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


class TestWithout:
    """Runs without label priors are compared all the same, and the report says why."""

    def notes(self, folder, contents=None, of_act=None, **options):
        gold, runs = made_up(0)
        for heads, scores, changes in zip((0, 32), runs, (contents, of_act or contents), strict=True):
            changes = [changes(document) if changes else {} for document in range(len(gold))]
            write_choices(folder, scores, gold, heads=heads, contents=changes, **options)
        report = make_report([folder])
        assert report.comparison["task"].tolist() == ["demo"]
        assert report.label_priors.empty
        assert report.labels.empty
        assert report.label_prior_groups.empty
        return report.priors.notes

    def test_other_choices(self, tmp_path):
        def contents(document):
            endings = enumerate(("yes", "no", f"document {document}"))
            return {"arguments": {f"gen_args_{n}": {"arg_0": "p", "arg_1": text} for n, text in endings}}

        assert self.notes(tmp_path, contents) == ("No label priors of demo: choices differ from document to document.",)

    def test_other_orders_of_the_same_choices(self, tmp_path):
        def contents(document):
            endings = np.roll(LABELS, document)
            return {"arguments": {f"gen_args_{n}": {"arg_0": "p", "arg_1": text} for n, text in enumerate(endings)}}

        assert self.notes(tmp_path, contents) == ("No label priors of demo: choices differ from document to document.",)

    def test_choices_in_the_contexts(self, tmp_path):
        """Winogrande's choices stand before the same ending."""
        arguments = {f"gen_args_{n}": {"arg_0": f"context {n}", "arg_1": "the end"} for n in range(3)}
        notes = self.notes(tmp_path, lambda document: {"arguments": arguments})
        assert notes == ("No label priors of demo: choices differ from document to document.",)

    def test_one_ending(self, tmp_path):
        """LAMBADA's accuracy is of a word that is scored alone."""
        alone = {"arguments": {"gen_args_0": {"arg_0": "p", "arg_1": "word"}}, "filtered_resps": [["-1.0", "True"]]}
        assert self.notes(tmp_path, lambda document: alone) == ("No label priors of demo: no choices are scored.",)

    @pytest.mark.parametrize("target", ["-1", "[0, 1]"])
    def test_no_right_choice(self, tmp_path, target):
        def contents(document):
            return {"target": target, "acc": 0.0} if document == 7 else {}

        gold, runs = made_up(0)
        for heads, scores in zip((0, 32), runs, strict=True):
            changes = [contents(document) for document in range(len(gold))]
            values = [(s.argmax() == g) * (d != 7) for d, (s, g) in enumerate(zip(scores, gold, strict=True))]
            write_choices(tmp_path, scores, gold, heads=heads, contents=changes, score=float(np.mean(values)))
        notes = make_report([tmp_path]).priors.notes
        assert notes == ("No label priors of demo: document 7 has none or several right choices.",)

    @pytest.mark.parametrize(("value", "side"), [("-inf", "baseline"), ("nan", "act"), ("inf", "act")])
    def test_log_probabilities_that_are_not_finite(self, tmp_path, value, side):
        gold, _ = made_up(0)
        scores = [["-9.0", "False"] for _ in LABELS]
        scores[(gold[7] + 1) % 3][0] = value
        changes = [lambda document: {"filtered_resps": scores} if document == 7 else {}, lambda document: {}]
        notes = self.notes(tmp_path, *(changes if side == "baseline" else changes[::-1]))
        assert notes == (f"No label priors of demo: log-probabilities of document 7 are not finite ({side}).",)

    def test_an_accuracy_of_another_kind(self, tmp_path):
        """A task's own function may call anything acc."""
        notes = self.notes(tmp_path, lambda document: {"acc": 1.0}, score=1.0)
        assert notes == ("No label priors of demo: acc does not follow from the likeliest choice.",)

    @pytest.mark.parametrize("name", ["arguments", "filtered_resps", "target"])
    @pytest.mark.parametrize("value", [None, {}, [[]], {"a": {}}, [["x", "y"]] * 3, ...])
    def test_samples_in_another_form(self, name, value):
        requests = {f"gen_args_{n}": {"arg_0": "p", "arg_1": label} for n, label in enumerate(LABELS)}
        sample = {"arguments": requests, "filtered_resps": [["-1.5", "False"]] * 3, "target": "0"}
        reader = AnswersReader()
        reader.add(1, sample)
        assert reader.answers().choices == LABELS
        changed = {**sample, name: value}
        reader.add(2, {field: content for field, content in changed.items() if content is not ...})
        answers = reader.answers()
        if name == "target" and value is not ...:
            assert answers.gold.tolist() == [0, NO_GOLD]
        else:
            assert answers.choices == ()
            assert answers.why_no_choices in (NO_CHOICES, NOT_READABLE, OWN_CHOICES)
            assert answers.log_probabilities.empty

    def test_a_report_on_samples_in_another_form(self, tmp_path):
        gold, runs = made_up(0)
        for heads in (0, 32):  # no document changes, since these are read for their answers
            write_choices(tmp_path, runs[0], gold, heads=heads, contents=[{"arguments": None}] * len(gold))
        report = make_report([tmp_path])
        assert report.label_priors.empty
        assert report.priors.notes == (f"No label priors of demo: {NOT_READABLE}.",)

    def test_one_document(self, tmp_path):
        for heads in (0, 32):
            write_choices(tmp_path, [[-1.0, -2.0, -3.0]], np.array([0]), heads=heads)
        notes = make_report([tmp_path]).priors.notes
        assert notes == ("No label priors of demo: two documents are needed at least.",)

    def test_no_samples(self, two_tasks, tmp_path):
        gold, runs = made_up(0)
        for heads, scores in zip((0, 32), runs, strict=True):
            write_choices(tmp_path, scores, gold, heads=heads, task="lonely", samples=0)
        report = make_report([tmp_path, two_tasks[0]])
        assert report.label_priors["task"].tolist() == ["first", "second"]
        assert report.priors.notes == ("No label priors of lonely: not paired by document.",)

    def test_settings_of_which_one_has_none(self, tmp_path):
        gold, runs = made_up(0)
        write_choices(tmp_path, runs[0], gold)
        write_choices(tmp_path, runs[1], gold, heads=32)
        write_choices(tmp_path, runs[1], gold, heads=16, contents=[{"filtered_resps": [["nan", "False"]] * 3}] * 41)
        report = make_report([tmp_path])
        assert report.label_priors["num_heads"].tolist() == [32]
        (note,) = report.priors.notes
        assert note.startswith(
            "No label priors of demo (all (16 heads), beta 0.4, threshold 0.1): log-probabilities of document 0"
        )

    def test_nothing_is_said_where_no_accuracy_is_compared(self, tmp_path):
        for heads in (0, 32):
            write_run(tmp_path, [0.5, 0.25], heads=heads, metric="f1")
        report = make_report([tmp_path])
        assert report.label_priors.empty
        assert report.priors.notes == ()

    def test_other_metrics_are_asked_for(self, tmp_path):
        gold, runs = made_up(0)
        for heads, scores in zip((0, 32), runs, strict=True):
            write_choices(tmp_path, scores, gold, heads=heads, metrics=("acc", "acc_norm"))
        report = make_report([tmp_path], ReportOptions(metrics=("acc_norm",)))
        assert report.label_priors["metric"].tolist() == ["acc_norm"]
        assert set(report.labels["metric"]) == {"acc_norm"}


def test_mutual_information_adds_no_choices(tmp_path):
    gold, runs = made_up(0)
    for heads, scores in zip((0, 32), runs, strict=True):
        contents = []
        for document, row in enumerate(scores.tolist()):
            requests = [(f"p {document}", label) for label in LABELS] + [("", label) for label in LABELS]
            arguments = {f"gen_args_{n}": {"arg_0": text, "arg_1": label} for n, (text, label) in enumerate(requests)}
            contents.append({"arguments": arguments, "filtered_resps": [[str(x), "False"] for x in (*row, -1.0, -2.0, -3.0)]})
        write_choices(tmp_path, scores, gold, heads=heads, contents=contents)
    (row,) = make_report([tmp_path]).label_priors.to_dict("records")
    check_row(row, gold, *runs)


@pytest.mark.usefixtures("without_plots")
class TestFiles:
    @pytest.mark.tier("slow")
    def test_files(self, report, tmp_path):
        files = {path.name: path for path in write_report(report, tmp_path / "report")}
        for name in ("label_priors", "label_prior_groups", "labels"):
            table = getattr(report, name)
            pd.testing.assert_frame_equal(pd.read_csv(files[f"{name}.csv"]), table, check_dtype=False)
            content = json.loads(files["report.json"].read_text())[name]
            again = pd.DataFrame(content, columns=table.columns).astype(table.dtypes)
            pd.testing.assert_frame_equal(again, table)
        row = report.labels.iloc[0]
        html = " ".join(files["report.html"].read_text().split())
        text = f"{row['baseline_predicted_before']:.0f} ({row['baseline_right_before']:.0f} right)"
        width = round(8 * row["baseline_predicted_before"] / 41, 3)
        assert f'<td>{text}<span class="bar" aria-hidden="true" style="width: {width}rem"></span></td>' in html
        assert '<a href="#labels">' in html

    def test_tables(self, report):
        text = " ".join(markdown(report).split())
        row = report.label_priors.iloc[0]
        numbers = [*row[["baseline_before", "act_before", "delta_before", "baseline", "act", "delta"]]]
        shown = " | ".join(f"{number:{'+.3f' if place % 3 == 2 else '.3f'}}" for place, number in enumerate(numbers))
        assert f"| first | acc | 0 | 41 | 3 | {shown} |" in text
        assert "### After label priors are corrected, some/model: all (32 heads)" in text
        assert "### Labels, some/model" in text
        assert "| first | acc | 0 | World |" in text
        assert "batch calibration (Zhou et al., ICLR 2024)" in text
        assert r"\begin{tabular}" in latex(report).split("% After label priors are corrected, some/model")[1]

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_terminal(self, report, width):
        console = Console(width=width, record=True, file=io.StringIO())
        print_tables(report, console)
        text = console.export_text().split("after label priors are corrected\n")[1]
        assert max(map(len, text.splitlines())) <= width
        row = report.label_priors.iloc[0]
        assert f"{row['baseline']:.3f} {row['act']:.3f} {row['delta']:+.3f}" in " ".join(text.split())
        assert "all tasks" in text

    @pytest.mark.usefixtures("without_plots")
    def test_a_report_without(self, tmp_path):
        for heads in (0, 32):
            write_run(tmp_path, [0.5, 0.25], heads=heads, metric="f1")
        report = make_report([tmp_path])
        text = markdown(report)
        assert "label" not in text.lower()
        files = {path.name for path in write_report(report, tmp_path / "report")}
        assert not files & {"label_priors.csv", "label_prior_groups.csv", "labels.csv", "replies.csv"}


def test_samples_are_where_they_should_be(two_tasks):
    """The helper of this file writes what lm-eval writes."""
    folder, _ = two_tasks
    for results in folder.glob("results_*.json"):
        (task,) = json.loads(results.read_text())["results"]
        assert samples_file(results, task).is_file()
