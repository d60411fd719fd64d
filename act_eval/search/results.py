"""What a search found: what each head does alone, the table of heads, the profile, and the costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from act_eval.attention.act import ACT
from act_eval.demo import DEMO_MODEL_NAME
from act_eval.harness.settings import PromptSettings
from act_eval.harness.what_ran import in_json
from act_eval.head_scores import ESTIMATE_TOGETHER
from act_eval.model_arguments import without_placement
from act_eval.profiles import HeadProfile
from act_eval.search.heads import Head
from act_eval.search.identity import SearchIdentity, in_lists
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


def sum_of_costs(costs: Sequence[Costs]) -> Costs:
    """What several measurements of the same documents cost together; a full pass stays what it is."""
    added = (field.name for field in fields(Costs) if field.name != "full_pass")
    return Costs(costs[0].full_pass, **{name: sum(getattr(of_one, name) for of_one in costs) for name in added})


@dataclass(frozen=True)
class MeasuredHeads:
    """What a search measured of each head alone.

    Attributes:
        scores: exact scores of those that were scored, on the documents that they were scored on.
        costs: so far.
        estimates: for each head, the mean of its estimated margin changes in nats; None where nothing was estimated.
        affected_shares: for each head, the share of documents in which calibrating it changes anything; None as well.
        worth_together: for each head, what it is worth while the best by estimates are calibrated, in nats, see `ranking`;
            None where heads were not ranked so.
    """

    scores: Mapping[Head, PairedScores]
    costs: Costs
    estimates: Mapping[Head, float] | None = None
    affected_shares: Mapping[Head, float] | None = None
    worth_together: Mapping[Head, float] | None = None


@dataclass(frozen=True)
class ValidatedGain:
    """What a set of heads gains on the documents of the validation, against no heads.

    It is the gain of the set that did best of several, or nearly so: what the evaluation split will show is less on average.

    Attributes:
        heads: how many are in the set.
        chosen: whether there is evidence for it. If not, no head was chosen, and this is the best set that was tried.
        documents: of the validation.
        accuracy_change: a share.
        accuracy_low, accuracy_high: a 95% interval of it, of this set by itself.
        margin_change: nats; where the choice is by entropy, minus the change of the mean entropy.
        p_value: one-sided, corrected for the number of sets; see `evidence`.
        by_entropy: whether the choice is by the entropy of the choices, for which the accuracy counts nothing.
    """

    heads: int
    chosen: bool
    documents: int
    accuracy_change: float
    accuracy_low: float
    accuracy_high: float
    margin_change: float
    p_value: float
    by_entropy: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, Any], by_entropy: bool) -> ValidatedGain:
        """Take it from a row of the table of head sets."""
        in_row = (attribute.name for attribute in fields(cls) if attribute.name != "by_entropy")
        return cls(**{name: row[name] for name in in_row}, by_entropy=by_entropy)

    def summary(self) -> str:
        """What to tell the user, in a line."""
        change = self._change_of_entropy if self.by_entropy else f"{100 * self.accuracy_change:+.1f} points"
        p = f"p = {self.p_value:.2g}" if self.p_value >= 0.001 else "p < 0.001"
        if self.chosen:
            heads = f"{self.heads} heads were" if self.heads > 1 else "1 head was"
            interval = f" of accuracy (95%: {100 * self.accuracy_low:+.1f} to {100 * self.accuracy_high:+.1f})"
            return (
                f"{heads} chosen: {change}{'' if self.by_entropy else interval} over {self.documents} documents that had no "
                f"part in finding them, {p}."
            )
        if self.by_entropy and self.margin_change <= 0:
            return f"No head was chosen: no set that was tried lowered the mean entropy of {self.documents} documents."
        if not self.by_entropy and self.accuracy_change <= 0:
            return f"No head was chosen: no set that was tried raised the accuracy of {self.documents} documents."
        gain = change if self.by_entropy else f"gain of {change}"
        return (
            f"No head was chosen: the best set's {gain} over {self.documents} documents has {p}; more documents, with "
            "--limit, would tell."
        )

    @property
    def _change_of_entropy(self) -> str:
        return f"change of the mean entropy by {-self.margin_change:+.4f} nats"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        profile: the heads.
        heads: a row for each head that was searched; see `head_table`.
        head_sets: a row for each number of heads tried together, see `Validation`; empty unless validated.
        full_passes: what it cost, by part, in passes without calibration over the documents that heads were scored on.
        gain: of the chosen heads, or of the best that were tried; None unless validated, or where there were no candidates.
        candidates: heads that alone are good enough, the best first; validation tries the first of them together.
        k: how many were asked for, with selection top-k.
    """

    profile: HeadProfile
    heads: pd.DataFrame
    head_sets: pd.DataFrame
    full_passes: dict[str, float]
    gain: ValidatedGain | None = None
    candidates: Sequence[Head] = ()
    k: int | None = None

    def summary(self) -> list[str]:
        """What to tell the user, in lines."""
        scored = self.heads[self.heads["documents"] > 0]
        parts = ", ".join(f"{name} {cost:.1f}" for name, cost in self.full_passes.items() if name != "total" and cost)
        cost = f"{self.full_passes['total']:.1f} full-pass equivalents ({parts})"
        done = f"{len(scored)} of {len(self.heads)} heads were scored"
        if ESTIMATE_TOGETHER in self.heads:
            done = f"{len(self.heads)} heads were estimated"
        lines = [f"{done}, at a cost of {cost}; one full pass for each head would cost {len(self.heads)}."]
        most = self.head_sets["documents"].max() if len(self.head_sets) else 0
        by_entropy = self.gain is not None and self.gain.by_entropy
        for row in self.head_sets.to_dict("records"):
            margin = f"entropy {-row['margin_change']:+.4f}" if by_entropy else f"margin {row['margin_change']:+.4f}"
            changes = f"accuracy {100 * row['accuracy_change']:+.2f} points, {margin} nats"
            p = "" if np.isnan(row["p_value"]) else f", p = {row['p_value']:.2g}"
            on = f" on the first {row['documents']} documents" if row["documents"] < most else ""
            lines.append(f"{row['heads']} heads together{on}: {changes}{p}{' (chosen)' if row['chosen'] else ''}")
        if self.gain is not None:
            lines.append(self.gain.summary())
        elif not self.profile.size:
            lines.append("No head was chosen: calibrating one alone did not help on these documents.")
        elif self.k is not None and self.profile.size < self.k:
            are = "1 head is" if self.profile.size == 1 else f"{self.profile.size} heads are"
            good = "worth something by their estimates" if ESTIMATE_TOGETHER in self.heads else "scored on all documents"
            lines.append(f"{are} chosen instead of {self.k}: no other is {good}.")
        if not self.profile.size:
            lines.append("The profile is empty: calibrating its heads is the baseline itself.")
        return lines


