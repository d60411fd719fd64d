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
    """

    tasks: tuple[str, ...]
    limit: float | None = None
    seed: int = 1234
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    include_path: str | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """What files say of the prompts beside their tasks: some always, the rest where it is not the default."""
        defaults = {setting.name: setting.default for setting in fields(self)}
        values = {name: getattr(self, name) for name in defaults if name not in ("tasks", "include_path")}
        return {name: value for name, value in values.items() if name in _ALWAYS_RECORDED or value != defaults[name]}

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
