"""What a report says of studies, from files as lm-eval writes them: controls, label priors, which runs are a study's own."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers.runs import ACT, BASELINE, samples_file, write_choices, write_run
from helpers.studies import asked, options_of, write_a_study, write_record
from scipy import stats

from act_eval.planned_runs import PlannedRun, add_planned_runs
from act_eval.report.build import ReportOptions, make_report
from act_eval.report.power import (
    TaskDocuments,
    detectable_average,
    detectable_difference,
    expected_discordance,
    needed_documents_of_average,
)
from act_eval.report.statistics import paired_statistics
from act_eval.report.study import allowing_for_sets
from act_eval.study_record import ALL, FOUND, SWITCHED_OFF, random_variant
from act_eval.study_record import BASELINE as PLAIN

pytestmark = pytest.mark.tier("unit")

BETTER = [1.0] * 80 + [0.0] * 20
WORSE = [1.0] * 40 + [0.0] * 60


def of_both_tasks(**values):
    return {(variant, task): of_run for variant, of_run in values.items() for task in ("a", "b")}


def tables(*folders):
    return [findings.table.set_index("task") for findings in make_report(list(folders)).studies]


def test_later_runs_of_other_heads_are_not_the_heads_found(tmp_path):
    """As where weights changed, heads were searched for anew, and the weights are those of before again."""
    values = of_both_tasks(**{FOUND: ACT, PLAIN: BASELINE, ALL: BETTER})
    write_a_study(tmp_path, values)
    (before,) = make_report([tmp_path]).studies
    for task in ("a", "b"):
        options = options_of(FOUND, task)
        other = {**options["config"]["act"], "profile_hash": "1" * 16, "text": "heads_found.json 9999abcd (4 heads), beta 0.4"}
        write_run(tmp_path, WORSE, **{**options, "config": {"act": other}})
    (after,) = make_report([tmp_path]).studies
    pd.testing.assert_frame_equal(before.table, after.table)
    assert before.verdict == after.verdict
    write_record(tmp_path, values, profile_hash="2" * 16)
    (none,) = make_report([tmp_path]).studies
    assert none.verdict is None
    assert none.table["delta"].isna().all()


def test_of_two_studies_that_are_alike_the_earlier_one_has_no_verdict(tmp_path):
    """A report has the newest of runs that are alike, which are not its own."""
    for folder, found in (("earlier", ACT), ("later", BETTER)):
        write_a_study(tmp_path / folder, of_both_tasks(**{FOUND: found, PLAIN: BASELINE, ALL: ACT}))
    (of_later,) = [found for found in make_report([tmp_path]).studies if found.verdict is not None]
    assert of_later.table.set_index("task").loc["average", "found"] == pytest.approx(np.mean(BETTER))


def test_studies_of_one_model_with_other_shots_do_not_mix(tmp_path):
    for folder, shots, of_all in ((tmp_path / "0", 0, BETTER), (tmp_path / "5", 5, WORSE)):
        write_a_study(folder, of_both_tasks(**{FOUND: ACT, PLAIN: BASELINE, ALL: of_all}), shots)
    alone = [tables(folder)[0] for folder in (tmp_path / "0", tmp_path / "5")]
    together = tables(tmp_path / "0", tmp_path / "5")
    assert [table.loc["average", "all_heads_delta"] for table in alone] == pytest.approx([0.2, -0.2])
    for of_both, of_one in zip(together, alone, strict=True):
        pd.testing.assert_frame_equal(of_both, of_one)


def test_further_runs_of_the_same_settings_are_not_the_studys(tmp_path):
    """With another seed, which would be averaged with the study's own."""
    values = of_both_tasks(**{FOUND: ACT, PLAIN: BASELINE, ALL: BETTER})
    write_a_study(tmp_path / "study", values, shots=5)
    (alone,) = tables(tmp_path / "study")
    for (variant, task), _ in values.items():
        options = {**options_of(variant, task, 5), "seed": 42, "recorded": {}}
        write_run(tmp_path / "more", BASELINE if variant == PLAIN else WORSE, **options)
    (beside,) = tables(tmp_path / "study", tmp_path / "more")
    pd.testing.assert_frame_equal(beside, alone)