def head_table(heads: Sequence[Head], measured: MeasuredHeads, tasks: np.ndarray) -> pd.DataFrame:
    """Make the table of heads, a row for each, by layer and head.

    Columns: `layer`, `head`, `documents` that it was scored on; unless in exact mode, `estimate` (of the margin change, nats)
    and `with_sinks` (`MeasuredHeads.affected_shares`); in estimated mode `estimate_together` (`MeasuredHeads.worth_together`);
    and the columns of `PairedScores.changes`. Changes are NaN where a head was not scored, and 0 where it has nothing to
    calibrate in any document.

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
        if measured.estimates is not None and measured.affected_shares is not None:
            row |= {"estimate": measured.estimates[head], "with_sinks": measured.affected_shares[head]}
        if measured.worth_together is not None:
            row[ESTIMATE_TOGETHER] = measured.worth_together[head]
        if head in measured.scores:
            row |= measured.scores[head].changes
        elif measured.affected_shares is not None and not measured.affected_shares[head]:
            row |= unchanged
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table.columns, *(name for name in unchanged if name not in table.columns)])


def make_profile(
    identity: SearchIdentity,
    chosen: Sequence[Head],
    heads: pd.DataFrame,
    head_sets: pd.DataFrame,
    gain: ValidatedGain | None,
    documents: Mapping[str, int],
    full_passes: Mapping[str, float],
    act: ACT,
    found: HeadProfile,
) -> HeadProfile:
    """Make the profile of the chosen heads, with all that is known of how they were found.

    Args:
        identity: of the search.
        chosen: the heads.
        heads: see `head_table`.
        head_sets: see `Validation`; empty unless validated.
        gain: of the chosen heads, or else of the best set that was tried; see `SearchResult`.
        documents: how many of them heads were scored on ("search") and head sets ("validation").
        full_passes: what the search cost, by part.
        act: with the parameters that the search chose.
        found: the chosen heads as a profile, in groups where the method has parts.
    """
    settings, space = identity.settings, identity.space
    measured = [ESTIMATE_TOGETHER] if identity.mode == "estimated" else ["accuracy_change", "margin_change"]
    alone = heads.set_index(["layer", "head"])[measured].round(6)
    provenance: dict[str, Any] = {
        "source": "act-eval search",
        "mode": identity.mode,
        "objective": settings.objective,
        **({"tuned": in_lists(settings.tuned)} if settings.tuned else {}),
        "selection": settings.selection if settings.k is None else f"top-{settings.k}",
        **({"budget": settings.budget} if identity.mode == "screened" else {}),
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
        columns = ["heads", "chosen", "documents", "accuracy_change", "margin_change"]
        provenance["heads_together"] = head_sets[columns].round(6).to_dict("records")
        provenance["evidence"] = None if gain is None else _rounded(asdict(gain))
    model_args = in_json(without_placement(settings.model.without_act))
    name = model_args.pop("pretrained", None)
    if model_args:
        provenance["model_args"] = model_args
    return HeadProfile(
        found.heads,
        groups=found.groups,
        model=str(name) if name is not None else DEMO_MODEL_NAME,
        num_layers=space.num_layers,
        num_heads=space.num_heads,
        settings=act.settings,
        provenance=provenance,
    )


def _recorded(prompts: PromptSettings) -> dict[str, Any]:
    """What a profile says of the prompts: the seed last, as profiles always had it."""
    recorded = prompts.recorded
    return {**{name: value for name, value in recorded.items() if name != "seed"}, "seed": recorded["seed"]}


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}
