"""Controls: random heads, as many in each layer as a search found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import comb, prod

import numpy as np

from act_eval.profiles import HeadGroup, HeadProfile

_ATTEMPTS = 1000  # to draw a set that is none of the earlier ones


def random_profiles(found: HeadProfile, draws: int, seed: int) -> list[HeadProfile]:
    """Draw sets of heads at random, with as many heads in each layer as there are in a profile.

    All sets of that shape are equally likely, but for the profile's own; no set is drawn twice. So there are fewer draws where
    there are fewer such sets, and none where a profile holds all heads of its layers.

    Args:
        found: the profile; says how many heads a layer has.
        draws: how many sets.
        seed: of the random numbers.
    """
    drawn: list[HeadProfile] = []
    wanted = min(draws, _number_of_sets(found) - 1)
    for profile in _all_draws(found, seed):
        if len(drawn) == wanted:
            break
        if profile.content_hash not in {other.content_hash for other in (found, *drawn)}:
            provenance = {
                "source": "act-eval study",
                "control": "random heads, as many in each layer as were found",
                "of": found.content_hash,
                "seed": seed,
                "draw": len(drawn) + 1,
            }
            drawn.append(replace(profile, provenance=provenance))
    return drawn


def _number_of_sets(found: HeadProfile) -> int:
    """How many sets have as many heads in each layer, the profile's own among them."""
    return prod(comb(_heads_per_layer(found), len(heads)) for heads in found.heads.values())


def _all_draws(found: HeadProfile, seed: int) -> Iterator[HeadProfile]:
    rng = np.random.default_rng(seed)
    per_layer = _heads_per_layer(found)
    for _ in range(_ATTEMPTS):
        heads = {
            layer: tuple(map(int, rng.choice(per_layer, len(own), replace=False))) for layer, own in found.heads.items() if own
        }
        yield replace(found, heads=heads, groups=_as_divided(found, heads), settings={}, provenance={})


def _as_divided(found: HeadProfile, drawn: Mapping[int, Sequence[int]]) -> tuple[HeadGroup, ...]:
    """Divide drawn heads into groups with as many heads of each layer as those of a profile have; none if it has none."""
    left = {layer: list(heads) for layer, heads in drawn.items()}
    groups = []
    for group in found.groups:
        numbers = {layer: len(heads) for layer, heads in group.heads.items() if heads}
        groups.append(replace(group, heads={layer: tuple(left[layer][:number]) for layer, number in numbers.items()}))
        for layer, number in numbers.items():
            del left[layer][:number]
    return tuple(groups)


def _heads_per_layer(found: HeadProfile) -> int:
    if found.num_heads is None:
        raise ValueError("the profile does not say how many heads a layer has")
    return found.num_heads
