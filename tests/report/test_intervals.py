"""Intervals of paired differences: what they are, and how often they hold the true difference.

Coverage of single tasks is exact: the probabilities of all outcomes are summed, over the intervals themselves where documents
are few, and over the same posterior, computed here by quadrature, where they are many. That of averages is simulated.
"""

import itertools

import numpy as np
import pytest
from helpers.thorough import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from act_eval.report import intervals
from act_eval.report.intervals import (
    DRAWS,
    UNSEEN,
    PairedDocuments,
    average_deltas,
    interval_of,
    kind_of_average,
    unseen_of_tasks,
)
from act_eval.report.statistics import paired_statistics

pytestmark = pytest.mark.tier("unit")

LEAST, MOST = 0.93, 0.98
ENOUGH = 5  # expected changes, from which on coverage is below `MOST`; where fewer are expected, honest intervals cover more
SPLITS = (1.0, 0.75, 0.5)  # shares of changed documents that are gained
SHARES_CHANGED = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def outcomes(gained, lost, n):
    """Baseline and ACT of n documents, of which some are gained and some lost; the others are wrong in both."""
    baseline, act = np.zeros(n), np.zeros(n)
    act[:gained] = 1
    baseline[gained : gained + lost] = 1
    return baseline, act


def documents(baseline, act, **more):
    return PairedDocuments(np.asarray(baseline, float), np.asarray(act, float), np.ones(len(act)), **more)


def posterior(gained, lost, n, nodes=24):
    """The probability of a difference below some value, as a function of it, for posteriors of gained, lost and unchanged.

    The share that changes has a beta distribution, and so has the share of these that are gained, independently. Counts may be
    arrays `[samples]`.
    """
    positions, weights = np.polynomial.legendre.leggauss(nodes)
    gained, lost = (np.asarray(counts, float)[..., np.newaxis] for counts in (gained, lost))
    changed = special.betaincinv(gained + lost + 2 * UNSEEN, np.maximum(n - gained - lost, 1e-9), (positions + 1) / 2)

    def below(difference):
        gains = np.clip((1 + difference / changed) / 2, 0, 1)
        return special.betainc(gained + UNSEEN, lost + UNSEEN, gains) @ (weights / 2)

    return below


def all_outcomes(n, gains, loses):
    """Numbers of gained and lost documents that are not negligible, and their probabilities."""
    ranges = (
        np.arange(int(stats.binom.ppf(1e-8, n, p)), int(stats.binom.isf(1e-8, n, p)) + 1) if p else [0] for p in (gains, loses)
    )
    gained, lost = (axis.ravel() for axis in np.meshgrid(*ranges))
    counts = np.stack([gained, lost, n - gained - lost], axis=1)
    probabilities = stats.multinomial.pmf(counts, n, [gains, loses, 1 - gains - loses])
    kept = (counts[:, 2] >= 0) & (probabilities > 1e-8)
    return gained[kept], lost[kept], probabilities[kept]


def check_coverage(coverage, expected, about, error=0.0):
    assert coverage >= LEAST - error, about
    assert coverage <= MOST + error or expected < ENOUGH, about


