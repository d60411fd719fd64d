"""Names that are like one that is not known are suggested, and no others."""

import pytest

from act_eval.near_names import did_you_mean, near_names

pytestmark = pytest.mark.tier("unit")

TASKS = ["demo_topic", "demo_choice", "demo_sentiment", "act_sst2", "act_sst5", "act_mmlu", "sst2"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo_topics", ["demo_topic"]),
        ("demo_topci", ["demo_topic"]),
        ("DEMO_TOPIC", ["demo_topic"]),
        ("act_sst3", ["act_sst2", "act_sst5"]),
        ("topic", ["demo_topic"]),
        ("sst", ["sst2"]),
        ("mo_", ["demo_topic", "demo_choice", "demo_sentiment"]),
        ("hellaswag", []),
        ("t", []),
        ("", []),
    ],
)
def test_names_that_may_be_meant(name, expected):
    assert sorted(near_names(name, TASKS)) == sorted(expected)


def test_the_likeliest_comes_first_and_few_are_named():
    known = [f"mmlu_{number}" for number in range(20)]
    assert near_names("mmlu_77", known)[0] == "mmlu_7"
    assert len(near_names("mmlu_x", known)) == 3


def test_the_question():
    assert did_you_mean("act_sst3", TASKS) in (" (did you mean act_sst2 or act_sst5?)", " (did you mean act_sst5 or act_sst2?)")
    assert did_you_mean("betta", ["beta", "theta", "alpha"], "act_") == " (did you mean act_beta?)"
    assert did_you_mean("hellaswag", TASKS) == ""


@pytest.mark.parametrize("value", [[], {}, 5, None, 0.5, ["demo_topic"]])
def test_what_is_no_text_is_like_no_name(value):
    assert did_you_mean(value, TASKS) == ""
