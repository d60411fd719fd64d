"""Known names that are like one that is not known, to suggest them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

_LEAST_ALIKE, _LESS_THAN_BEST = 0.7, 0.1  # of difflib's ratio, which is 1 for the same name
_MOST_NAMES = 3
_SHORTEST_PART = 3  # of a name, in letters


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Find the known names that a name may have been meant for, the likeliest first: at most three that are about as like it.

    Upper and lower case do not matter. Where no name is like it, those count that hold it, such as `demo_topic` for `topic`.
    """
    in_lower_case = {other.lower(): other for other in known}
    wanted = name.lower()
    found = get_close_matches(wanted, in_lower_case, _MOST_NAMES, _LEAST_ALIKE)
    alike = [SequenceMatcher(None, other, wanted).ratio() for other in found]
    found = [other for other, ratio in zip(found, alike, strict=True) if ratio >= alike[0] - _LESS_THAN_BEST]
    if not found and len(wanted) >= _SHORTEST_PART:
        found = sorted((other for other in in_lower_case if wanted in other), key=len)[:_MOST_NAMES]
    return [in_lower_case[other] for other in found]


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """A question to stand behind a name that is not known, such as ` (did you mean demo_topic?)`; empty where none is like it.

    Args:
        name: what was given, which may be no text at all, and then is like no name.
        known: all names that there are.
        prefix: what all of them begin with where they are written, such as `act_`; it is in none of the above.
    """
    names = [f"{prefix}{near}" for near in near_names(name, known)] if isinstance(name, str) else []
    return f" (did you mean {' or '.join(names)}?)" if names else ""
