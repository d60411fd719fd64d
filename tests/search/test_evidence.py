"""The evidence that head sets need before they are chosen: exact p, no head without effect, and what effect is found."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.search import SimulatedStages, plain_documents
from scipy import stats

from act_eval.search import evidence
from act_eval.search.evidence import gain_interval, p_values, small_moves, smoothed_accuracy
from act_eval.search.heads import profile_from_heads
from act_eval.search.results import SearchResult
from act_eval.search.scores import Scores
from act_eval.search.validation import validate_head_sets
from act_eval.search.validation_plan import ValidationPlan

pytestmark = pytest.mark.tier("unit")

ALPHA = 0.05
CANDIDATES = [(layer, head) for layer in range(4) for head in range(16)]


def scores(margin):
    return Scores(margin > 0, margin)


def stratified_t(tasks, changes):
    """The sum over its standard error within tasks."""
    variance = sum(len(of_task) * of_task.var(ddof=1) for of_task in (changes[tasks == task] for task in set(tasks)))
    return changes.sum() / np.sqrt(variance)


def exact_p_values(tasks, changes):
    """Max-T over all flips of signs, by brute force."""
    signs = np.array(list(product([-1, 1], repeat=changes.shape[1])))
    t = np.array([stratified_t(tasks, row) for row in changes])
    flipped = np.array([[stratified_t(tasks, sign * row) for row in changes] for sign in signs])
    return np.array([(flipped.max(1) >= value - 1e-9).mean() for value in t])


class TestPValues:
    def test_both_tests_equal_all_flips_of_signs(self):
        rng = np.random.default_rng(0)
        baseline = scores(rng.normal(size=10))
        of_sets = [scores(baseline.margin + rng.normal(0.4 * size, 0.7, 10)) for size in range(3)]
        tasks, has_choices = np.repeat(["a", "b"], 5), np.ones(10, dtype=bool)
        margins = np.stack([of_set.margin - baseline.margin for of_set in of_sets])
        smoothed = np.empty_like(margins)
        for task in ("a", "b"):
            of_task = tasks == task
            before = baseline.margin[of_task]
            moved_by = 0.2 * stats.median_abs_deviation(before, scale="normal")
            for number, of_set in enumerate(of_sets):
                after = of_set.margin[of_task]
                smoothed[number, of_task] = stats.norm.cdf(after / moved_by) - stats.norm.cdf(before / moved_by)
        expected = np.maximum(exact_p_values(tasks, margins), exact_p_values(tasks, smoothed))
        assert expected.min() < 0.1 < expected.max()
        np.testing.assert_allclose(p_values(tasks, baseline, of_sets, has_choices), expected, atol=0.015)

    def test_of_one_set_without_choices_equals_scipy(self):
        rng = np.random.default_rng(1)
        before = Scores(rng.random(40) < 0.3, np.zeros(40))
        after = Scores(before.correct | (rng.random(40) < 0.2), np.ones(40))
        change = after.correct.astype(float) - before.correct
        test = stats.permutation_test(
            (change,), np.sum, permutation_type="samples", alternative="greater", n_resamples=20000, rng=0
        )
        found = p_values(np.full(40, "words"), before, [after], np.zeros(40, dtype=bool))
        assert found[0] == pytest.approx(test.pvalue, abs=0.01)

    def test_sets_that_were_dropped_count(self):
        rng = np.random.default_rng(2)
        baseline = scores(rng.normal(size=60))
        of_sets = [scores(baseline.margin + rng.normal(0.25, 0.6, 60)) for _ in range(2)]
        tasks, has_choices = np.full(60, "a"), np.ones(60, dtype=bool)
        few, more = (p_values(tasks, baseline, of_sets, has_choices, dropped) for dropped in (0, 4))
        assert (few < more).all()
        alone = np.array([p_values(tasks, baseline, [of_set], has_choices)[0] for of_set in of_sets])
        assert (more <= 6 * alone.max() + 1e-3).all(), "no more than Bonferroni's correction"

    def test_tasks_that_gain_and_tasks_that_lose_are_no_error_of_their_mean(self):
        rng = np.random.default_rng(9)
        margin, tasks = rng.normal(size=80), np.repeat(["a", "b"], 40)
        change = rng.normal(np.repeat([1.4, -0.6], 40), 0.8)
        found = [
            p_values(of_tasks, scores(margin), [scores(margin + change)], np.ones(80, dtype=bool))[0]
            for of_tasks in (tasks, np.full(80, "a"))
        ]
        assert found[0] < found[1]

    def test_nothing_changes(self):
        baseline = scores(np.linspace(-1, 1, 9))
        assert p_values(np.full(9, "a"), baseline, [baseline, baseline], np.ones(9, dtype=bool)).tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("seed", range(4))
    def test_order_of_documents_and_unit_of_margins_change_nothing_much(self, seed):
        rng = np.random.default_rng(seed)
        margin, change, order = rng.normal(size=30), rng.normal(0.3, 1, 30), rng.permutation(30)
        tasks, has_choices = np.full(30, "a"), np.ones(30, dtype=bool)
        found = [
            p_values(tasks, scores(before), [scores(before + after)], has_choices)[0]
            for before, after in ((margin, change), (margin[order], change[order]), (7 * margin, 7 * change))
        ]
        assert found == pytest.approx([found[0]] * 3, abs=0.03)


def test_smoothed_accuracy_counts_close_documents_in_part():
    tasks, has_choices = np.array(["a"] * 4 + ["words"]), np.array([True] * 4 + [False])
    moved_by = small_moves(tasks, np.array([-1.0, 0.0, 1.0, 2.0, -3.0]), has_choices)
    assert moved_by[:4] == pytest.approx([0.2 * 1.4826] * 4, rel=1e-3)
    assert moved_by[4] == 0
    found = smoothed_accuracy(
        Scores(np.array([False, True, True, True, True]), np.array([-9, 0, 0.2 * 1.4826, 9, -3])), moved_by
    )
    assert found == pytest.approx([0, 0.5, 0.8413, 1, 1], abs=1e-3)


@pytest.mark.parametrize(("n", "gained", "lost"), [(40, 0.02, 0.02), (80, 0.10, 0.02), (80, 0.0, 0.0), (20, 0.1, 0.1)])
def test_the_interval_covers(n, gained, lost):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        draw = rng.random(n)
        low, high = gain_interval((draw > gained) & (draw < 0.5), (draw <= gained) | ((draw < 0.5) & (draw > gained + lost)))
        covered += low <= gained - lost <= high
    assert covered >= 930


class Simulation:
    """Searches whose head sets, of 1 to 64 heads, change margins by a common and an own part that grow with the set."""

    def __init__(self, monkeypatch, seed, documents=80, two_rounds=False):
        monkeypatch.setattr(evidence, "_FLIPS", 199)
        self.rng, self.documents = np.random.default_rng(seed), plain_documents(documents)
        budget = 6 * ValidationPlan.of_candidates(0, self.documents, 8, 1).cost if two_rounds else None
        self.plan = ValidationPlan.of_candidates(len(CANDIDATES), self.documents, 8, 1, budget)
        assert (self.plan.first < documents) == two_rounds

    def search(self, draw, effect=0.0, mean=0.5, scale=0.0):
        """Validate once; returns the number of heads chosen, and what the greatest set gains."""
        n = len(self.documents)
        margin, common = self.rng.normal(mean, 1.5, n), draw(self.rng, n)
        found = {0: scores(margin)}
        for size in self.plan.sizes[1:]:
            strength = 0.2 + 0.8 * np.log2(size) / 6
            change = effect + 0.7 * (0.84 * common + 0.55 * draw(self.rng, n)) + scale * margin
            found[size] = scores(margin + strength * change)
        validation = validate_head_sets(SimulatedStages(found), CANDIDATES, self.documents, self.plan)
        return len(validation.chosen), found[64].correct.mean() - found[0].correct.mean()

    def share_that_chooses(self, count, *arguments, **settings):
        found = [self.search(*arguments, **settings) for _ in range(count)]
        return np.mean([chosen > 0 for chosen, _ in found]), np.mean([gain for _, gain in found])


def normal(rng, n):
    return rng.normal(size=n)


def heavy_tails(rng, n):
    return rng.standard_t(2, n)


def heavier_tails(rng, n):
    return rng.standard_cauchy(n)


def lopsided(rng, n):
    return rng.exponential(1.0, n) - 1


def rare_and_large(rng, n):
    """Random flips: few documents change, and those to the other side."""
    return np.where(rng.random(n) < 0.05, rng.normal(0, 8, n), 0.0)


@pytest.mark.parametrize("mean", [-1.0, 0.5])
@pytest.mark.parametrize("draw", [normal, heavy_tails, heavier_tails, lopsided, rare_and_large])
def test_no_effect_chooses_heads_in_at_most_five_percent_of_searches(monkeypatch, draw, mean):
    share, _ = Simulation(monkeypatch, 4).share_that_chooses(80, draw, mean=mean)
    assert share <= ALPHA


def test_a_gain_in_one_task_and_a_loss_in_the_other_are_no_effect(monkeypatch):
    def opposite(rng, n):
        return np.where(np.arange(n) % 2, 1.0, -1.0) + rng.normal(size=n)

    assert Simulation(monkeypatch, 10).share_that_chooses(100, opposite)[0] <= ALPHA


def test_no_effect_in_two_rounds(monkeypatch):
    assert Simulation(monkeypatch, 5, two_rounds=True).share_that_chooses(100, normal)[0] <= ALPHA


def test_answers_that_only_become_surer_are_no_effect(monkeypatch):
    """The mean margin rises, by far."""
    share, gain = Simulation(monkeypatch, 6).share_that_chooses(100, normal, mean=1.0, scale=0.3)
    assert share <= ALPHA
    assert gain < 0.005


@pytest.mark.parametrize("two_rounds", [False, True])
def test_eighty_documents_find_eight_points(monkeypatch, two_rounds):
    share, gain = Simulation(monkeypatch, 7, two_rounds=two_rounds).share_that_chooses(100, normal, effect=0.45)
    assert 0.07 < gain < 0.10
    assert share > 0.7


def test_one_flipped_document_of_eighty_is_no_evidence(monkeypatch):
    simulation = Simulation(monkeypatch, 8)
    margin = simulation.rng.normal(0.5, 1.5, 80)
    wrong = np.flatnonzero(margin < 0)[0]
    after = margin.copy()
    after[wrong] = 0.1
    found = {size: scores(margin if size < 64 else after) for size in simulation.plan.sizes}
    validation = validate_head_sets(SimulatedStages(found), CANDIDATES, simulation.documents, simulation.plan)
    assert validation.chosen == []
    assert validation.head_sets["chosen"].tolist() == [True] + [False] * 7
    assert validation.gain.heads == 64
    assert validation.gain.p_value > 0.1
    assert validation.gain.summary().startswith(
        "No head was chosen: the best set's gain of +1.2 points over 80 documents has p = "
    )
    assert validation.gain.summary().endswith("more documents, with --limit, would tell.")


class TestChoiceByEntropy:
    """Which goes by the margin, here minus the entropy, and says so; whether a document is right counts nothing."""

    def validate(self, change, right_after):
        rng, documents = np.random.default_rng(5), plain_documents(80)
        before = rng.normal(-1.0, 0.3, 80)
        found = {
            0: Scores(np.ones(80, bool), before),
            1: Scores(np.full(80, right_after), before + change + rng.normal(0, 0.1, 80)),
        }
        stages = SimulatedStages(found)
        stages.priors = SimpleNamespace(uses_labels=False, corrects=False, correct=lambda documents, scores: scores)
        return validate_head_sets(stages, CANDIDATES[:1], documents, ValidationPlan.of_candidates(1, documents, 8, 1))

    def test_a_set_that_lowers_it(self):
        found = self.validate(0.2, right_after=False)
        assert (len(found.chosen), found.gain.by_entropy) == (1, True)
        said = found.gain.summary()
        assert said.startswith(
            f"1 head was chosen: change of the mean entropy by -{found.gain.margin_change:.4f} nats over 80 "
        )
        assert said.endswith("p < 0.001.")
        assert "accuracy" not in said

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (-0.2, "no set that was tried lowered the mean entropy of 80 documents."),
            (0.012, "the best set's change of the mean entropy by -0.0"),
        ],
    )
    def test_none_that_does(self, change, words):
        found = self.validate(change, right_after=True)
        assert found.chosen == []
        assert found.gain.summary().startswith(f"No head was chosen: {words}")

    def test_each_set_is_shown_with_its_entropy(self):
        found = self.validate(0.2, right_after=True)
        heads = pd.DataFrame({"documents": [80]})
        result = SearchResult(
            profile_from_heads(found.chosen), heads, found.head_sets, {"total": 1.0, "exact": 1.0}, found.gain
        )
        assert any(f"entropy -{found.gain.margin_change:.4f} nats" in line for line in result.summary())
        assert not any("margin" in line for line in result.summary())


@pytest.mark.parametrize(
    ("k", "columns", "said"),
    [
        (3, {}, "2 heads are chosen instead of 3: no other is scored on all documents."),
        (3, {"estimate_together": 0.0}, "2 heads are chosen instead of 3: no other is worth something by their estimates."),
        (2, {}, None),
        (None, {}, None),
    ],
)
def test_fewer_heads_than_were_asked_for_are_said(k, columns, said):
    heads = pd.DataFrame({"documents": [80, 80, 0], **columns})
    profile = profile_from_heads([(2, 0), (2, 1)])
    lines = SearchResult(profile, heads, pd.DataFrame(), {"total": 1.0, "exact": 1.0}, k=k).summary()
    assert lines[1:] == ([] if said is None else [said])
