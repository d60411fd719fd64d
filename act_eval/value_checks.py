"""What counts as a number where a user gives a value: True and False do not, though Python takes them for 1 and 0."""

from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is an integer or a float; NaN and infinity are."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole_number(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer; 2.0 is none."""
    return isinstance(value, int) and not isinstance(value, bool)
