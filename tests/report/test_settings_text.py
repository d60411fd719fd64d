"""What settings of studies are called in reports: by the variant, and no two alike."""

import pytest

from act_eval.report.settings_text import names_of_variants, profile_of

pytestmark = pytest.mark.tier("unit")

REST = " (4 heads), beta 0.4, alpha 5"
FOUND = f"search/profile.json 08360df3{REST}"
OTHER_FOUND = f"search/profile.json 55b694c1{REST}"


def test_a_variant_stands_in_place_of_the_profile():
    names = names_of_variants([("m", {"heads found": FOUND, "baseline": "baseline", "all heads": "all (32 heads), beta 0.4"})])
    assert names == {
        ("m", FOUND): f"heads found{REST}",
        ("m", "all (32 heads), beta 0.4"): "all heads (32 heads), beta 0.4",
    }


def test_studies_of_other_models_may_have_the_same_names():
    names = names_of_variants([("m", {"heads found": FOUND}), ("n", {"heads found": OTHER_FOUND})])
    assert set(names.values()) == {f"heads found{REST}"}


def test_studies_of_one_model_never_do():
    names = names_of_variants([("m", {"heads found": FOUND}), ("m", {"heads found": OTHER_FOUND})])
    assert names == {("m", FOUND): f"heads found: {FOUND}", ("m", OTHER_FOUND): f"heads found: {OTHER_FOUND}"}


def test_settings_that_change_nothing_stay_the_baseline():
    assert names_of_variants([("m", {"heads found": "baseline"})]) == {}


def test_a_path_with_brackets():
    text = f"my (old) heads/profile.json 08360df3{REST}"
    assert profile_of(text) == "my (old) heads/profile.json 08360df3"
    assert names_of_variants([("m", {"heads found": text})]) == {("m", text): f"heads found{REST}"}
