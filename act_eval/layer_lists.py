"""Lists of layers as people write them: `all`, or numbers and ranges such as `2-30,33`; spaces and capitals do not matter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from act_eval.errors import SettingError

_RANGE = r"\s*[0-9]{1,9}\s*(-\s*[0-9]{1,9}\s*)?"
_LAYERS = re.compile(f"{_RANGE}(,{_RANGE})*")


def check_layer_list(text: str) -> None:
    """Raise SettingError unless a text names layers: `all`, or numbers and ranges such as `2-30,33`."""
    if not _is_all(text) and not _LAYERS.fullmatch(text):
        raise SettingError("layers", f"{text!r} is not a list of layers: write all, or such as 2-30,33.")


def resolve_layers(text: str, layers: Sequence[int]) -> tuple[int, ...]:
    """Read the layers that a text names, in ascending order.

    Args:
        text: `all`, or numbers and ranges such as `2-30,33`.
        layers: those of the model that have attention heads, ascending.

    Raises:
        SettingError: the text is no such list, has a range that ends before it begins, or names one that the model lacks.
    """
    check_layer_list(text)
    if _is_all(text):
        return tuple(layers)
    named: set[int] = set()
    for part in text.split(","):
        start, end = (int(number) for number in (part.split("-") * 2)[:2])
        if end < start:
            raise SettingError("layers", f"has the range {part.strip()}: write ranges from the lower layer to the higher one.")
        named.update((start, *range(start, min(end, layers[-1] + 1) + 1)))
    wrong = sorted(named - set(layers))
    if wrong:
        every = len(layers) == layers[-1] + 1
        there = f"layers 0 to {layers[-1]}" if every else f"attention in layers {', '.join(map(str, layers))} alone"
        raise SettingError("layers", f"names layer {wrong[0]}, but the model has {there}.")
    return tuple(sorted(named))


def _is_all(text: str) -> bool:
    return text.strip().lower() == "all"