class TestPosterior:
    @pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 100), (1, 0, 56), (4, 0, 200), (3, 5, 20), (30, 12, 500)])
    def test_ends_are_quantiles_of_the_dirichlet_posterior(self, gained, lost, n):
        """Draws are off by less than a hundredth of the width."""
        below = posterior(gained, lost, n, nodes=100)
        low, high = (optimize.brentq(lambda difference, q=q: below(difference) - q, -1, 1) for q in (0.025, 0.975))
        row = paired_statistics(*outcomes(gained, lost, n))
        assert row["interval"] == "posterior"
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.03 * (high - low))
        coarse = posterior(gained, lost, n)
        assert (coarse(low), coarse(high)) == pytest.approx((0.025, 0.975), abs=0.001)

    def test_without_a_change_it_is_as_wide_as_the_rule_of_three_says(self):
        for n in (20, 100, 2000):
            row = paired_statistics(*outcomes(0, 0, n))
            assert row["delta"] == 0
            assert 2 / n < -row["low"] < 3.2 / n
            assert 2 / n < row["high"] < 3.2 / n

    @examples(10)
    @given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
    def test_it_holds_the_difference_and_stays_inside_what_can_be(self, n, gained, lost):
        gained, lost = min(gained, n), min(lost, max(0, n - gained))
        row = paired_statistics(*outcomes(gained, lost, n))
        assert -1 <= row["low"] <= row["delta"] <= row["high"] <= 1
        assert row["low"] < row["high"]

    def test_only_changes_count(self):
        """Documents that both have right tell as much as those that none has."""
        baseline, act = outcomes(5, 2, 100)
        one = paired_statistics(baseline, act)
        baseline[20:60] = act[20:60] = 1
        other = paired_statistics(baseline, act)
        assert (other["low"], other["high"]) == pytest.approx((one["low"], one["high"]), abs=0.002)


@pytest.mark.tier("slow")
class TestCoverage:
    @pytest.mark.parametrize("n", [20, 56, 100, 200, 500, 2000])
    def test_single_tasks(self, n):
        for changed, split in itertools.product(SHARES_CHANGED, SPLITS):
            gains, loses = changed * split, changed * (1 - split)
            gained, lost, probabilities = all_outcomes(n, gains, loses)
            below = posterior(gained, lost, n)(gains - loses)
            coverage = probabilities[(below >= 0.025) & (below <= 0.975)].sum() / probabilities.sum()
            check_coverage(coverage, n * changed, (n, changed, split, coverage))
        # Without changes there is one outcome, whose interval holds 0:
        assert 0.025 < posterior(0, 0, n)(0.0) < 0.975

    @pytest.mark.parametrize(("n", "most_changed"), [(20, 20), (56, 20)])
    def test_single_tasks_by_the_intervals_themselves(self, n, most_changed):
        intervals = {}
        for gained, lost in itertools.product(range(most_changed + 1), repeat=2):
            if gained + lost <= most_changed:
                row = paired_statistics(*outcomes(gained, lost, n))
                intervals[gained, lost] = row["low"], row["high"]
        assert all(low < high for low, high in intervals.values())
        for changed, split in itertools.product((0.0, 0.01, 0.02, 0.05, 0.1), SPLITS):
            gains, loses = changed * split, changed * (1 - split)
            counts = np.array([[gained, lost, n - gained - lost] for gained, lost in intervals])
            probabilities = stats.multinomial.pmf(counts, n, [gains, loses, 1 - gains - loses])
            holds = [low <= gains - loses <= high for low, high in intervals.values()]
            check_coverage(float(probabilities @ holds), n * changed, (n, changed, split))

    @pytest.mark.parametrize(
        ("sizes", "by_size"), [([100] * 3, False), ([56, 200, 200, 200], False), ([20, 500], False), ([20, 100, 500], True)]
    )
    def test_averages(self, sizes, by_size):
        """Simulated, 2,500 samples a cell. Expected changes are weighed by how far they move the average, see `intervals`."""
        n = np.array(sizes, float)
        weights = n / n.sum() if by_size else np.full(len(n), 1 / len(n))
        leverage = weights / n
        unseen = unseen_of_tasks(sizes, weights)
        rng = np.random.default_rng(0)
        coverages = []
        for changed, split in itertools.product((0.01, 0.05, 0.2), SPLITS):
            gains, loses = changed * split, changed * (1 - split)
            drawn = 0.0
            for task, of_task in enumerate(sizes):
                counts = rng.multinomial(of_task, [gains, loses, 1 - gains - loses], size=2500)
                parameters = counts + np.array([unseen[task], unseen[task], 1e-9])
                parts = rng.standard_gamma(parameters[:, np.newaxis], size=(2500, 200, 3))
                drawn = drawn + weights[task] * (parts[..., 0] - parts[..., 1]) / parts.sum(axis=2)
            below = (drawn <= gains - loses).mean(axis=1)
            coverage = ((below >= 0.025) & (below <= 0.975)).mean()
            expected = changed * (leverage**2 @ n) / (leverage**2 @ (unseen / UNSEEN))
            check_coverage(coverage, expected, (changed, split, coverage, expected), error=2 * np.sqrt(0.05 * 0.95 / 2500))
            coverages.append(coverage)
        assert np.mean(coverages) > 0.94

    @pytest.mark.parametrize("largest", [0.2, 1.0])
    def test_outcomes_averaged_over_seeds(self, largest):
        """Of 300 samples of 100 documents, of which a tenth changes, in one of five seeds or in up to all of them."""
        rng = np.random.default_rng(1)
        covered = 0
        for _ in range(300):
            size = rng.integers(1, round(5 * largest) + 1, 100) / 5
            change = np.where(rng.random(100) < 0.1, size, 0) * np.where(rng.random(100) < 0.75, 1, -1)
            row = paired_statistics(np.where(change < 0, 1.0, 0.0), np.where(change < 0, 1 + change, change))
            assert row["interval"] == "bootstrap"
            covered += row["low"] <= 0.1 * 0.5 * (0.2 + largest) / 2 <= row["high"]
        assert 0.92 <= covered / 300 <= 0.99

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 20, 200])
    def test_normal_changes_of_few_documents(self, n, monkeypatch):
        """Of 500 samples: weighing so few documents spreads less than their mean does, and of two covers half as often."""
        monkeypatch.setattr(intervals, "DRAWS", 1000)
        rng = np.random.default_rng(2)
        rows = [paired_statistics(np.full(n, 5.0), 5 + rng.normal(0, 1, n)) for _ in range(500)]
        coverage = np.mean([row["low"] <= 0 <= row["high"] for row in rows])
        assert coverage >= 0.92
        assert coverage <= MOST or n < 5
        assert np.mean([row["p"] < 0.05 for row in rows]) <= 0.08

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 20])
    def test_shares_of_few_documents(self, n, monkeypatch):
        """As F1 scores are: many are 0, and half of them change."""
        monkeypatch.setattr(intervals, "DRAWS", 1000)
        rng = np.random.default_rng(3)
        covered = []
        for _ in range(500):
            before = np.where(rng.random(n) < 0.4, 0, rng.random(n))
            row = paired_statistics(before, np.where(rng.random(n) < 0.5, rng.random(n), before))
            covered.append(row["low"] <= 0.1 <= row["high"])
            assert -1 <= row["low"] < row["high"] <= 1
        assert np.mean(covered) >= 0.93


