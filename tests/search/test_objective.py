"""The corrected margin: margins and accuracy after label priors, by hand, and the slopes of its sum."""

import numpy as np
import pytest

from act_eval.search.documents import CalibrationDocument
from act_eval.search.objective import LabelPriors
from act_eval.search.scores import Scores

pytestmark = pytest.mark.tier("unit")

LABELS = ((1,), (2, 3), (4,))


def documents(rng, count=12):
    """Of a task with labels, one with choices of its own, and a `loglikelihood` one, mixed."""
    found = []
    for number in range(count):
        context = (5, number)
        found.append(CalibrationDocument("labels", tuple((context, label) for label in LABELS), (int(rng.integers(3)),)))
        own = tuple((context, (10 + number + choice,)) for choice in range(2))
        found.append(CalibrationDocument("own", own, (1,)))
        found.append(CalibrationDocument("words", ((context, (7, 8)),), ()))
    return found


def log_probs(rng, of_documents, *sizes):
    values = np.full((*sizes, 3, len(of_documents)), np.nan)
    for number, document in enumerate(of_documents):
        values[..., : len(document.requests), number] = rng.normal(-3, 1.5, (*sizes, len(document.requests)))
    return values


def corrected_by_hand(of_documents, values):
    """Margin and correctness of each document, one by one."""
    probabilities = {}
    for number, document in enumerate(of_documents):
        if document.task == "labels":
            exponentials = [np.exp(value) for value in values[:, number]]
            probabilities[number] = [value / sum(exponentials) for value in exponentials]
    priors = [np.mean([of_document[label] for of_document in probabilities.values()]) for label in range(3)]
    margin, correct = [], []
    for number, document in enumerate(of_documents):
        if not document.gold:
            margin.append(values[0, number])
            correct.append(None)
            continue
        choices = len(document.requests)
        priors_of_task = np.log(priors) if document.task == "labels" else np.zeros(choices)
        left = values[:choices, number] - priors_of_task
        others = [left[choice] for choice in range(choices) if choice not in document.gold]
        margin.append(max(left[choice] for choice in document.gold) - max(others))
        correct.append(int(np.argmax(left)) in document.gold)
    return np.array(margin), correct


def plain_scores(of_documents, values):
    """Without correction; documents of `words` are right."""
    margin, correct = [], []
    for number, document in enumerate(of_documents):
        own = values[: len(document.requests), number]
        others = np.delete(own, document.gold) if document.gold else np.zeros(1)
        margin.append(own[list(document.gold) or [0]].max() - others.max())
        correct.append(int(own.argmax()) in (document.gold or (0,)))
    return Scores(np.array(correct), np.array(margin), values)


def test_tasks_with_the_same_choices_are_found():
    of_documents = documents(np.random.default_rng(0))
    priors = LabelPriors.of_search("corrected-margin", of_documents)
    assert priors.num_labels == {"labels": 3}
    assert priors.most_choices == 3
    assert not LabelPriors.of_search("margin", of_documents).corrects


def test_scores_equal_those_by_hand():
    rng = np.random.default_rng(1)
    of_documents = documents(rng)
    values = log_probs(rng, of_documents, 4)
    plain = [plain_scores(of_documents, of_variation) for of_variation in values]
    together = Scores(np.stack([s.correct for s in plain]), np.stack([s.margin for s in plain]), values)
    found = LabelPriors.of_search("corrected-margin", of_documents).correct(of_documents, together)
    for number, of_variation in enumerate(values):
        margin, correct = corrected_by_hand(of_documents, of_variation)
        np.testing.assert_allclose(found.margin[number], margin)
        expected = [plain[number].correct[place] if right is None else right for place, right in enumerate(correct)]
        assert found.correct[number].tolist() == expected
    assert (found.correct != together.correct).any()
    assert LabelPriors().correct(of_documents, together) is together


def test_a_document_with_only_right_labels_has_margin_0():
    labels = tuple(((5,), label) for label in LABELS)
    of_documents = [CalibrationDocument("labels", labels, gold) for gold in ((0, 1, 2), (1,), (0, 2))]
    values = np.random.default_rng(2).normal(size=(3, 3))
    priors = LabelPriors({"labels": 3}, 3)
    found = priors.correct(of_documents, Scores(np.zeros(3, dtype=bool), np.ones(3), values))
    assert found.margin[0] == 0
    assert found.correct[0]
    assert priors.slopes(of_documents, values)[0].sum() == pytest.approx(0)


@pytest.mark.filterwarnings("error")
def test_a_label_that_no_document_gives_any_probability():
    rng = np.random.default_rng(3)
    of_documents = documents(rng)
    values = log_probs(rng, of_documents)
    values[2, ::3] = -np.inf
    priors = LabelPriors.of_search("corrected-margin", of_documents)
    found = priors.correct(of_documents, Scores(np.zeros(36, dtype=bool), np.zeros(36), values))
    assert not np.isnan(found.margin).any()
    assert all(np.isfinite(slopes).all() for slopes in priors.slopes(of_documents, values))


@pytest.mark.parametrize("objective", ["margin", "corrected-margin"])
def test_slopes_equal_finite_differences(objective):
    """Of the sum of all margins, by every log-probability."""
    rng = np.random.default_rng(4)
    of_documents = documents(rng)
    values = log_probs(rng, of_documents)
    priors = LabelPriors.of_search(objective, of_documents)

    def total(changed):
        if objective == "corrected-margin":
            return corrected_by_hand(of_documents, changed)[0].sum()
        return plain_scores(of_documents, changed).margin.sum()

    slopes = priors.slopes(of_documents, values)
    for number, document in enumerate(of_documents):
        assert len(slopes[number]) == len(document.requests)
        for choice in range(len(document.requests)):
            step = np.zeros_like(values)
            step[choice, number] = 1e-6
            difference = (total(values + step) - total(values - step)) / 2e-6
            assert slopes[number][choice] == pytest.approx(difference, abs=1e-6), (number, choice)
