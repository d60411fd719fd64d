"""Which model is asked, and what: the settings that all features share.

Nothing heavy is imported here, so that the command line can make its options from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from act_eval.errors import SettingError
from act_eval.value_checks import is_whole_number

if TYPE_CHECKING:
    from act_eval.harness.lm import ACTLM


def check_evaluation_batch_size(batch_size: int | str) -> None:
    """Check a batch size as lm-eval takes it: a number, "auto", or "auto:N". Raises SettingError."""
    kind, colon, times = str(batch_size).partition(":")
    number = times if colon else "1" if kind == "auto" else kind
    if (colon and kind != "auto") or not number.isdecimal() or int(number) < 1:
        raise SettingError("batch_size", f"is {batch_size!r}: give a number, at least 1, or auto, or such as auto:4.")


_ALWAYS_RECORDED = ("limit", "seed", "num_fewshot", "apply_chat_template")
_NOT_OF_THE_PROMPTS = ("tasks", "include_path", "cache_requests", "check_integrity", "confirm_run_unsafe_code")

CacheRequests = Literal["true", "refresh", "delete"]


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
    """What the model is asked: documents of tasks, and how they become prompts. Names and meanings are those of `lm_eval run`.

    Args:
        tasks: names of lm-eval tasks, groups or tags.
        limit: documents per task (a share of them when below 1), or None for all.
        seed: draws few-shot examples, documents where only some are used, and all other random numbers.
        num_fewshot: solved examples per prompt, or None for each task's own number. As for `lm_eval run`, a number does not
            change a task whose config says 0. By names of tasks, groups or tags, numbers that take the place of the configs'.
        samples: numbers of documents by the names of their tasks, or None. All documents of the other tasks are asked.
        apply_chat_template: whether to use the tokenizer's chat template, or the name of one of several.
        fewshot_as_multiturn: whether solved examples are turns of the conversation; None where there is a chat template.
        system_instruction: text before every prompt, as a message of its own where there is a chat template; or None.
        gen_kwargs: how tasks that generate do so, by name; the rest is as their configs say.
        metadata: what tasks are made with, by name, beside the model arguments; some, such as RULER, need it.
        include_path: folder with more task configs, or None.
        cache_requests: "true" keeps prompts on disk and uses those kept before, "refresh" makes them anew, and "delete" removes
            all that are kept; None for no cache.
        check_integrity: whether lm-eval's own tests of the tasks run before.
        confirm_run_unsafe_code: whether tasks may run that execute code which the model writes.

    Raises:
        SettingError: a setting is out of range, or two do not go together.
    """

    tasks: tuple[str, ...]
    limit: float | None = None
    seed: int = 1234
    num_fewshot: int | Mapping[str, int] | None = None
    samples: Mapping[str, Sequence[int]] | None = None
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    include_path: str | None = None
    cache_requests: CacheRequests | None = None
    check_integrity: bool = False
    confirm_run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SettingError("seed", f"must be at least 0 and below 2**32, not {self.seed}.")
        for number in self.num_fewshot.values() if isinstance(self.num_fewshot, Mapping) else (self.num_fewshot,):
            if number is not None and not _is_whole(number):
                raise SettingError("num_fewshot", f"must be at least 0, and a whole number, not {number!r}.")
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise SettingError("fewshot_as_multiturn", "needs a chat template: set apply_chat_template too.")
        if self.cache_requests not in (None, *get_args(CacheRequests)):
            raise SettingError(
                "cache_requests", f"is {self.cache_requests!r}: choose one of {', '.join(get_args(CacheRequests))}."
            )
        if self.samples is not None:
            self._check_samples(self.samples)

    def _check_samples(self, samples: Any) -> None:
        if self.limit is not None:
            raise SettingError(
                "samples", "already says which documents are asked, so that limit does not go with it: leave one out."
            )
        if not isinstance(samples, Mapping) or not all(_are_whole(numbers) for numbers in samples.values()):
            raise SettingError(
                "samples",
                f'{samples!r} is neither a mapping such as {{"demo_topic": [0, 3]}}, as JSON, nor a file that holds one.',
            )
        in_order = {name: sorted(set(numbers)) for name, numbers in samples.items()}  # lm-eval numbers answers in this order
        object.__setattr__(self, "samples", in_order)

    def of_task(self, name: str) -> PromptSettings:
        """The settings of one task alone: its number of solved examples, and its documents."""
        shots = self.num_fewshot.get(name) if isinstance(self.num_fewshot, Mapping) else self.num_fewshot
        samples = {name: self.samples[name]} if self.samples and name in self.samples else None
        return replace(self, tasks=(name,), num_fewshot=shots, samples=samples)

    @property
    def as_multiturn(self) -> bool:
        """Whether solved examples are turns of the conversation."""
        return bool(self.apply_chat_template) if self.fewshot_as_multiturn is None else self.fewshot_as_multiturn

    @property
    def recorded(self) -> dict[str, Any]:
        """What files say of the prompts beside their tasks: some always, the rest where it is not the default."""
        defaults = {setting.name: setting.default for setting in fields(self)}
        values = {name: getattr(self, name) for name in defaults if name not in _NOT_OF_THE_PROMPTS}
        if self.as_multiturn == bool(self.apply_chat_template):
            values["fewshot_as_multiturn"] = None
        return {
            name: value
            for name, value in values.items()
            if name in _ALWAYS_RECORDED or (value != defaults[name] and value not in (None, {}))
        }

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
        """Collect what lm-eval's `simple_evaluate` takes of these settings, by name; they are of a single task."""
        return {
            "limit": self.limit,
            "samples": self.samples,
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.apply_chat_template,
            "fewshot_as_multiturn": self.as_multiturn,
            "system_instruction": self.system_instruction,
            "gen_kwargs": dict(self.gen_kwargs) or None,
            "random_seed": self.seed,
            "numpy_random_seed": self.seed,
            "torch_random_seed": self.seed,
            "fewshot_random_seed": self.seed,
            "confirm_run_unsafe_code": self.confirm_run_unsafe_code,
            **self._caching(),
        }

    def request_arguments(self, lm: ACTLM) -> dict[str, Any]:
        """Collect what lm-eval's `Task.build_all_requests` takes of these settings, by name; `lm` holds the chat template."""
        return {
            "system_instruction": self.system_instruction,
            "apply_chat_template": bool(self.apply_chat_template),
            "fewshot_as_multiturn": self.as_multiturn,
            "chat_template": lm.apply_chat_template if self.apply_chat_template else None,
            "tokenizer_name": lm.tokenizer_name if self.apply_chat_template else "",
            **self._caching(),
        }

    @property
    def keeps_requests(self) -> bool:
        """Whether prompts are kept on disk."""
        return self.cache_requests in ("true", "refresh")

    def _caching(self) -> dict[str, bool]:
        return {"cache_requests": self.keeps_requests, "rewrite_requests_cache": self.cache_requests == "refresh"}


def _is_whole(number: Any) -> bool:
    return is_whole_number(number) and number >= 0


def _are_whole(numbers: Any) -> bool:
    """Whether these are some numbers of documents."""
    return isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) > 0 and all(map(_is_whole, numbers))
