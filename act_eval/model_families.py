"""Which model families ACT was tested on, and how: what the last run of the family tests wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class CheckedFamily:
    """A model family of the test matrix.

    Attributes:
        family: as people call it.
        model: the model class in transformers.
        attention: the base backend that it was tested with, which is the one it loads with.
        since: the oldest tested release of transformers in which it can be calibrated.
        checks: what holds on a tiny model with random weights; see `CHECKS`.
        note: what is special about its attention.
    """

    family: str
    model: str
    attention: str
    since: str
    checks: tuple[str, ...]
    note: str


CHECKS = {
    "prefill": "logits of prompts equal a naive reference that rewrites the model's own full attention maps",
    "padding": "the same in batches padded on the left and on the right",
    "decode": "the same for new tokens on the cache, one and several at a time",
    "generation": "the same for the logits of `generate` on a padded batch",
    "off": "without heads to calibrate, logits are bit-identical to the plain model's, and so they are afterwards",
}


def checked_by(family: CheckedFamily) -> str:
    """The checks that a family passed, in a word where it is all of them."""
    return "all" if set(family.checks) == set(CHECKS) else ", ".join(family.checks)


def checked_families() -> list[CheckedFamily]:
    """The families that passed, in the order of the test matrix."""
    text = (resources.files("act_eval") / "model_families.json").read_text(encoding="utf-8")
    return [CheckedFamily(**{**entry, "checks": tuple(entry["checks"])}) for entry in json.loads(text)]


def to_json(families: list[CheckedFamily]) -> str:
    """The content of `model_families.json`."""
    lines = ",\n".join("  " + json.dumps(vars(family), ensure_ascii=False) for family in families)
    return f"[\n{lines}\n]\n"


def to_markdown(families: list[CheckedFamily]) -> str:
    """The table in the documentation (`docs/models.md`)."""
    rows = ["| family | transformers class | attention | since | checked | |", "|---|---|---|---|---|---|"]
    for family in families:
        cells = (family.family, f"`{family.model}`", family.attention, family.since, checked_by(family), family.note)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