class TestAverages:
    def test_draws_are_those_of_the_tasks(self):
        """Mean and variance by hand: Dirichlet posteriors, whose documents that were not seen are shared."""
        parts = [documents(*outcomes(3, 1, 56)), documents(*outcomes(10, 4, 200))]
        weights = np.array([0.5, 0.5])
        deltas = average_deltas([part.draw((0, number)) for number, part in enumerate(parts)], weights)
        leverage = np.array([0.5 / 56, 0.5 / 200])
        mean = variance = 0.0
        for (gained, lost, n), unseen in zip([(3, 1, 56), (10, 4, 200)], UNSEEN * leverage / leverage.sum(), strict=True):
            posterior = stats.dirichlet([gained + unseen, lost + unseen, n - gained - lost])
            contrast = np.array([1, -1, 0])
            mean += 0.5 * contrast @ posterior.mean()
            variance += 0.25 * contrast @ posterior.cov() @ contrast
        assert deltas.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / DRAWS))
        assert deltas.std() == pytest.approx(np.sqrt(variance), rel=0.04)

    def test_by_size_it_is_as_one_task(self):
        """Two halves of a task, weighed by size, have the interval of the whole."""
        halves = [documents(*outcomes(6, 2, 150)).draw((0, number)) for number in (0, 1)]
        low, high = interval_of(average_deltas(halves, np.array([0.5, 0.5])), 4 / 150)
        whole = paired_statistics(*outcomes(12, 4, 300))
        assert (low, high) == pytest.approx((whole["low"], whole["high"]), abs=0.03 * (high - low))

    def test_many_tasks_without_a_change(self):
        """Unseen changes are shared: ten tasks without a change say ten times as much as one."""
        tasks = [documents(*outcomes(0, 0, 100)).draw((0, number)) for number in range(10)]
        low, high = interval_of(average_deltas(tasks, np.full(10, 0.1)), 0.0)
        whole = paired_statistics(*outcomes(0, 0, 1000))
        assert (low, high) == pytest.approx((whole["low"], whole["high"]), abs=0.05 * (high - low))

    def test_kinds(self):
        assert kind_of_average(["posterior", "posterior"]) == "posterior"
        assert kind_of_average(["bootstrap"]) == "bootstrap"
        assert kind_of_average(["bootstrap", "posterior", "bootstrap"]) == "posterior and bootstrap"