@pytest.mark.parametrize("finished", [(), ("baseline",), ("baseline", "ACT")])
def test_a_comparison_in_the_folder_of_a_study_is_not_the_studys(tmp_path, finished):
    """It asks for other documents, and was stopped, or not."""
    random = {random_variant(1): ACT, random_variant(2): BASELINE}
    write_a_study(tmp_path, of_both_tasks(**{FOUND: ACT, PLAIN: BASELINE, ALL: BETTER, SWITCHED_OFF: WORSE, **random}))
    (alone,) = make_report([tmp_path]).studies
    assert alone.verdict is not None

    def asked_by_compare(variant):
        return {**asked(PLAIN if variant == "baseline" else ALL, "a"), "limit": 10}

    variants = ("ACT", "baseline")
    runs = [PlannedRun(variant, "a", 1234, asked_by_compare(variant), "compare") for variant in variants]
    add_planned_runs(runs, tmp_path)
    for variant in finished:
        options = options_of(PLAIN if variant == "baseline" else ALL, "a")
        options |= {"limit": 10, "recorded": {"act_eval_run": {"asked": asked_by_compare(variant)}}}
        write_run(tmp_path, (BASELINE if variant == "baseline" else WORSE)[:10], **options)
    report = make_report([tmp_path])
    (beside,) = report.studies
    assert beside.verdict == alone.verdict
    pd.testing.assert_frame_equal(beside.table, alone.table)
    assert (report.unfinished is None) == (len(finished) == 2)


@pytest.mark.parametrize(
    "missing",
    [
        [(random_variant(1), "b"), (random_variant(2), "b"), (SWITCHED_OFF, "a"), (SWITCHED_OFF, "b")],
        [(random_variant(2), "a"), (random_variant(2), "b")],
        [(random_variant(1), "a"), (random_variant(2), "b")],
        [(FOUND, "b")],
    ],
)
def test_a_study_that_is_not_finished_has_the_rows_that_it_can_have(tmp_path, missing):
    of_variants = {FOUND: ACT, PLAIN: BASELINE, ALL: BETTER, SWITCHED_OFF: WORSE}
    values = of_both_tasks(**of_variants, **{random_variant(1): ACT, random_variant(2): WORSE})
    write_a_study(tmp_path, values, missing=missing)
    (findings,) = make_report([tmp_path]).studies
    assert findings.verdict is None
    table = findings.table.set_index("task")
    assert pd.notna(table.loc["a", "delta"])
    for task in ("a", "b"):
        sets = [random_variant(number) for number in (1, 2) if (random_variant(number), task) not in missing]
        assert (table.loc[task, "random_sets"] if sets else 0) == len(sets)
        has_both = len(sets) == 2 and (FOUND, task) not in missing
        assert pd.notna(table.loc[task, "beyond_random_delta"]) == has_both


def test_power_is_that_of_what_decides(tmp_path):
    """The interval of the average that a verdict is about, also where that is of one task, of which the test decides."""
    values = {(FOUND, "a"): BETTER, (PLAIN, "a"): BASELINE, (ALL, "a"): ACT}
    write_a_study(tmp_path, values)
    changed = int((np.array(BETTER) != np.array(BASELINE)).sum())
    documents = TaskDocuments(100, expected_discordance(changed, 100))
    table = tables(tmp_path)[0]
    assert table.loc["average", "detectable"] == pytest.approx(detectable_average([documents]))
    assert table.loc["average", "n_for_one_point"] == needed_documents_of_average(0.01, [documents])
    assert table.loc["a", "detectable"] == pytest.approx(detectable_difference(100, documents.discordance))
    assert table.loc["a", "detectable"] != pytest.approx(table.loc["average", "detectable"], rel=0.01)


@pytest.mark.parametrize("patterns", [{"settings": "all heads*"}, {"num_heads": "32"}])
def test_heads_that_were_found_and_are_not_in_the_report_give_no_verdict(tmp_path, patterns):
    write_a_study(tmp_path, of_both_tasks(**{FOUND: ACT, PLAIN: BASELINE, ALL: BETTER}))
    assert make_report([tmp_path]).studies[0].verdict.outcome == "helps, but no random heads were compared"
    (findings,) = make_report([tmp_path], ReportOptions(patterns=patterns)).studies
    assert findings.verdict is None


def test_lost_samples_of_the_heads_found_give_no_verdict(tmp_path):
    write_a_study(tmp_path, of_both_tasks(**{PLAIN: BASELINE, ALL: BETTER, FOUND: ACT}))
    file = sorted(tmp_path.glob("results_*.json"))[-1]
    samples_file(file, "b").unlink()
    (findings,) = make_report([tmp_path]).studies
    assert findings.verdict is None


