"""What to search for, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from act_eval.attention.act import ACT
from act_eval.errors import InputError, SettingError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.layer_lists import check_layer_list
from act_eval.profiles import HeadProfile

Mode = Literal["auto", "exact", "screened", "estimated"]
Objective = Literal["margin", "corrected-margin", "accuracy", "entropy"]
Selection = Literal["validated", "improving", "top-k"]


@dataclass(frozen=True)
class SearchSettings:
    """What to search for, and on what.

    Args:
        model: which model; its arguments hold neither act_profile, which is searched for, nor act_head_share.
        prompts: the tasks, of which documents of the training split are drawn, and how these become prompts.
        layers: layers to look at: "all", or numbers and ranges such as "2-30,33"; None for all but the first two and the last.
        mode: "exact" scores every head on every document; "screened" estimates all heads and scores the promising ones;
            "estimated" goes by estimates alone, at a cost that does not depend on the number of heads; "auto" is exact up to 64
            heads, and estimated beyond, or screened where the selection is not "validated".
        budget: of screened mode: cost of its exact part as a share of that of a full pass for each head.
        selection: "validated": of the head sets whose gain over no heads is supported by the second half of the documents, the
            smallest that cannot be told from the best, and no head where there is no such set (see `evidence`);
            "improving": every head that alone raises the accuracy; "top-k": of the heads that were scored on all documents the
            `k` that alone do most for the objective, also where that is nothing or harm; in mode "estimated" the `k` with the
            greatest estimates beside others, of those that have one above 0. There may be fewer than `k`.
        k: for "top-k".
        objective: what heads are to do: raise the "margin", or the "corrected-margin", from which label priors are subtracted,
            as they then are from the search's accuracies; raise the "accuracy", which takes exact scores of single heads; or,
            without labels, lower the "entropy" of the probabilities of the choices. See `objective`.

    Raises:
        InputError: a setting is out of range.
    """

    model: ModelSettings
    prompts: PromptSettings
    layers: str | None = None
    mode: Mode = "auto"
    budget: float = 0.12
    selection: Selection = "validated"
    k: int | None = None
    objective: Objective = "margin"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", self.prompts.with_whole_limit())
        for name, allowed in (("mode", Mode), ("selection", Selection), ("objective", Objective)):
            if getattr(self, name) not in get_args(allowed):
                raise SettingError(name, f"{getattr(self, name)!r} is unknown: choose one of {', '.join(get_args(allowed))}.")
        if (self.selection == "top-k") != (self.k is not None):
            raise SettingError("k", "goes together with selection top-k: give both, or neither.")
        if self.k is not None and self.k < 1:
            raise SettingError("k", f"must be at least 1, not {self.k}.")
        if self.mode == "estimated" and self.selection == "improving":
            raise SettingError(
                "selection",
                "improving goes by exact accuracies, which mode estimated does not have: choose another of the two.",
            )
        if self.objective == "accuracy" and self.mode == "estimated":
            raise SettingError(
                "objective", "accuracy goes by exact scores, which mode estimated does not have: choose another."
            )
        if self.objective == "entropy" and self.selection == "improving":
            raise SettingError(
                "objective", "entropy does without labels, but selection improving goes by them: choose another."
            )
        if not 0 < self.budget <= 1:
            raise SettingError("budget", f"is a share of the cost of all heads, above 0 and at most 1, not {self.budget}.")
        if self.selection == "validated" and self.prompts.limit == 1:
            raise SettingError("selection", "validated needs at least 2 documents: raise the limit.")
        if self.layers is not None:
            check_layer_list(self.layers)
        if "act_profile" in self.model.model_args:
            raise InputError("act_profile does not go with a search, which is to find the profile: leave it out.")
        if "act_head_share" in self.model.model_args:
            raise InputError(
                "act_head_share does not go with a search, which says itself how many heads are calibrated: leave it out, or "
                "ask for their number with selection top-k."
            )
        self.model.whole_batch_size()
        if self.act.changes_nothing:
            raise InputError(
                f"{self._act_arguments.without_effect} changes nothing, so no head could help: choose other values."
            )

    @property
    def lm_arguments(self) -> dict[str, Any]:
        """What the model is made with."""
        return {"needs_chat_template": self.prompts.apply_chat_template, **self.model.lm_arguments(act_profile="none")}

    @property
    def act(self) -> ACT:
        """The ACT settings. Raises InputError when one is unknown or out of range."""
        return self._act_arguments.act(HeadProfile({}))

    @property
    def tuned(self) -> dict[str, tuple[float, ...]]:
        """The parameters of the method that the search chooses, since they are not given: by name, the values that it tries."""
        given = self._act_arguments.parameters
        return {name: values for name, values in self.act.method.grid.items() if name not in given}

    @property
    def _act_arguments(self) -> ACTArguments:
        return ACTArguments.from_model_args({**self.model.model_args, "act_profile": "none"})
