"""Random heads: as many in each layer, all sets equally likely, none twice, and never the heads found."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from act_eval.profiles import HeadProfile
from act_eval.study.controls import random_profiles

pytestmark = pytest.mark.tier("unit")


@st.composite
def profiles(draw):
    per_layer = draw(st.integers(1, 12))
    layers = draw(st.sets(st.integers(0, 40), min_size=1, max_size=6))
    heads = {layer: tuple(draw(st.sets(st.integers(0, per_layer - 1), min_size=1))) for layer in layers}
    return HeadProfile(heads, num_layers=41, num_heads=per_layer)


@given(profiles(), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_as_many_in_each_layer(found, draws, seed):
    drawn = random_profiles(found, draws, seed)
    for profile in drawn:
        assert {layer: len(heads) for layer, heads in profile.heads.items()} == {
            layer: len(heads) for layer, heads in found.heads.items()
        }
        profile.check(41, found.num_heads)
    hashes = [profile.content_hash for profile in (found, *drawn)]
    assert len(set(hashes)) == len(hashes)
    assert len(drawn) <= draws
    if any(1 < len(heads) < found.num_heads - 1 for heads in found.heads.values()):
        assert len(drawn) == draws  # there are at least five other sets
    assert [profile.heads for profile in random_profiles(found, draws, seed)] == [profile.heads for profile in drawn]


def test_every_set_is_equally_likely():
    found = HeadProfile({3: (0, 1)}, num_layers=5, num_heads=4)
    counts = Counter(random_profiles(found, 1, seed)[0].heads[3] for seed in range(2000))
    assert set(counts) == set(combinations(range(4), 2)) - {(0, 1)}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_there_are_no_other_sets_of_all_heads_of_a_layer():
    assert random_profiles(HeadProfile({3: (0, 1, 2, 3)}, num_layers=5, num_heads=4), 3, 0) == []


def test_all_other_sets_are_found_where_there_are_few():
    drawn = random_profiles(HeadProfile({3: (2,)}, num_layers=5, num_heads=4), 3, 0)
    assert {profile.heads[3] for profile in drawn} == {(0,), (1,), (3,)}


def test_a_profile_says_where_it_comes_from():
    found = HeadProfile({3: (0, 1)}, model="some/model", num_layers=5, num_heads=4, settings={"beta": 0.4})
    first, second = random_profiles(found, 2, 7)
    assert (first.model, first.num_layers, first.num_heads) == ("some/model", 5, 4)
    assert first.provenance["of"] == found.content_hash
    assert (first.provenance["draw"], second.provenance["draw"]) == (1, 2)