def test_the_interval_of_random_heads_allows_for_their_being_drawn(tmp_path):
    """By hand: the variance over documents and that of the mean over sets, with Welch's degrees of freedom."""
    rng = np.random.default_rng(1)
    drawn = {random_variant(number): (rng.random(100) < 0.5 + 0.1 * number).astype(float).tolist() for number in (1, 2, 3)}
    values = {(variant, "a"): of_run for variant, of_run in {FOUND: BETTER, PLAIN: BASELINE, **drawn}.items()}
    write_a_study(tmp_path, values)
    row = tables(tmp_path)[0].loc["a"]
    deltas = [np.mean(of_set) - np.mean(BASELINE) for of_set in drawn.values()]
    mean = np.mean(list(drawn.values()), axis=0)
    for prefix, (before, after) in {"random": (BASELINE, mean), "beyond_random": (mean, BETTER)}.items():
        over_documents = paired_statistics(np.array(before), np.array(after))
        of_documents = ((over_documents["high"] - over_documents["low"]) / 2 / 1.959964) ** 2
        of_sets = np.var(deltas, ddof=1) / 3
        freedom = (of_documents + of_sets) ** 2 / (of_sets**2 / 2)
        half = stats.t.ppf(0.975, freedom) * math.sqrt(of_documents + of_sets)
        low, delta, high = row[[f"{prefix}_low", f"{prefix}_delta", f"{prefix}_high"]]
        assert delta == pytest.approx(over_documents["delta"], abs=1e-12)
        assert (high - low) / 2 == pytest.approx(half, rel=1e-6)
        assert low < over_documents["low"] < over_documents["high"] < high


def test_that_interval_covers_the_difference_from_all_sets_that_could_be_drawn():
    rng = np.random.default_rng(0)
    covered, only_documents = [], []
    for _ in range(4000):
        deltas = rng.normal(0.0, 0.012, 3)
        delta = rng.normal(0.0, 0.009) - deltas.mean()
        over_documents = {"delta": delta, "low": delta - 1.96 * 0.009, "high": delta + 1.96 * 0.009}
        found = allowing_for_sets(over_documents, deltas)
        covered.append(found["low"] <= 0 <= found["high"])
        only_documents.append(over_documents["low"] <= 0 <= over_documents["high"])
    assert 0.94 < np.mean(covered) < 0.99
    assert np.mean(only_documents) < 0.9


def test_sets_that_do_not_differ_leave_the_interval_as_it_is():
    over_documents = {"delta": 0.02, "low": -0.01, "high": 0.06}
    assert allowing_for_sets(over_documents, [0.1, 0.1]) == pytest.approx(over_documents)
    assert allowing_for_sets(over_documents, [0.1]) == {}


def scores_of(seed, gold, preference, skill):
    """Log-probabilities of three labels, of a model that prefers the first one, and knows something."""
    noise = np.random.default_rng(seed).normal(size=(len(gold), 3))
    noise[:, 0] += preference
    noise[np.arange(len(gold)), gold] += skill
    return noise


def choices_of_their_own(documents):
    """What samples hold of choices that differ from document to document."""
    return [
        {"arguments": {f"gen_args_{choice}": {"arg_0": "p", "arg_1": f" {document} {choice}"} for choice in range(2)}}
        for document in range(documents)
    ]


def test_label_priors_of_one_of_two_tasks(tmp_path):
    """Task `a` has label priors, which ACT shifts; task `b` has none."""
    gold = np.random.default_rng(0).integers(0, 3, 120)
    for variant, preference in ((PLAIN, 2.5), (FOUND, 0.2)):
        write_choices(tmp_path, scores_of(1, gold, preference, 1.0), gold, **options_of(variant, "a"))
        values = BASELINE if variant == PLAIN else ACT
        write_run(tmp_path, values, contents=choices_of_their_own(len(values)), **options_of(variant, "b"))
    write_record(tmp_path, [(variant, task) for variant in (PLAIN, FOUND) for task in ("a", "b")])
    report = make_report([tmp_path])
    (findings,) = report.studies
    table = findings.table.set_index("task")
    row, average = table.loc["a"], table.loc["average"]
    (priors,) = report.label_priors.to_dict("records")
    assert row["corrected_delta"] == priors["delta"]
    assert row["correction_delta"] == pytest.approx(priors["baseline"] - priors["baseline_before"])
    assert row["lost_delta"] == pytest.approx(priors["delta_before"] - priors["delta"])
    before, after = report.priors.before.sort_values("doc_id"), report.priors.after.sort_values("doc_id")
    correction = paired_statistics(before["baseline"].to_numpy(), after["baseline"].to_numpy())
    assert [row["correction_low"], row["correction_high"]] == [correction["low"], correction["high"]]
    left, raw = ((of_both["calibrated"] - of_both["baseline"]).to_numpy() for of_both in (after, before))
    lost = paired_statistics(left, raw)
    assert [row["lost_low"], row["lost_high"]] == [lost["low"], lost["high"]]
    assert row["lost_low"] > 0
    assert average["overall_delta"] == pytest.approx((row["corrected_delta"] + table.loc["b", "delta"]) / 2)
    assert average["lost_delta"] == pytest.approx(average["delta"] - average["overall_delta"])
    assert average["correction_delta"] == row["correction_delta"]
    assert table.loc["b", ["corrected_delta", "correction_delta", "overall_delta", "lost_delta"]].isna().all()
    said = findings.verdict.sentences[1]
    assert said.startswith("Correcting label priors alone changes the baseline on 1 of 2 tasks by ")
    assert "and over all tasks" in said
