"""The verdict of a study, case by case: the outcome, and the very sentences."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.report.study import _best_tried
from act_eval.report.verdict import BestTried, CorrectedPriors, Difference, EmptyReplies, Evidence, Worse, judge, points

pytestmark = pytest.mark.tier("unit")

GAIN = Difference(0.052, 0.033, 0.071)
SMALL_GAIN = Difference(0.012, 0.001, 0.023)
NOTHING = Difference(0.004, -0.012, 0.020)
LOSS = Difference(-0.031, -0.049, -0.013)
CORRECTION = Difference(0.075, 0.041, 0.109)
PRIORS = CorrectedPriors(tasks=7, baseline=0.486, correction=CORRECTION, difference=GAIN, overall=GAIN, lost=NOTHING)

HELPS = Evidence(
    heads=32,
    heads_searched=270,
    tasks=7,
    documents=1256,
    baseline=0.486,
    found=GAIN,
    every_head=Difference(0.020, -0.009, 0.049),
    random_sets=3,
    random_mean=Difference(0.009, -0.021, 0.039),
    random_least=-0.006,
    random_most=0.024,
    beyond_random=Difference(0.043, 0.021, 0.065),
    switched_off=Difference(-0.101, -0.120, -0.082),
    priors=PRIORS,
    detectable=0.025,
    documents_for_a_point=8200,
)
PRIMARY = (
    "ACT in the 32 heads found raises the score by +5.2 points (95% interval +3.3 to +7.1) on average over 7 tasks "
    "(1,256 documents), from 0.486 to 0.538."
)
CONTROLS = (
    "As many random heads give +0.9 points (mean of 3 sets, -0.6 to +2.4), and the heads found +4.3 points (95% interval "
    "+2.1 to +6.5) beyond that; all heads give +2.0 points; the heads found switched off give -10.1 points."
)
CORRECTED = (
    "Correcting label priors alone changes the baseline by +7.5 points (95% interval +4.1 to +10.9), from 0.486 to 0.561; ACT "
    "then adds +5.2 points (95% interval +3.3 to +7.1)."
)


def test_helps():
    verdict = judge(HELPS)
    assert verdict.outcome == "helps"
    assert verdict.headline == "Verdict: helps."
    assert verdict.sentences == (PRIMARY, CONTROLS, CORRECTED)


def test_helps_but_so_do_random_heads():
    random = Difference(0.048, 0.018, 0.078)
    verdict = judge(replace(HELPS, beyond_random=NOTHING, random_mean=random, random_least=0.04, random_most=0.06))
    assert verdict.outcome == "helps, but so do random heads"
    assert verdict.sentences[0] == PRIMARY
    assert verdict.sentences[1].startswith(
        "As many random heads give +4.8 points (mean of 3 sets, +4.0 to +6.0), and the heads found +0.4 points (95% "
        "interval -1.2 to +2.0) beyond that, which may be nothing; all heads"
    )


def test_random_heads_that_may_do_nothing_are_not_said_to_help():
    verdict = judge(replace(HELPS, beyond_random=NOTHING))
    assert verdict.outcome == "helps, but not shown to beat random heads"
    assert "beyond that, which may be nothing" in verdict.sentences[1]


@pytest.mark.parametrize("sets", [0, 1])
def test_too_few_random_heads_are_no_control(sets):
    least = None if sets == 0 else 0.009
    without = replace(HELPS, random_sets=sets, random_mean=None, beyond_random=None, random_least=least, random_most=least)
    verdict = judge(without)
    assert verdict.outcome == "helps, but no random heads were compared"
    said = "One set of as many random heads gives +0.9 points, which does not tell how sets differ; all heads"
    assert verdict.sentences[1].startswith(said if sets else "All heads give +2.0 points; the heads found switched off")


@pytest.mark.parametrize("left", [NOTHING, LOSS])
def test_helps_but_so_does_correcting_label_priors(left):
    verdict = judge(replace(HELPS, priors=replace(PRIORS, difference=left, overall=left, lost=GAIN)))
    assert verdict.outcome == "helps, but so does correcting label priors"
    assert verdict.sentences[2:] == (
        "Correcting label priors alone changes the baseline by +7.5 points (95% interval +4.1 to +10.9), from 0.486 to 0.561; "
        f"ACT then adds {left.text}, which may be nothing."
        if not left.is_loss
        else "Correcting label priors alone changes the baseline by +7.5 points (95% interval +4.1 to +10.9), from 0.486 to "
        f"0.561; ACT then adds {left.text}.",
        f"The correction takes {GAIN.text} off ACT's gain: that much of it was which label the model prefers.",
    )


@pytest.mark.parametrize(
    ("correction", "lost"), [(CORRECTION, NOTHING), (NOTHING, GAIN), (LOSS, GAIN), (NOTHING, NOTHING), (CORRECTION, LOSS)]
)
def test_a_gain_that_the_correction_leaves_open_is_not_said_to_be_about_labels(correction, lost):
    """Without a rise of the baseline, or a loss of ACT's gain, that can be told from zero."""
    priors = replace(PRIORS, correction=correction, difference=NOTHING, overall=NOTHING, lost=lost)
    verdict = judge(replace(HELPS, priors=priors))
    assert verdict.outcome == "helps, but not shown beyond label priors"
    assert verdict.sentences[2].endswith(f"ACT then adds {NOTHING.text}, which may be nothing.")
    assert ("that much of it was which label" in verdict.sentences[3]) == lost.is_gain


