"""Which model is asked, and what: the settings that all features share.

Nothing heavy is imported here, so that the command line can make its options from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from act_eval.errors import SettingError

if TYPE_CHECKING:
    from act_eval.harness.lm import ACTLM


def check_evaluation_batch_size(batch_size: int | str) -> None:
    """Check a batch size as lm-eval takes it: a number, "auto", or "auto:N". Raises SettingError."""
    kind, colon, times = str(batch_size).partition(":")
    number = times if colon else "1" if kind == "auto" else kind
    if (colon and kind != "auto") or not number.isdecimal() or int(number) < 1:
        raise SettingError("batch_size", f"is {batch_size!r}: give a number, at least 1, or auto, or such as auto:4.")


_ALWAYS_RECORDED = ("limit", "seed", "num_fewshot", "apply_chat_template")


@dataclass(frozen=True)
class ModelSettings:
    """Which model answers, and where it runs.

    Args:
        model_args: everything that `act-hf` takes, by name.
        device: such as "cuda" or "cpu", or None for cuda where there is one.
        batch_size: rows that run at once: a number, or for lm-eval's own evaluations also "auto" or "auto:N".
    """

    model_args: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | str = 1

    def whole_batch_size(self) -> int:
        """Read the batch size as a number. Raises SettingError where it is none, or below 1."""
        try:
            rows = int(self.batch_size)
        except ValueError:
            raise SettingError("batch_size", f"is {self.batch_size!r}: give a number.") from None
        if rows < 1:
            raise SettingError("batch_size", f"must be at least 1, not {rows}.")
        return rows

    @property
    def without_act(self) -> dict[str, Any]:
        """The model arguments that baseline and ACT share."""
        return {name: value for name, value in self.model_args.items() if not name.startswith("act_")}

    def lm_arguments(self, **model_args: Any) -> dict[str, Any]:
        """Collect what `ACTLM` is made with: the model arguments, with these in their place, and the device."""
        device = {} if self.device is None else {"device": self.device}
        return {**self.model_args, **device, **model_args}


@dataclass(frozen=True)
class PromptSettings:
    """What the model is asked: documents of tasks, and how they become prompts.

    Args:
        tasks: names of lm-eval tasks, groups or tags.
        limit: documents per task (a share of them when below 1), or None for all.
        seed: draws few-shot examples, documents where only some are used, and all other random numbers.
        num_fewshot: solved examples per prompt, or None for each task's own number.
        apply_chat_template: whether to use the tokenizer's chat template.
        system_instruction: text before every prompt, as a message of its own where there is a chat template; or None.
        include_path: folder with more task configs, or None.

    Raises:
        SettingError: the seed is none for all generators, or the number of examples is negative.
    """

    tasks: tuple[str, ...]
    limit: float | None = None
    seed: int = 1234
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    include_path: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SettingError("seed", f"must be at least 0 and below 2**32, not {self.seed}.")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise SettingError("num_fewshot", f"must be at least 0, not {self.num_fewshot}.")

    @property
    def recorded(self) -> dict[str, Any]:
        """What files say of the prompts beside their tasks: some always, the rest where it is not the default."""
        defaults = {setting.name: setting.default for setting in fields(self)}
        values = {name: getattr(self, name) for name in defaults if name not in ("tasks", "include_path")}
        return {name: value for name, value in values.items() if name in _ALWAYS_RECORDED or value != defaults[name]}

    def check_limit(self) -> None:
        """Raise SettingError where the limit is neither a number of documents nor a share of them."""
        if self.limit is not None and not (0 < self.limit < 1 or (self.limit >= 1 and float(self.limit).is_integer())):
            raise SettingError("limit", f"must be a number of documents, or a share of them above 0, not {self.limit:g}.")

    def with_whole_limit(self) -> PromptSettings:
        """Make the limit a whole number. Raises SettingError where it is none, or below 1."""
        if self.limit is None:
            return self
        if self.limit < 1 or not float(self.limit).is_integer():
            raise SettingError("limit", f"must be at least 1 document, and a whole number, not {self.limit:g}.")
        return replace(self, limit=int(self.limit))

    def evaluation_arguments(self) -> dict[str, Any]:
        """Collect what lm-eval's `simple_evaluate` takes of these settings, by name."""
        return {
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.apply_chat_template,
            "system_instruction": self.system_instruction,
            "random_seed": self.seed,
            "numpy_random_seed": self.seed,
            "torch_random_seed": self.seed,
            "fewshot_random_seed": self.seed,
        }

    def request_arguments(self, lm: ACTLM) -> dict[str, Any]:
        """Collect what lm-eval's `Task.build_all_requests` takes of these settings, by name; `lm` holds the chat template."""
        return {
            "system_instruction": self.system_instruction,
            "apply_chat_template": self.apply_chat_template,
            "chat_template": lm.apply_chat_template if self.apply_chat_template else None,
            "tokenizer_name": lm.tokenizer_name if self.apply_chat_template else "",
        }
