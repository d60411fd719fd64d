"""Model arguments that answers do not depend on, and those that must not be written."""

import pytest

from act_eval.model_arguments import results_without_secrets, without_placement, without_secrets

pytestmark = pytest.mark.tier("unit")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"pretrained": "a", "token": "x", "api_key": "y"}, {"pretrained": "a"}),
        ({"think_end_token": "</think>", "add_bos_token": True}, {"think_end_token": "</think>", "add_bos_token": True}),
        ("pretrained=a,token=x,dtype=b", "pretrained=a,dtype=b"),
        ("header={'Authorization': 'x',y},dtype=b", "dtype=b"),
        ("pretrained=a,stop=[1,2]", "pretrained=a,stop=[1,2]"),
        ("", ""),
        (None, None),
    ],
)
def test_without_secrets(given, kept):
    assert without_secrets(given) == kept


def test_neither_placement_nor_secrets_are_of_the_answers():
    assert without_placement({"pretrained": "a", "parallelize": True, "device_map": "auto", "token": "x"}) == {
        "pretrained": "a"
    }


def test_of_a_results_file_nothing_else_is_changed():
    results = {
        "config": {"model_args": {"pretrained": "a", "token": "x"}, "limit": 3},
        "configs": {"demo": {"metadata": {"version": 1, "token": "x"}, "tag": "t"}, "other": {}},
        "results": {"demo": {"acc,none": 0.5}},
    }
    kept = results_without_secrets(results)
    assert kept == {
        **results,
        "config": {"model_args": {"pretrained": "a"}, "limit": 3},
        "configs": {"demo": {"metadata": {"version": 1}, "tag": "t"}, "other": {}},
    }
    assert results_without_secrets({}) == {}
