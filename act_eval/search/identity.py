"""What makes two searches the same: everything that their numbers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.search.heads import SearchSpace
from act_eval.search.settings import Mode, SearchSettings
from act_eval.search.store import IDENTITY_FILE

_EXACT_UP_TO = 64


def mode_of(settings: SearchSettings, space: SearchSpace) -> Mode:
    """The mode that was asked for; for "auto", that by which a search is made: "exact" for up to 64 heads.

    Beyond, it goes by estimates; or it is screened, where heads are chosen by what each does alone, or by accuracy.
    """
    if settings.mode != "auto":
        return settings.mode
    if len(space.heads) <= _EXACT_UP_TO:
        return "exact"
    return "estimated" if settings.selection == "validated" and settings.objective != "accuracy" else "screened"


@dataclass(frozen=True)
class SearchIdentity:
    """What a search depends on.

    Attributes:
        settings: of the search.
        space: the part of the model that is searched.
        splits: the split whose documents are searched on, by task.
        documents_hash: see `fingerprint`.
        what_ran: see `harness.what_ran.what_ran`.
    """

    settings: SearchSettings
    space: SearchSpace
    splits: Mapping[str, str]
    documents_hash: str
    what_ran: Mapping[str, Any]

    @property
    def mode(self) -> Mode:
        """By which the search is made, see `mode_of`."""
        return mode_of(self.settings, self.space)

    @property
    def content(self) -> dict[str, Any]:
        """All of it by name, in values that JSON can hold."""
        settings = self.settings
        return {
            **self.what_ran,
            "act": settings.act.settings,
            "tasks": dict(self.splits),
            "documents": self.documents_hash,
            "layers": list(self.space.layers),
            "mode": self.mode,
            "objective": settings.objective,
            "budget": settings.budget if self.mode == "screened" else None,
            "selection": settings.selection,
            "k": settings.k,
            "batch_size": settings.model.whole_batch_size(),
            **({"tuned": in_lists(settings.tuned)} if settings.tuned else {}),
        }

    def is_that_of(self, folder: Path) -> bool:
        """Whether a folder holds this search, as far as `what_ran` says which one it is."""
        try:
            there = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
            return all(there[name] == value for name, value in json.loads(json.dumps(self.content)).items())
        except (OSError, ValueError, LookupError, TypeError):
            return False


def in_lists(tuned: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The values that are tried for parameters, as JSON holds them."""
    return {name: list(values) for name, values in tuned.items()}
