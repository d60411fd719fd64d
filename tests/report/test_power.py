"""Power: against an enumeration of all outcomes, statsmodels' formula, and simulated samples with a known difference."""

import itertools
import math

import numpy as np
import pytest
from helpers.runs import ACT, BASELINE, write_run
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower, normal_sample_size_one_tail

from act_eval.report.build import make_report
from act_eval.report.intervals import UNSEEN, unseen_of_tasks
from act_eval.report.power import (
    TaskDocuments,
    average_power,
    detectable_average,
    detectable_difference,
    expected_discordance,
    mcnemar_power,
    needed_documents,
    needed_documents_of_average,
)

pytestmark = pytest.mark.tier("unit")


class TestMcNemar:
    @pytest.mark.parametrize(("difference", "discordance"), [(0.2, 0.3), (-0.2, 0.3), (0.1, 0.4), (0.25, 0.25)])
    def test_power_sums_all_outcomes_that_are_significant(self, difference, discordance):
        n, power = 30, 0.0
        gains, loses = (discordance + difference) / 2, (discordance - difference) / 2
        for gained, lost in itertools.product(range(n + 1), repeat=2):
            if gained + lost > n or (gained - lost) * difference <= 0:
                continue
            if mcnemar([[0, lost], [gained, 0]], exact=True).pvalue < 0.05:
                counts = [gained, lost, n - gained - lost]
                power += stats.multinomial.pmf(counts, n, [gains, loses, 1 - gains - loses])
        assert mcnemar_power(difference, n, discordance) == pytest.approx(power, rel=1e-6)

    @pytest.mark.parametrize(("n", "discordance"), [(500, 0.1), (2000, 0.05), (5000, 0.2)])
    def test_it_is_near_the_normal_formula_where_many_documents_change(self, n, discordance):
        difference = detectable_difference(n, discordance)
        spread = math.sqrt(discordance - difference**2)
        expected = normal_sample_size_one_tail(difference, 0.8, 0.025, math.sqrt(discordance), spread)
        assert expected == pytest.approx(n, rel=0.1)
        assert expected < n  # the exact test asks for more
        assert needed_documents(difference, discordance) == pytest.approx(n, rel=0.01)

    @pytest.mark.parametrize(("n", "discordance"), [(50, 0.3), (200, 0.03), (200, 0.1), (1000, 0.05)])
    def test_simulated_samples_are_significant_as_often_as_promised(self, n, discordance):
        difference = detectable_difference(n, discordance)
        changed = max(discordance, difference)
        shares = [(changed + difference) / 2, (changed - difference) / 2, 1 - changed]
        samples = np.random.default_rng(0).multinomial(n, shares, size=5000)
        cells, often = np.unique(samples[:, :2], axis=0, return_counts=True)
        p = [mcnemar([[0, lost], [gained, 0]], exact=True).pvalue if gained > lost else 1.0 for gained, lost in cells]
        found = often[np.array(p) < 0.05].sum() / 5000
        assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 5000))

    @pytest.mark.parametrize(("difference", "discordance"), [(0.01, 0.015), (0.01, 0.1), (0.02, 0.01), (0.05, 0.5)])
    def test_as_many_documents_suffice_and_one_less_does_not(self, difference, discordance):
        n = needed_documents(difference, discordance)
        assert mcnemar_power(difference, n, discordance) >= 0.8
        assert mcnemar_power(difference, n - 1, discordance) < 0.8
        assert detectable_difference(n, discordance) == pytest.approx(difference, rel=0.02)

    def test_more_changes_blur_and_more_documents_and_less_power_help(self):
        by_discordance = [detectable_difference(200, discordance) for discordance in (0.05, 0.1, 0.2, 0.4)]
        assert by_discordance == sorted(by_discordance)
        by_size = [detectable_difference(n, 0.1) for n in (20, 56, 200, 2000)]
        assert by_size == sorted(by_size, reverse=True)
        assert detectable_difference(200, 0.1, power=0.5) < by_discordance[1] < detectable_difference(200, 0.1, level=0.01)

    def test_a_difference_beyond_the_discordance_takes_changes_one_way(self):
        """By hand: of 20 documents, 6 or more must change, all one way."""
        difference = detectable_difference(20, 0.01)
        assert stats.binom.sf(5, 20, difference) == pytest.approx(0.8, abs=1e-5)

    def test_fewer_than_six_documents_show_nothing(self):
        assert math.isnan(detectable_difference(5, 0.5))
        assert detectable_difference(6, 0.5) == pytest.approx(0.8 ** (1 / 6), abs=1e-5)

    def test_no_difference(self):
        assert mcnemar_power(0.0, 100, 0.1) <= 0.025
        with pytest.raises(ValueError, match="difference of 0"):
            needed_documents(0.0, 0.1)
        assert math.isnan(needed_documents(1e-5, 0.5))
        assert math.isnan(needed_documents_of_average(0.01, [TaskDocuments(20, 0.5), TaskDocuments(1_000_000, 0.5)]))

    def test_discordance_is_the_mean_of_its_posterior(self):
        assert expected_discordance(0, 50) == pytest.approx(stats.beta(2 * UNSEEN, 50).mean())
        assert expected_discordance(4, 50) == pytest.approx(stats.beta(4 + 2 * UNSEEN, 46).mean())


