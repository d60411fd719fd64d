"""What to look at, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from act_eval.errors import InputError, SettingError
from act_eval.harness.arguments import ACTArguments, check_not_the_baseline
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.head_scores import HEADS_FILE
from act_eval.layer_lists import check_layer_list

Split = Literal["train", "evaluation"]


@dataclass(frozen=True)
class SinksSettings:
    """What to look at, and on what.

    Args:
        model: which model; act_threshold or act_alpha among its arguments say when a key is a sink, and the heads of
            act_profile (all by default) are those that are calibrated in the maps after ACT.
        prompts: the tasks, of which documents are drawn, and how these become prompts.
        split: "evaluation" or "train".
        layers: "all", or numbers and ranges such as "2-30,33".
        document: number, in the split, of a document of the first task whose own map is shown, or None.
        search: folder of a search whose accuracy changes per head are shown, or None.

    Raises:
        InputError: a setting is out of range, or nothing is calibrated, so that there would be no maps after ACT.
    """

    model: ModelSettings
    prompts: PromptSettings
    split: Split = "evaluation"
    layers: str = "all"
    document: int | None = None
    search: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", self.prompts.with_whole_limit())
        if self.split not in get_args(Split):
            raise SettingError("split", f"{self.split!r} is unknown: choose {' or '.join(get_args(Split))}.")
        if self.document is not None and self.document < 0:
            raise SettingError("document", f"must be at least 0, not {self.document}.")
        check_layer_list(self.layers)
        if self.search is not None and not (self.search / HEADS_FILE).is_file():
            raise SettingError(
                "search", f"{self.search} holds no {HEADS_FILE}: give the output folder of an `act-eval search`."
            )
        arguments = ACTArguments.from_model_args(self.model.model_args)
        calibration = arguments.calibration
        if len(calibration.of_groups) > 1:
            raise InputError(
                f"act_method={calibration.method.name} has a method for each group of heads, and sinks are shown of one: "
                "choose one of them."
            )
        if not calibration.method.uses_sinks:
            raise InputError(
                f"act_method={calibration.method.name} looks for no sinks, so there are none to show: choose another."
            )
        self.model.whole_batch_size()
        check_not_the_baseline(arguments)

    @property
    def lm_arguments(self) -> dict[str, Any]:
        """What the model is made with."""
        needs_chat_template = self.prompts.apply_chat_template
        return {"needs_chat_template": needs_chat_template, "act_profile": "all", **self.model.lm_arguments()}