def test_a_gain_that_is_left_is_one_though_part_of_it_is_lost():
    verdict = judge(replace(HELPS, priors=replace(PRIORS, difference=SMALL_GAIN, overall=SMALL_GAIN, lost=GAIN)))
    assert verdict.outcome == "helps"
    assert verdict.sentences[3] == (
        f"The correction takes {GAIN.text} off ACT's gain: that much of it was which label the model prefers."
    )


def test_both_doubts_are_said():
    priors = replace(PRIORS, difference=NOTHING, overall=NOTHING, lost=GAIN)
    verdict = judge(replace(HELPS, beyond_random=NOTHING, priors=priors))
    assert verdict.outcome == "helps, but not shown to beat random heads"
    assert "beyond that, which may be nothing" in verdict.sentences[1]
    assert "which label the model prefers" in verdict.sentences[3]


def test_label_priors_of_some_tasks():
    """What counts is the gain over all tasks: one of them alone need not show it."""
    verdict = judge(replace(HELPS, priors=replace(PRIORS, tasks=1, difference=NOTHING)))
    assert verdict.outcome == "helps"
    assert verdict.sentences[2] == (
        "Correcting label priors alone changes the baseline on 1 of 7 tasks by +7.5 points (95% interval +4.1 to +10.9), from "
        f"0.486 to 0.561; ACT then adds {NOTHING.text}, and over all tasks {GAIN.text}."
    )


def test_cannot_tell():
    verdict = judge(replace(HELPS, found=NOTHING))
    assert verdict.outcome == "cannot tell"
    assert verdict.sentences == (
        "ACT in the 32 heads found changes the score by +0.4 points (95% interval -1.2 to +2.0) on average over 7 tasks "
        "(1,256 "
        "documents), from 0.486 to 0.490, which may be nothing.",
        "A difference of 2.5 points would have been found with 80% probability; for 1 point it would take about 8,200 "
        "documents.",
    )


def test_hurts():
    verdict = judge(replace(HELPS, found=LOSS, heads=1, tasks=1))
    assert verdict.outcome == "hurts"
    assert verdict.sentences == (
        "ACT in the 1 head found lowers the score by -3.1 points (95% interval -4.9 to -1.3) on 1 task (1,256 documents), "
        "from "
        "0.486 to 0.455.",
    )


