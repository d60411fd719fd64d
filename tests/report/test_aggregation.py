"""Scores that are no means, such as perplexities: as lm-eval computes them, paired by document, or unpaired with the reason."""

import json

import jsonschema
import numpy as np
import pytest
from helpers.runs import ACT, BASELINE, write_run
from lm_eval.api.metrics import bits_per_byte, perplexity, weighted_perplexity

from act_eval.report.build import make_report
from act_eval.report.intervals import PairedDocuments
from act_eval.report.load import ReportError, load
from act_eval.report.machine_readable import schema, to_json
from act_eval.report.pairing import pair
from act_eval.report.plots import make_plots
from act_eval.report.statistics import compare, macro_averages
from act_eval.report.tables import latex, markdown
from act_eval.report.write import write_report
from act_eval.tables import interval, number, with_spread
from act_eval.task_groups import TaskGroup

pytestmark = pytest.mark.tier("unit")

FUNCTIONS = {
    "word_perplexity": weighted_perplexity,
    "byte_perplexity": weighted_perplexity,
    "bits_per_byte": bits_per_byte,
    "perplexity": perplexity,
}


def logged(seed, metric, shift=0.0, documents=40):
    """What samples hold of documents of unlike lengths: log-likelihoods, with weights but for `perplexity`."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 200, documents)
    likelihoods = (
        -weights * rng.uniform(0.5, 2.5, documents) - np.random.default_rng(7).uniform(0, 2 * shift, documents) * weights
    )
    if metric == "perplexity":
        return (likelihoods / weights).tolist()
    return [[likelihood, weight] for likelihood, weight in zip(likelihoods.tolist(), weights.tolist(), strict=True)]


def write_pair(folder, metric, draw=0, shift=0.1, **both):
    """A baseline and a calibrated run whose log-likelihoods are lower by about `shift` for each word; their values."""
    sides = [logged(draw, metric), logged(draw, metric, shift)]
    for heads, values in zip((0, 32), sides, strict=True):
        lower = {"higher_is_better": {both.get("task", "demo"): {metric: False}}}
        write_run(folder, values, heads=heads, metric=metric, score=FUNCTIONS[metric](values), recorded=lower, **both)
    return sides


@pytest.mark.parametrize("metric", FUNCTIONS)
class TestPaired:
    def test_scores_are_those_of_lm_eval(self, tmp_path, metric):
        baseline, act = write_pair(tmp_path, metric)
        (row,) = compare(pair(load([tmp_path]))).to_dict("records")
        assert (row["paired"], row["n"], row["higher_is_better"]) == (True, 40, False)
        scores = FUNCTIONS[metric](baseline), FUNCTIONS[metric](act)
        assert (row["baseline"], row["act"]) == pytest.approx(scores, rel=1e-13)
        assert row["delta"] == pytest.approx(scores[1] - scores[0], rel=1e-12)
        assert np.isnan([row["both"], row["clusters"]]).all()
        assert row["p"] == row["p_holm"]
        assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)

    def test_interval_draws_the_same_documents_for_both(self, tmp_path, metric):
        """The interval is that of drawing documents by hand, and narrow where all documents change alike."""
        baseline, act = write_pair(tmp_path, metric)
        (row,) = compare(pair(load([tmp_path]))).to_dict("records")
        rng, deltas = np.random.default_rng(5), []
        for _ in range(4000):
            drawn = rng.integers(0, 40, 40)
            deltas.append(FUNCTIONS[metric]([act[i] for i in drawn]) - FUNCTIONS[metric]([baseline[i] for i in drawn]))
        spread = np.std(deltas)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(deltas, (0.025, 0.975))), abs=0.15 * spread)
        assert row["standard_error"] == pytest.approx(spread, rel=0.06)
        apart = [FUNCTIONS[metric]([baseline[i] for i in rng.integers(0, 40, 40)]) for _ in range(500)]
        assert spread < 0.5 * np.std(apart)

    def test_swapping_negates(self, metric, tmp_path):
        sides = [np.array(logged(0, metric, shift)) for shift in (0, 0.1)]
        values, weights = zip(*((s, np.ones(40)) if s.ndim == 1 else s.T for s in sides), strict=True)
        function = {"byte_perplexity": "weighted_perplexity", "word_perplexity": "weighted_perplexity"}.get(metric, metric)
        there, back = (PairedDocuments(*pair_of, weights[0], function) for pair_of in (values, values[::-1]))
        assert there.delta == -back.delta
        ends = [np.quantile(documents.draw(3).deltas(), (0.025, 0.5, 0.975)) for documents in (there, back)]
        assert ends[0] == pytest.approx(-ends[1][::-1], abs=0.05 * np.ptp(ends[0]))

    def test_one_document(self, metric, tmp_path):
        values = logged(0, metric)[:1]
        for heads in (0, 32):
            write_run(tmp_path, values, heads=heads, metric=metric, score=FUNCTIONS[metric](values))
        (row,) = compare(pair(load([tmp_path]))).to_dict("records")
        assert row["low"] < row["delta"] == 0 < row["high"]
        assert np.isnan(row["standard_error"])

    def test_noise_of_two_baselines(self, metric, tmp_path):
        other = logged(0, metric, 0.01)
        write_run(tmp_path, other, metric=metric, score=FUNCTIONS[metric](other))
        baseline, _ = write_pair(tmp_path, metric)
        (row,) = compare(pair(load([tmp_path]))).to_dict("records")
        assert row["noise"] == pytest.approx(abs(FUNCTIONS[metric](baseline) - FUNCTIONS[metric](other)))
        assert row["noise_changed"] == 40

    def test_averages_over_tasks(self, metric, tmp_path):
        sides = [write_pair(tmp_path, metric, seed, 0.1 * seed, task=f"task{seed}") for seed in (1, 2)]
        (row,) = macro_averages(pair(load([tmp_path])), {"both": TaskGroup(("task1", "task2"))}).to_dict("records")
        means = [np.mean([FUNCTIONS[metric](of_task[side]) for of_task in sides]) for side in (0, 1)]
        assert (row["baseline"], row["act"]) == pytest.approx(means)
        assert row["delta"] == pytest.approx(means[1] - means[0])
        assert row["low"] < row["delta"] < row["high"]
        assert (row["higher_is_better"], row["n"]) == (False, 80)

    def test_seeds_are_averaged_by_document(self, metric, tmp_path):
        sides = [write_pair(tmp_path, metric, 0, 0.1 * (seed + 1), shots=2, seed=seed) for seed in (0, 1)]
        (row,) = compare(pair(load([tmp_path]))).to_dict("records")
        acts = np.array([act for _, act in sides])
        assert row["act"] == pytest.approx(FUNCTIONS[metric](acts.mean(axis=0).tolist()))
        assert row["act_sd"] == pytest.approx(np.std([FUNCTIONS[metric](act.tolist()) for act in acts], ddof=1))

    @pytest.mark.tier("slow")
    def test_every_file_copes(self, metric, tmp_path):
        write_pair(tmp_path / "runs", metric, task="texts")
        report = make_report([tmp_path / "runs"])
        write_report(report, tmp_path / "report")
        jsonschema.validate(json.loads(to_json(report)), schema())
        text = markdown(report)
        baseline, act = (f"{value:.3f}" for value in report.comparison[["baseline", "act"]].iloc[0])
        assert f"| baseline | **{baseline}** |" in " ".join(text.split()), "less is better"
        assert "Perplexities and bits per byte are computed from all documents as lm-eval does" in text
        assert rf"{act}\*" in text
        assert f"{metric.replace('_', chr(92) + '_')}" in latex(report)
        assert make_plots(report) == {}
        assert report.flips.total == 0


def test_explicit_aggregations_count(tmp_path):
    """What the task's config says of a metric, whatever it is called."""
    for heads, shift in ((0, 0), (32, 0.1)):
        values = logged(0, "bits_per_byte", shift)
        config = {"metric_list": [{"metric": "own_bits", "aggregation": "bits_per_byte"}]}
        write_run(tmp_path, values, heads=heads, metric="own_bits", score=bits_per_byte(values), task_config=config)
    (row,) = compare(pair(load([tmp_path]))).to_dict("records")
    assert (row["paired"], row["baseline"]) == (True, pytest.approx(bits_per_byte(logged(0, "bits_per_byte"))))


