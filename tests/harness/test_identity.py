"""What results say of a run's settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.attention.act import ACT
from act_eval.harness.identity import act_identity, recorded_act, settings_text
from act_eval.profiles import HeadProfile
from act_eval.report.older_files import current_form

pytestmark = pytest.mark.tier("unit")

HEADS = HeadProfile({0: (1, 2), 3: (0,)})

methods = st.one_of(
    st.fixed_dictionaries({"method": st.just("act")}, optional={"beta": st.floats(0, 0.99)}),
    st.fixed_dictionaries({"method": st.just("boost"), "beta": st.floats(1.01, 1000)}),
    st.just({"method": "remove"}),
)
thresholds = st.one_of(
    st.just({}),
    st.builds(lambda value: {"threshold": value}, st.floats(0, 0.99)),
    st.just({"alpha": 5}),
    st.just({"alpha": 0.25}),
)
others = st.fixed_dictionaries(
    {},
    optional={
        "keep": st.sampled_from(["first-sink", "first-token"]),
        "decode": st.sampled_from(["prefill", "row"]),
        "sink_share": st.floats(0.01, 1),
        "base": st.sampled_from(["eager", "sdpa"]),
    },
)


@given(methods, thresholds, others, st.sampled_from(["all", "runs/heads/profile.json", "0:1+2;3:0", "0:1+2;3:0;4:1+2+3;5:0"]))
def test_the_text_is_that_of_files_without_one(method, threshold, other, profile_name):
    act = ACT(HEADS, **method, **threshold, **other)
    older = {**act_identity(act, HEADS), "profile": profile_name, "num_heads": HEADS.size}
    for name in ("min_queries", "span", "span_missing"):  # which came with files that have a text
        del older[name]
    recorded = recorded_act(act, HEADS, profile_name)
    assert current_form(older)["text"] == recorded["text"] == settings_text(act, HEADS, profile_name)
    assert current_form(older)["parameters"] == recorded["parameters"] == act.method.parameters


def test_a_run_without_calibration_is_the_baseline():
    assert settings_text(ACT(HEADS, beta=1), HEADS, "all") == "baseline"
    assert settings_text(ACT(HeadProfile({})), HeadProfile({}), "none") == "baseline"
    assert settings_text(ACT(HEADS, sink_share=0), HEADS, "all") == "baseline"


def test_numbers_before_words():
    act = ACT(HEADS, alpha=3, keep="first-token", decode="row", sink_share=0.5)
    assert settings_text(act, HEADS, "all") == "all (3 heads), beta 0.4, alpha 3, 50% of sinks, first-token, decode row"
    act = ACT(HEADS, alpha=3, min_queries=8, keep="first-token")
    assert settings_text(act, HEADS, "all") == "all (3 heads), beta 0.4, alpha 3, sinks seen by 8 queries or more, first-token"