class TestBootstrap:
    def test_where_all_documents_change_it_is_the_bootstrap(self):
        rng = np.random.default_rng(0)
        baseline = rng.uniform(0, 1, 400)
        act = np.clip(baseline + rng.normal(0.02, 0.1, 400), 0, 1)
        row = paired_statistics(baseline, act)
        assert row["interval"] == "bootstrap"
        expected = stats.bootstrap((act - baseline,), np.mean, method="percentile", rng=1).confidence_interval
        assert (row["low"], row["high"]) == pytest.approx(expected, abs=0.03 * (expected.high - expected.low))

    @pytest.mark.parametrize(
        ("baseline", "act", "largest"),
        [
            ([0.3] * 20, [0.3] * 20, None),
            ([0.3] * 20, [0.5] * 20, None),
            ([-80.0] * 20, [-80.0] * 20, None),
            ([-80.0] * 20, [-78.0] * 20, None),
            ([5.0] * 20, [5.0] * 20, 9.0),
            ([0.25], [0.75], None),
        ],
        ids=["shares", "shares, all alike", "no bound", "no bound, all alike", "grades", "one document"],
    )
    def test_it_is_never_a_point(self, baseline, act, largest):
        row = paired_statistics(np.array(baseline), np.array(act), largest)
        assert row["low"] < row["delta"] < row["high"]

    def test_without_a_change_the_bound_counts(self):
        """F1 scores of which none changed tell as much as outcomes of which none did; grades change by up to 9."""
        outcome = paired_statistics(*outcomes(0, 0, 200))
        score = paired_statistics(np.full(200, 0.4), np.full(200, 0.4))
        grade = paired_statistics(np.full(200, 5.0), np.full(200, 5.0), 9.0)
        assert (score["low"], score["high"]) == pytest.approx((outcome["low"], outcome["high"]), rel=0.05)
        assert (grade["low"], grade["high"]) == pytest.approx((9 * outcome["low"], 9 * outcome["high"]), rel=0.05)

    def test_size_of_what_was_not_seen(self):
        """By hand: changes 0.2, 0.2 and -0.4 of 50, whose mean is 0, and one imagined change of 1."""
        act = np.full(50, 0.5)
        act[:3] = 0.7, 0.7, 0.1
        size = np.sqrt((1 + 0.2**2 + 0.2**2 + 0.4**2) / 4)
        unseen = documents(np.full(50, 0.5), act).unseen
        assert unseen == pytest.approx(np.array([[0.5, 0.5 + size, 1], [0.5, 0.5 - size, 1]]))

    def test_documents_of_outcomes_are_not_imagined(self):
        assert documents(*outcomes(1, 1, 4)).unseen == pytest.approx(np.array([[0.25, 1.25, 1], [0.25, -0.75, 1]]))
