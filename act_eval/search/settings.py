"""What to search for, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from act_eval.attention.act import ACT
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.layer_lists import check_layer_list
from act_eval.profiles import HeadProfile

Mode = Literal["auto", "exact", "screened"]
Selection = Literal["validated", "improving", "top-k"]


@dataclass(frozen=True)
class SearchSettings:
    """What to search for, and on what.

    Args:
        tasks: names of lm-eval tasks or groups.
        model_args: everything `act-hf` takes, without act_profile.
        limit: documents per task, of the training split; None for all.
        seed: draws documents and few-shot examples.
        layers: layers to look at: "all", or numbers and ranges such as "2-30,33"; None for all but the first two and the last.
        mode: "exact" scores every head on every document; "screened" estimates all heads and scores the promising ones;
            "auto" is exact up to 64 heads.
        budget: of screened mode: cost of its exact part as a share of that of a full pass for each head.
        selection: "validated": the best heads together, as few as cannot be told from the best number on the second half of the
            documents;
            "improving": every head that alone raises the accuracy; "top-k": the `k` heads with the greatest margin change.
        k: for "top-k".
        num_fewshot: solved examples per prompt, or None for each task's own number.
        apply_chat_template: use the tokenizer's chat template.
        batch_size: rows that run at once.
        device: such as "cuda" or "cpu", or None for cuda where there is one.
        include_path: folder with more task configs, or None.

    Raises:
        InputError: a setting is out of range.
    """

    tasks: tuple[str, ...]
    model_args: Mapping[str, Any]
    limit: int | None = 100
    seed: int = 1234
    layers: str | None = None
    mode: Mode = "auto"
    budget: float = 0.12
    selection: Selection = "validated"
    k: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = 8
    device: str | None = None
    include_path: str | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (("mode", self.mode, Mode), ("selection", self.selection, Selection)):
            if value not in get_args(allowed):
                raise InputError(f"--{name} {value!r} is unknown: choose one of {', '.join(get_args(allowed))}.")
        if (self.selection == "top-k") != (self.k is not None):
            raise InputError("--k and --selection top-k go together: give both, or neither.")
        for name, number, least in (("k", self.k, 1), ("limit", self.limit, 1), ("batch-size", self.batch_size, 1)):
            if number is not None and number < least:
                raise InputError(f"--{name} must be at least {least}, not {number}.")
        if not 0 < self.budget <= 1:
            raise InputError(f"--budget is a share of the cost of all heads, above 0 and at most 1, not {self.budget}.")
        if self.selection == "validated" and self.limit == 1:
            raise InputError("--selection validated needs at least 2 documents: raise --limit.")
        if self.layers is not None:
            check_layer_list(self.layers)
        if "act_profile" in self.model_args:
            raise InputError("act_profile does not go with a search, which is to find the profile: leave it out.")
        if self.act.calibration.changes_nothing:
            raise InputError("these settings change nothing, so no head could help: choose a lower act_beta.")

    @property
    def act(self) -> ACT:
        """The ACT settings. Raises InputError when one is unknown or out of range."""
        return ACTArguments.of_model_args({**self.model_args, "act_profile": "none"}).act(HeadProfile({}))