def found_in_samples(tasks, weights, difference, samples=1500, draws=500):
    """How many of some samples have an interval above zero; drawn here from Dirichlet posteriors."""
    rng = np.random.default_rng(0)
    unseen = unseen_of_tasks([task.n for task in tasks], weights)
    drawn = 0.0
    for number, task in enumerate(tasks):
        changed = max(task.discordance, difference)
        shares = [(changed + difference) / 2, (changed - difference) / 2, 1 - changed]
        counts = rng.multinomial(task.n, shares, size=samples)
        parameters = counts + np.array([unseen[number], unseen[number], 1e-9])
        parts = rng.standard_gamma(parameters[:, np.newaxis], size=(samples, draws, 3))
        drawn = drawn + weights[number] * (parts[..., 0] - parts[..., 1]) / parts.sum(axis=2)
    return (np.quantile(drawn, 0.025, axis=1) > 0).mean()


class TestAverages:
    @pytest.mark.tier("slow")
    @pytest.mark.parametrize(
        ("sizes", "discordance", "by_size"),
        [([100] * 3, 0.1, False), ([56] + [200] * 6, 0.05, False), ([20, 200, 500], 0.2, True), ([200] * 7, 0.02, False)],
    )
    def test_simulated_intervals_leave_out_zero_as_often_as_promised(self, sizes, discordance, by_size):
        tasks = [TaskDocuments(n, discordance) for n in sizes]
        weights = np.array(sizes) / sum(sizes) if by_size else np.full(len(sizes), 1 / len(sizes))
        found = found_in_samples(tasks, weights, detectable_average(tasks, weights))
        assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 1500))

    @pytest.mark.tier("slow")
    def test_it_promises_too_little_where_a_small_task_hides_changes(self):
        """Equal weights for 20 and for 500 documents: what may be unseen in the small task is as wide as the difference."""
        tasks = [TaskDocuments(20, 0.05), TaskDocuments(500, 0.05)]
        assert 0.8 < found_in_samples(tasks, np.array([0.5, 0.5]), detectable_average(tasks)) < 0.97

    def test_equal_tasks_are_as_one_task(self):
        ten, one = [TaskDocuments(100, 0.1)] * 10, [TaskDocuments(1000, 0.1)]
        assert detectable_average(ten) == pytest.approx(detectable_average(one))
        assert detectable_average(one) == pytest.approx(detectable_difference(1000, 0.1), rel=0.1)
        assert needed_documents_of_average(0.01, ten) == pytest.approx(needed_documents_of_average(0.01, one), abs=10)

    def test_of_other_scores_it_is_the_normal_formula(self):
        """statsmodels: standard deviation 0.3 of differences of many documents, and of an average with a second task."""
        difference = detectable_average([TaskDocuments(200_000, variance=0.09)])
        assert normal_sample_size_one_tail(difference, 0.8, 0.025, 0.3) == pytest.approx(200_000, rel=1e-4)
        assert needed_documents_of_average(difference, [TaskDocuments(50, variance=0.09)]) == pytest.approx(200_000, abs=50)
        both = [TaskDocuments(200_000, variance=0.09), TaskDocuments(100_000, variance=0.04)]
        spread = math.sqrt(0.25 * (0.09 / 200_000 + 0.04 / 100_000))
        assert normal_sample_size_one_tail(detectable_average(both), 0.8, 0.025, spread) == pytest.approx(1, rel=1e-4)
        assert detectable_average(both, [0.5, 0.5]) == detectable_average(both)

    @pytest.mark.parametrize(("n", "more"), [(5, 1.2), (20, 1.04), (200, 1.005)])
    def test_of_few_other_scores_it_is_that_of_student(self, n, more):
        """statsmodels; and a little more, since the interval is that much wider."""
        student = 0.3 * TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
        assert student < detectable_average([TaskDocuments(n, variance=0.09)]) < more * student

    def test_mixed_with_outcomes(self):
        tasks = [TaskDocuments(200, variance=0.09), TaskDocuments(100, 0.04)]
        difference = detectable_average(tasks)
        spread = math.sqrt(0.25 * (0.09 / 200 + (0.04 - min(0.04, difference) ** 2) / 100))
        assert difference <= 0.04 + 0.02
        assert difference == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * spread, rel=0.1)

    def test_large_numbers(self):
        """Perplexities may be in the thousands."""
        difference = detectable_average([TaskDocuments(10**6, variance=1e12)])
        assert difference == pytest.approx(1e3 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)), rel=1e-5)

    def test_as_many_documents_suffice(self):
        tasks = [TaskDocuments(56, 0.05), TaskDocuments(200, 0.1)]
        n = needed_documents_of_average(0.02, tasks)
        grown = [TaskDocuments(math.ceil(task.n * n / 256), task.discordance) for task in tasks]
        fewer = [TaskDocuments(math.ceil(task.n * (n - 1) / 256), task.discordance) for task in tasks]
        assert average_power(0.02, grown) >= 0.8 > average_power(0.02, fewer)

    def test_nothing_changes(self):
        assert average_power(0.0, [TaskDocuments(100)]) <= 0.025
        assert detectable_average([TaskDocuments(100)]) < 0.1