def test_other_weights_are_not_paired(tmp_path):
    for heads, weight in ((0, 3), (32, 4)):
        values = [[-5.0, weight], [-6.0, 2]]
        write_run(tmp_path, values, heads=heads, metric="bits_per_byte", score=bits_per_byte(values))
    pairing = pair(load([tmp_path]))
    assert pairing.values.empty
    assert "the same documents have other weights" in pairing.unpaired_notes[0]


def test_likelihoods_that_are_no_numbers(tmp_path):
    write_run(tmp_path, [[-1.0, 2], [float("-inf"), 3]], metric="bits_per_byte", score=1.0)
    with pytest.raises(ReportError, match=r"bits_per_byte of document 1 is -inf \(line 2"):
        load([tmp_path])


class TestUnpaired:
    """Scores for which samples hold no number each."""

    @pytest.mark.parametrize(
        ("metric", "values"),
        [
            ("mcc", [[0, 1], [1, 1]]),
            ("f1", [[0, 1], [1, 1]]),
            ("bleu", [["a b", "a c"], ["d", "d"]]),
            ("brier_score", [[0, [0.2, 0.8]], [1, [0.5, 0.5]]]),
            ("acc_all", [[True, {"idx": 1}], [False, {"idx": 2}]]),
        ],
    )
    def test_scores_and_the_reason_are_shown_once(self, tmp_path, metric, values):
        for heads, score in ((0, 0.25), (32, 0.5)):
            write_run(tmp_path / "runs", values, heads=heads, metric=metric, score=score)
        report = make_report([tmp_path / "runs"])
        (row,) = report.comparison.to_dict("records")
        assert (row["paired"], row["baseline"], row["act"], row["delta"], row["n"]) == (False, 0.25, 0.5, 0.25, 2)
        assert np.isnan([row["low"], row["high"], row["p"]]).all()
        text = markdown(report)
        assert text.count(f"{metric} (none) not paired by document, for lm-eval computes them from all documents at once") == 1
        assert "no samples" not in text
        assert "Not compared" not in text

    def test_beside_others_that_are_paired(self, tmp_path):
        for heads, values in ((0, BASELINE), (32, ACT)):
            write_run(tmp_path, values, heads=heads)
        for file in tmp_path.glob("samples_*"):
            samples = [{**json.loads(line), "mcc": [0, 1]} for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps({**s, "metrics": ["acc", "mcc"]}) + "\n" for s in samples))
        for file in tmp_path.glob("results_*"):
            results = json.loads(file.read_text())
            results["results"]["demo"]["mcc,none"] = 0.5
            file.write_text(json.dumps(results))
        rows = make_report([tmp_path]).comparison.set_index("metric")
        assert rows["paired"].to_dict() == {"acc": True, "mcc": False}
        assert (rows.loc["acc", "delta"], rows.loc["mcc", "delta"]) == (pytest.approx(0.15), 0)

    @pytest.mark.parametrize("aggregation", ["median", "def agg(items):\n    return items[0]\n", None])
    def test_numbers_of_which_the_score_is_no_mean(self, tmp_path, aggregation):
        config = {"metric_list": [{"metric": "acc", "aggregation": aggregation}]}
        for heads, score in ((0, 0.0), (32, 1.0)):
            write_run(tmp_path, [0.0, 0.5, 1.0], heads=heads, score=score, task_config=config)
        pairing = pair(load([tmp_path]))
        assert pairing.values.empty
        assert pairing.unpaired[["baseline", "calibrated"]].to_numpy().tolist() == [[0.0, 1.0]]
        assert "lm-eval's scores are not the mean of the numbers in the samples" in pairing.unpaired_notes[0]

    def test_a_function_that_is_a_mean_is_paired(self, tmp_path):
        config = {"metric_list": [{"metric": "acc", "aggregation": "def agg(items):\n    return sum(items) / len(items)\n"}]}
        for heads, values in ((0, BASELINE), (32, ACT)):
            write_run(tmp_path, values, heads=heads, task_config=config)
        assert len(pair(load([tmp_path])).values) == 100

    def test_means_without_what_is_missing(self, tmp_path):
        config = {"metric_list": [{"metric": "acc", "aggregation": "nanmean"}]}
        for heads in (0, 32):
            write_run(tmp_path, [1.0, float("nan")], heads=heads, score=1.0, task_config=config)
        (note,) = make_report([tmp_path]).unpaired_notes
        assert "acc (none) not paired by document" in note


