"""What is different between two descriptions, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LONGEST_VALUE = 40
_CHANGES_SHOWN = 3
_ABSENT = "not recorded"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what differs, such as `config.rope_theta (10000.0; now 500000.0)`; nested names are joined with dots.

    Args:
        earlier, now: values that JSON can hold, by name.
    """
    return [f"{name} ({shortened(before)}; now {shortened(after)})" for name, before, after in differing(earlier, now)]


def in_words(changes: Sequence[str]) -> str:
    """Join some changes, the first in full: `weights (1a2b; now 3c4d), dtype (float16; now float32), and 2 more`."""
    more = len(changes) - _CHANGES_SHOWN
    return ", ".join(changes[:_CHANGES_SHOWN]) + (f", and {more} more" if more > 0 else "")


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Find each value that differs: its name, nested ones joined with dots, and both values."""
    for name in dict.fromkeys((*left, *right)):
        one, other = left.get(name, _ABSENT), right.get(name, _ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from ((f"{name}.{below}", *values) for below, *values in differing(one, other))
        elif one != other:
            yield name, one, other


def without_addresses(text: str) -> str:
    """Leave out where in memory an object was, which the texts of some objects say, and which differs in every process."""
    return _ADDRESS.sub("", text)


def shortened(value: Any) -> str:
    """Write a value on one line, cut where it is long."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
