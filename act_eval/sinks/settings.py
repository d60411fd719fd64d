"""What to look at, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.documents import DocumentSettings
from act_eval.layer_lists import check_layer_list
from act_eval.search.write import HEADS_FILE

Split = Literal["train", "evaluation"]


@dataclass(frozen=True)
class SinksSettings:
    """What to look at, and on what.

    Args:
        tasks: names of lm-eval tasks or groups.
        model_args: everything `act-hf` takes; act_threshold or act_alpha say when a key is a sink, and the heads of act_profile
            (all by default) are those that are calibrated in the maps after ACT.
        split: "evaluation" or "train".
        limit: documents per task, None for all.
        seed: draws documents and few-shot examples.
        layers: "all", or numbers and ranges such as "2-30,33".
        document: number, in the split, of a document of the first task whose own map is shown, or None.
        search: folder of a search whose accuracy changes per head are shown, or None.
        num_fewshot: solved examples per prompt, or None for each task's own number.
        apply_chat_template: use the tokenizer's chat template.
        batch_size: documents that run at once.
        device: such as "cuda" or "cpu", or None for cuda where there is one.
        include_path: folder with more task configs, or None.

    Raises:
        InputError: a setting is out of range.
    """

    tasks: tuple[str, ...]
    model_args: Mapping[str, Any]
    split: Split = "evaluation"
    limit: int | None = 100
    seed: int = 1234
    layers: str = "all"
    document: int | None = None
    search: Path | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = 8
    device: str | None = None
    include_path: str | None = None

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise InputError(f"--split {self.split!r} is unknown: choose {' or '.join(get_args(Split))}.")
        for name, number, least in (
            ("limit", self.limit, 1),
            ("batch-size", self.batch_size, 1),
            ("document", self.document, 0),
        ):
            if number is not None and number < least:
                raise InputError(f"--{name} must be at least {least}, not {number}.")
        check_layer_list(self.layers)
        if self.search is not None and not (self.search / HEADS_FILE).is_file():
            raise InputError(f"--search {self.search} holds no {HEADS_FILE}: give the --output folder of an `act-eval search`.")
        calibration = ACTArguments.of_model_args(self.model_args).calibration
        method = calibration.method
        if not method.uses_sinks:
            raise InputError(f"act_method={method.name} looks for no sinks, so there are none to show: choose another.")
        if calibration.changes_nothing:
            raise InputError("these settings change nothing, so that there would be no map after ACT: choose a lower act_beta.")

    @property
    def documents(self) -> DocumentSettings:
        """Which documents, and how they are rendered."""
        return DocumentSettings(self.limit, self.seed, self.num_fewshot, self.apply_chat_template)

    @property
    def lm_arguments(self) -> dict[str, Any]:
        """What the model is made with."""
        device = {} if self.device is None else {"device": self.device}
        return {"act_profile": "all", **self.model_args, **device}