class TestPredictOnly:
    def write(self, folder, **run):
        """As lm-eval does: samples that name no metric, and no score."""
        config = {"metric_list": [{"metric": "bypass"}], "process_results": "process_results"}
        date = write_run(folder, [1.0, 0.0], task_config=config, **run)
        (file,) = folder.glob(f"results_{date}.json")
        results = json.loads(file.read_text())
        results["results"] = {"demo": {"alias": "demo"}}
        file.write_text(json.dumps(results))
        (file,) = folder.glob(f"samples_demo_{date}.jsonl")
        file.write_text("".join(json.dumps({**json.loads(line), "metrics": []}) + "\n" for line in file.open()))
        return date

    def test_it_is_said_and_does_not_count(self, tmp_path):
        write_run(tmp_path, [1.0, 0.0])
        write_run(tmp_path, [1.0, 1.0], heads=32)
        date = self.write(tmp_path, heads=32)
        report = make_report([tmp_path])
        assert report.comparison["delta"].tolist() == [0.5]
        (note,) = report.notes
        assert f"the run of {date} was made with --predict_only and has no scores: run it without" in note

    def test_where_there_is_nothing_else(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(ReportError, match=r"^demo .* was made with --predict_only and has no scores: run it without"):
            make_report([tmp_path])
        self.write(tmp_path, heads=32)
        with pytest.raises(ReportError, match=r"^nothing can be compared:\ndemo .*--predict_only.*\ndemo .*--predict_only"):
            make_report([tmp_path])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(848598558.3, ".3f"), "8.486e+08"),
        (number(-848598558.3, "+.3f"), "-8.486e+08"),
        (number(99999.0, ".3f"), "99999.000"),
        (number(1234567, ".0f"), "1234567"),
        (number(float("inf"), ".3f"), "inf"),
        (interval(-1.0, 2e9), "-1.000 to +2.000e+09"),
        (with_spread(1e9, 2e8, ".3f"), "1.000e+09 ± 2.000e+08"),
    ],
)
def test_astronomical_numbers_fit_into_columns(text, expected):
    assert text == expected
