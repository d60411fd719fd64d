"""How much of what could be tried a test tries: representative members by default, all with `make test-thorough`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from hypothesis import settings

THOROUGH = os.environ.get("ACT_EVAL_THOROUGH", "") not in ("", "0")
EXAMPLES = 30
_TIMES_AS_MANY = 10  # where tests are thorough

Member = TypeVar("Member")
Other = TypeVar("Other")


def examples(count: int = EXAMPLES) -> settings:
    """Decorate a test that is given examples: how many of them, where tests are not thorough."""
    return settings(max_examples=count * _TIMES_AS_MANY if THOROUGH else count)


def thorough(*members: Member) -> list[Member]:
    """Members of a grid that thorough tests alone try, beside others that all tests try."""
    return list(members) if THOROUGH else []


def some(members: Sequence[Member], count: int) -> list[Member]:
    """`count` of many members, evenly spaced, the first and the last among them; all of them where tests are thorough."""
    if THOROUGH or len(members) <= count:
        return list(members)
    return [members[place] for place in np.linspace(0, len(members) - 1, count).round().astype(int)]


def pairs(members: Sequence[Member], others: Sequence[Other]) -> list[tuple[Member, Other]]:
    """Pairs of a grid that hold all members and all others; the whole grid where tests are thorough."""
    if THOROUGH:
        return list(itertools.product(members, others))
    turns = range(max(len(members), len(others)))
    return [(members[turn % len(members)], others[turn % len(others)]) for turn in turns]
