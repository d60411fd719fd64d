"""Lists of layers as people write them: `all`, or numbers and ranges such as `2-30,33`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from act_eval.errors import SettingError

_LAYERS = re.compile(r"{0}(-{0})?(,{0}(-{0})?)*".format("[0-9]{1,9}"))


def check_layer_list(text: str) -> None:
    """Raise SettingError unless a text names layers: `all`, or numbers and ranges such as `2-30,33`."""
    if text != "all" and not _LAYERS.fullmatch(text):
        raise SettingError("layers", f"{text!r} is not a list of layers: write all, or such as 2-30,33.")


def resolve_layers(text: str, layers: Sequence[int]) -> tuple[int, ...]:
    """Read the layers that a text names, in ascending order.

    Args:
        text: `all`, or numbers and ranges such as `2-30,33`.
        layers: those of the model that have attention heads, ascending.

    Raises:
        SettingError: the text names none, or one that is not among the model's.
    """
    check_layer_list(text)
    if text == "all":
        return tuple(layers)
    named: set[int] = set()
    for start, _, end in (part.partition("-") for part in text.split(",")):
        named.update(range(int(start), min(int(end or start), layers[-1] + 1) + 1))
    if not named:
        raise SettingError("layers", f"{text!r} names no layer: write ranges from the lower layer to the higher one.")
    wrong = sorted(named - set(layers))
    if wrong:
        every = len(layers) == layers[-1] + 1
        there = f"layers 0 to {layers[-1]}" if every else f"attention in layers {', '.join(map(str, layers))} alone"
        raise SettingError("layers", f"names layer {wrong[0]}, but the model has {there}.")
    return tuple(sorted(named))
