"""Whether documents suffice: against the textbook's formula, and from a pilot whose changes are known."""

import math

import numpy as np
import pytest
from helpers.runs import write_run
from helpers.thorough import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from act_eval.errors import InputError
from act_eval.report.intervals import UNSEEN
from act_eval.study.expectation import discordance_of_pilot, expect
from act_eval.study_record import Score

pytestmark = pytest.mark.tier("unit")

ACCURACY = {"demo": Score("acc", "none")}


@pytest.mark.parametrize(("n", "discordance"), [(400, 0.1), (2000, 0.05), (1000, 0.3)])
def test_one_task_is_as_in_the_textbook(n, discordance):
    """Connor, "Sample Size for Testing Differences in Proportions for the Paired-Sample Design", Biometrics 1987."""
    found = expect(0.03, {"task": n}, {"task": discordance})
    sides, power = norm.isf(0.025), norm.isf(0.2)
    needed = (sides * math.sqrt(discordance) + power * math.sqrt(discordance - 0.03**2)) ** 2 / 0.03**2
    assert found.needed == pytest.approx(needed, rel=0.08)
    reached = (0.03 * math.sqrt(n) - sides * math.sqrt(discordance)) / math.sqrt(discordance - 0.03**2)
    assert found.probability == pytest.approx(norm.cdf(reached), abs=0.04)


@examples(15)
@given(st.lists(st.tuples(st.integers(30, 2000), st.floats(0.02, 0.4)), min_size=1, max_size=5))
def test_the_numbers_fit_each_other(tasks):
    documents = {f"task {place}": n for place, (n, _) in enumerate(tasks)}
    discordance = {f"task {place}": share for place, (_, share) in enumerate(tasks)}
    found = expect(0.02, documents, discordance)
    assert found.documents == sum(documents.values())
    assert found.discordance == pytest.approx(np.mean(list(discordance.values())))
    assert (found.needed <= found.documents) == (found.probability >= 0.8) or abs(found.probability - 0.8) < 0.02
    if not math.isnan(found.detectable):
        assert expect(found.detectable, documents, discordance).probability == pytest.approx(0.8, abs=0.02)


def test_a_pilot(tmp_path):
    """Of two settings the one counts of which more answers change; what was not seen is left room for."""
    baseline = [1.0] * 30 + [0.0] * 20
    write_run(tmp_path, baseline)
    write_run(tmp_path, [1.0] * 28 + [0.0] * 22, heads=4)
    write_run(tmp_path, [1.0] * 28 + [0.0] * 2 + [1.0] * 5 + [0.0] * 15, heads=8)
    assert discordance_of_pilot(tmp_path, ACCURACY) == {"demo": (7 + 2 * UNSEEN) / (50 + 2 * UNSEEN)}


def test_a_pilot_with_several_seeds(tmp_path):
    """The mean over seeds counts, not the documents of all of them."""
    for seed, changed in ((1, 2), (2, 6)):
        write_run(tmp_path, [0.0] * 50, shots=2, seed=seed)
        write_run(tmp_path, [1.0] * changed + [0.0] * (50 - changed), shots=2, seed=seed, heads=4)
    assert discordance_of_pilot(tmp_path, ACCURACY) == {"demo": pytest.approx((4 + 2 * UNSEEN) / (50 + 2 * UNSEEN))}


def test_a_pilot_by_the_filter_that_counts(tmp_path):
    filters = [{"doc_id": number % 10, "filter": "strict" if number < 10 else "loose"} for number in range(20)]
    ten = {"n-samples": {"demo": {"original": 10, "effective": 10}}}
    for heads, loose in ((0, 0.0), (4, 1.0)):
        write_run(tmp_path, [0.0] * 10 + [loose] * 10, contents=filters, recorded=ten, heads=heads)
    asked = {"demo": Score("acc", "strict")}
    assert discordance_of_pilot(tmp_path, asked) == {"demo": 2 * UNSEEN / (10 + 2 * UNSEEN)}


def test_the_largest_share_counts_not_the_largest_number(tmp_path):
    write_run(tmp_path, [0.0] * 100, limit=100)
    write_run(tmp_path, [1.0] * 8 + [0.0] * 92, limit=100, heads=4)
    write_run(tmp_path, [0.0] * 20, limit=20)
    write_run(tmp_path, [1.0] * 5 + [0.0] * 15, limit=20, heads=4)
    assert discordance_of_pilot(tmp_path, ACCURACY) == {"demo": (5 + 2 * UNSEEN) / (20 + 2 * UNSEEN)}


def test_a_pilot_whose_documents_are_not_right_or_wrong(tmp_path):
    write_run(tmp_path, [0.5, 0.0])
    write_run(tmp_path, [0.7, 1.0], heads=4)
    with pytest.raises(InputError, match=r"demo by acc \(none\) is not 0 or 1 for each document: leave it out"):
        discordance_of_pilot(tmp_path, ACCURACY)


@pytest.mark.parametrize("points", [0.02, 0.001])
def test_a_difference_that_no_number_of_documents_finds(points):
    sentence = expect(points / 100, {"a": 100}, {"a": 0.05}).sentence()
    assert sentence.endswith(f"{points:.2g} points take more than 10,000,000 documents for 80%.")


@pytest.mark.parametrize(
    "asked", [{"demo": Score("f1", "none")}, {"demo": Score("acc", "strict")}, {"other": Score("acc", "none")}]
)
def test_a_pilot_that_lacks_a_task(tmp_path, asked):
    write_run(tmp_path, [1.0, 0.0])
    write_run(tmp_path, [1.0, 1.0], heads=4)
    with pytest.raises(InputError, match=r"pilot .* holds no paired comparison of"):
        discordance_of_pilot(tmp_path, asked)
