"""Which settings differ in how many heads of one ranking are calibrated: against the definition, for any sets of heads."""

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.report.rankings import rankings

pytestmark = pytest.mark.tier("unit")

METHOD = {"method": "act", "parameters": {"beta": 0.4}, "alpha": 5, "threshold": None}
HEADS = st.frozensets(st.sampled_from([(layer, head) for layer in range(2) for head in range(3)]), min_size=1)


def run(settings, heads, model="model", **act):
    """A run with heads as pairs of layer and head; without any it is a baseline."""
    by_layer = {}
    for layer, head in sorted(heads or ()):
        by_layer.setdefault(str(layer), []).append(head)
    recorded = {**METHOD, "profile": settings, "profile_hash": settings, "num_heads": len(heads or ()), "text": settings, **act}
    recorded |= {} if heads is None else {"heads": by_layer}
    return {"model": model, "settings": settings, "is_baseline": heads == (), "arguments": {"act": recorded}}


def chains(*runs):
    return {model: sorted(of_model) for model, of_model in rankings(pd.DataFrame(runs)).items()}


ONE, TWO, THREE = [(0, 0)], [(0, 0), (1, 2)], [(0, 0), (1, 2), (1, 3)]
OTHER = [(0, 1), (1, 1)]


def test_nested_sets_are_one_ranking_whatever_they_are_called():
    found = chains(run("c", TWO), run("a", THREE), run("b", ONE), run("baseline", ()))
    assert found == {"model": [["b", "c", "a"]]}


def test_what_is_done_in_the_heads_tells_rankings_apart():
    found = chains(run("a", ONE), run("b", TWO), run("c", THREE, alpha=3), run("d", THREE, method="boost"))
    assert found == {"model": [["a", "b"], ["c"], ["d"]]}


def test_models_are_apart():
    assert chains(run("a", ONE), run("b", TWO, model="other")) == {"model": [["a"]], "other": [["b"]]}


def test_controls_of_a_study_are_no_ranking():
    """All heads hold those found and random ones, which do not hold each other."""
    every_head = [*THREE, *OTHER]
    found = chains(run("all heads", every_head), run("heads found", TWO), run("random heads 1", OTHER))
    assert found == {"model": [["all heads"], ["heads found"], ["random heads 1"]]}


def test_the_next_larger_set_counts():
    """A set that is a part of the one before does not keep a ranking from going on."""
    found = chains(run("a", ONE), run("b", [(1, 2)]), run("c", TWO), run("d", THREE))
    assert found == {"model": [["a"], ["b"], ["c", "d"]]}


def test_settings_without_heads_or_with_groups_are_in_none():
    assert chains(run("a", ONE), run("b", None), run("c", TWO, groups=[{"0": [0]}, {"1": [2]}])) == {"model": [["a"]]}


def test_files_of_before_parameters_lay_apart():
    old = {"beta": 0.4, "threshold": None, "alpha": 5, "keep": "first-sink", "decode": "prefill", "num_heads": 1}
    runs = [
        {**run(name, heads), "arguments": {"act": {**old, "profile": name, "profile_hash": name, "heads": of_layers}}}
        for name, heads, of_layers in (("a", ONE, {"0": [0]}), ("b", TWO, {"0": [0], "1": [2]}))
    ]
    assert chains(*runs) == {"model": [["a", "b"]]}


@given(st.lists(HEADS, min_size=1, max_size=7))
def test_every_set_is_in_one_chain_and_chains_are_nested(sets):
    by_name = {f"{number}": heads for number, heads in enumerate(sets)}
    (found,) = rankings(pd.DataFrame([run(name, heads) for name, heads in by_name.items()])).values()
    assert sorted(itertools.chain(*found)) == sorted(by_name)
    for chain in found:
        assert all(by_name[one] < by_name[other] for one, other in itertools.pairwise(chain))