class TestReport:
    def test_columns(self, tmp_path):
        """Of a task with 10 documents lost and 25 gained, of one without a change, and of scores that are not 0 or 1."""
        half = [0.5] * 50
        for heads, demo, other in ((0, BASELINE, [1.0] * 50), (32, ACT, [1.0] * 50)):
            write_run(tmp_path, demo, heads=heads)
            write_run(tmp_path, other, heads=heads, task="same")
            write_run(tmp_path, half if heads else [0.4, 0.6] * 25, heads=heads, task="f1", metric="f1")
        report = make_report([tmp_path])
        rows = report.comparison.set_index("task")
        assert rows["interval"].to_dict() == {"demo": "posterior", "same": "posterior", "f1": "bootstrap"}
        for task, n, changed in (("demo", 100, 35), ("same", 50, 0)):
            discordance = (changed + 1.6) / (n + 1.6)
            assert rows.loc[task, "detectable"] == pytest.approx(detectable_difference(n, discordance))
            assert rows.loc[task, "n_for_one_point"] == needed_documents(0.01, discordance)
        (average,) = report.groups.to_dict("records")
        unseen = 1.6 * np.array([1 / 100, 1 / 50]) / (1 / 100 + 1 / 50)
        tasks = [TaskDocuments(100, (35 + unseen[0]) / (100 + unseen[0])), TaskDocuments(50, unseen[1] / (50 + unseen[1]))]
        assert average["detectable"] == pytest.approx(detectable_average(tasks))
        assert average["n_for_one_point"] == needed_documents_of_average(0.01, tasks)
        spread = (rows.loc["f1", "high"] - rows.loc["f1", "low"]) / (2 * stats.norm.ppf(0.975))
        assert rows.loc["f1", "detectable"] == pytest.approx(2.80 * spread, rel=0.1)
        assert rows.loc["f1", "n_for_one_point"] == pytest.approx(50 * (2.80 * spread / 0.01) ** 2, rel=0.2)

    def test_scores_without_points(self, tmp_path):
        for heads, shift in ((0, 0.0), (32, 0.5)):
            values = [-3.0 - shift, -5.0, -4.0 + shift, -6.0 - shift]
            write_run(tmp_path, values, heads=heads, metric="perplexity", score=math.exp(-np.mean(values)))
        (row,) = make_report([tmp_path]).comparison.to_dict("records")
        assert row["detectable"] > 0
        assert row["n_for_one_point"] is None or math.isnan(row["n_for_one_point"])