def test_no_head_chosen():
    found_none = Evidence(0, 270, 7, 1256, 0.486, every_head=NOTHING, detectable=0.025, documents_for_a_point=8200)
    verdict = judge(found_none)
    assert verdict.outcome == "no head chosen"
    assert verdict.sentences == (
        "The search found no evidence that calibrating any of 270 heads helps, and chose none.",
        "All heads together change the score by +0.4 points (95% interval -1.2 to +2.0) on average over 7 tasks (1,256 "
        "documents), "
        "from 0.486.",
        "A difference of 2.5 points would have been found with 80% probability; for 1 point it would take about 8,200 "
        "documents.",
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_what_all_heads_show_needs_no_power(sign):
    shown = Difference(sign * 0.03, *sorted((sign * 0.01, sign * 0.05)))
    verdict = judge(Evidence(0, 270, 7, 1256, 0.486, every_head=shown, detectable=0.025, documents_for_a_point=8200))
    assert verdict.outcome == "no head chosen"
    assert not any("would have been found" in sentence for sentence in verdict.sentences)


def test_no_head_chosen_though_some_set_did_better():
    best = BestTried(heads=16, documents=80, change=0.0125, p_value=0.314)
    none = "The search found no evidence that calibrating any of 270 heads helps, and chose none: "
    first = f"{none}the best that it tried, 16 heads, "
    found_none = Evidence(0, 270, 7, 1256, 0.486, best_tried=best)
    assert judge(found_none).sentences == (f"{first}gave +1.2 points of accuracy on 80 training documents (p = 0.31).",)
    without_p = replace(found_none, best_tried=replace(best, p_value=float("nan")))
    assert judge(without_p).sentences == (f"{first}gave +1.2 points of accuracy on 80 training documents.",)


def test_tasks_that_the_search_did_not_see():
    (primary, *_) = judge(replace(HELPS, unseen=SMALL_GAIN, unseen_tasks=3)).sentences
    assert primary.endswith(
        "from 0.486 to 0.538; over the 3 tasks that the search did not see by +1.2 points (95% interval +0.1 to +2.3)."
    )


def test_what_got_worse():
    worse = tuple(Worse(f"task_{number}", "f1", 0.143, 0.0) for number in range(7))
    verdict = judge(replace(HELPS, worse=worse, empty_replies=(EmptyReplies("act_squad_v1", 12, 1, 11),)))
    assert verdict.outcome == "helps"
    assert verdict.sentences[3].startswith("Worse with the heads found: task_0 (f1 0.143 to 0.000), task_1 (")
    assert verdict.sentences[3].endswith("task_4 (f1 0.143 to 0.000) and 2 more.")
    assert verdict.sentences[4] == "Of 12 replies to act_squad_v1, 11 are empty, with the baseline 1."


def test_only_what_was_measured_is_said():
    least = Evidence(heads=4, heads_searched=32, tasks=1, documents=40, baseline=0.5, found=GAIN)
    assert len(judge(least).sentences) == 1
    assert judge(least).outcome == "helps, but no random heads were compared"
    assert len(judge(replace(least, found=NOTHING)).sentences) == 1


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "+0.0"), (-0.0, "+0.0"), (-0.0004, "+0.0"), (0.0004, "+0.0"), (-0.0006, "-0.1"), (0.0716, "+7.2")]
)
def test_points(share, text):
    assert points(share) == text


differences = st.tuples(*[st.floats(-0.5, 0.5)] * 3).map(sorted).map(lambda ends: Difference(ends[1], ends[0], ends[2]))


@given(*[differences] * 6)
def test_an_outcome_and_its_sentences_agree(found, random, beyond, correction, overall, lost):
    priors = replace(PRIORS, correction=correction, difference=overall, overall=overall, lost=lost)
    verdict = judge(replace(HELPS, found=found, random_mean=random, beyond_random=beyond, priors=priors))
    text = " ".join(verdict.sentences)
    assert ("raises" in text) == verdict.outcome.startswith("helps") == (found.low > 0)
    assert ("lowers" in text) == (verdict.outcome == "hurts") == (found.high < 0)
    assert ("would have been found" in text) == (verdict.outcome == "cannot tell")
    assert (verdict.outcome == "helps") == (min(found.low, beyond.low, overall.low) > 0)
    assert verdict.outcome != "helps, but so do random heads" or random.low > 0
    assert verdict.outcome != "helps, but so does correcting label priors" or min(correction.low, lost.low) > 0
    assert text.count("  ") == 0
    assert all(sentence.endswith(".") for sentence in verdict.sentences)


def test_a_p_value_of_entropies_is_not_told_of_accuracies():
    gain = {"heads": 2, "documents": 80, "chosen": False, "accuracy_change": 0.012, "p_value": 0.31}
    assert _best_tried(gain).p_value == 0.31
    assert math.isnan(_best_tried({**gain, "by_entropy": True}).p_value)
