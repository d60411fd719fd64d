"""What a search found: what each head does alone, the table of heads, the profile, and the costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from act_eval.harness.settings import PromptSettings
from act_eval.profiles import HeadProfile
from act_eval.search.heads import Head, profile_from_heads
from act_eval.search.identity import SearchIdentity
from act_eval.search.scores import PairedScores, Scores


@dataclass(frozen=True)
class Costs:
    """What the parts of a search cost, in layer passes.

    Attributes:
        full_pass: one pass without calibration over the documents that heads are scored on.
        estimates: of all heads.
        exact: exact scores of single heads.
        validation: scores of head sets.
    """

    full_pass: float
    estimates: float = 0.0
    exact: float = 0.0
    validation: float = 0.0

    @property
    def in_full_passes(self) -> dict[str, float]:
        """The parts by name, and their total, in full passes."""
        parts = {name: getattr(self, name) / self.full_pass for name in ("estimates", "exact", "validation")}
        return {**parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class MeasuredHeads:
    """What a search measured of each head alone.

    Attributes:
        scores: exact scores of those that were scored, on the documents that they were scored on.
        costs: so far.
        estimates: for each head, the mean of its estimated margin changes in nats; None where nothing was estimated.
        with_sinks: for each head, the share of documents in which it has something to calibrate; None as well.
    """

    scores: Mapping[Head, PairedScores]
    costs: Costs
    estimates: Mapping[Head, float] | None = None
    with_sinks: Mapping[Head, float] | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        profile: the heads.
        heads: a row for each head that was searched; see `head_table`.
        head_sets: a row for each number of heads tried together, see `validate_head_sets`; empty unless validated.
        full_passes: what it cost, by part, in passes without calibration over the documents that heads were scored on.
    """

    profile: HeadProfile
    heads: pd.DataFrame
    head_sets: pd.DataFrame
    full_passes: dict[str, float]

    def summary(self) -> list[str]:
        """What to tell the user, in lines."""
        scored = self.heads[self.heads["documents"] > 0]
        parts = ", ".join(f"{name} {cost:.1f}" for name, cost in self.full_passes.items() if name != "total" and cost)
        cost = f"{self.full_passes['total']:.1f} full-pass equivalents ({parts})"
        lines = [
            f"{len(scored)} of {len(self.heads)} heads were scored, at a cost of {cost}; one full pass for each head would "
            f"cost {len(self.heads)}."
        ]
        for row in self.head_sets.to_dict("records"):
            changes = f"accuracy {100 * row['accuracy_change']:+.2f} points, margin {row['margin_change']:+.4f} nats"
            lines.append(f"{row['heads']} heads together: {changes}{' (chosen)' if row['chosen'] else ''}")
        if not self.profile.size:
            lines.append("No head was chosen: calibration did not help on these documents, and the profile is empty.")
        return lines


def head_table(heads: Sequence[Head], measured: MeasuredHeads, tasks: np.ndarray) -> pd.DataFrame:
    """Make the table of heads, a row for each, by layer and head.

    Columns: `layer`, `head`, `documents` that it was scored on; in screened mode `estimate` (of the margin change, nats) and
    `with_sinks` (share of documents); and the columns of `PairedScores.changes`. Changes are NaN where a head was not scored,
    and 0 where it has nothing to calibrate in any document.

    Args:
        heads: all that are searched.
        measured: what was found for them.
        tasks: str `[documents]`, the task of each document that heads are scored on.
    """
    nothing = Scores(np.zeros(len(tasks), dtype=bool), np.zeros(len(tasks)))
    unchanged = PairedScores(tasks, nothing, nothing).changes
    rows = []
    for head in heads:
        row: dict[str, Any] = {"layer": head[0], "head": head[1], "documents": 0}
        if measured.estimates is not None and measured.with_sinks is not None:
            row |= {"estimate": measured.estimates[head], "with_sinks": measured.with_sinks[head]}
        if head in measured.scores:
            row |= measured.scores[head].changes
        elif measured.with_sinks is not None and not measured.with_sinks[head]:
            row |= unchanged
        rows.append(row)
    return pd.DataFrame(rows)


def make_profile(
    identity: SearchIdentity,
    chosen: Sequence[Head],
    heads: pd.DataFrame,
    head_sets: pd.DataFrame,
    documents: Mapping[str, int],
    full_passes: Mapping[str, float],
) -> HeadProfile:
    """Make the profile of the chosen heads, with all that is known of how they were found.

    Args:
        identity: of the search.
        chosen: the heads.
        heads: see `head_table`.
        head_sets: see `validate_head_sets`; empty unless validated.
        documents: how many of them heads were scored on ("search") and head sets ("validation").
        full_passes: what the search cost, by part.
    """
    settings, space = identity.settings, identity.space
    alone = heads.set_index(["layer", "head"])[["accuracy_change", "margin_change"]].round(6)
    provenance: dict[str, Any] = {
        "source": "act-eval search",
        "mode": identity.mode,
        "selection": settings.selection if settings.k is None else f"top-{settings.k}",
        "layers_searched": list(space.layers),
        "tasks": dict(identity.splits),
        "documents": dict(documents),
        "documents_hash": identity.documents_hash,
        **_recorded(settings.prompts),
        "weights_hash": identity.what_ran["model"]["weights"],
        "full_passes": {name: round(cost, 3) for name, cost in full_passes.items()},
        "heads_alone": {f"{layer}:{head}": alone.loc[(layer, head)].to_dict() for layer, head in chosen},
        "versions": identity.what_ran["versions"],
    }
    if len(head_sets):
        columns = ["heads", "chosen", "accuracy_change", "margin_change"]
        provenance["heads_together"] = head_sets[columns].round(6).to_dict("records")
    name = settings.model.model_args.get("pretrained")
    return HeadProfile(
        profile_from_heads(chosen).heads,
        model=str(name) if name is not None else "act-eval-demo",
        num_layers=space.num_layers,
        num_heads=space.num_heads,
        settings=settings.act.settings,
        provenance=provenance,
    )


def _recorded(prompts: PromptSettings) -> dict[str, Any]:
    """What a profile says of the prompts: the seed last, as profiles always had it."""
    recorded = prompts.recorded
    return {**{name: value for name, value in recorded.items() if name != "seed"}, "seed": recorded["seed"]}
