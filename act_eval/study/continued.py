"""Studies that go on where they were stopped: only as they were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from act_eval.differences import differences, in_words
from act_eval.errors import InputError


def check_asked_alike(output: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a folder's record says what is asked for now.

    Args:
        output: the folder.
        there: what the record says, in values that JSON can hold.
        now: what is asked for, in the same form.

    Raises:
        InputError: something differs; names it.
    """
    changed = differences(there, now)
    if changed:
        raise InputError(
            f"{output} holds a study that was asked for otherwise ({in_words(changed)}), and what a study compares is fixed "
            "before it starts: choose another folder."
        )
