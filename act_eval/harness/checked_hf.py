"""lm-eval's `hf`, but it says in a line what is wrong with arguments or a checkpoint, if it can before weights are loaded."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from act_eval.attention.model_structure import UnsupportedModelError, check_adapter, check_supported
from act_eval.errors import InputError
from act_eval.harness.arguments import argument_names
from act_eval.harness.checkpoint_files import checkpoint_stamps
from act_eval.harness.checkpoints import (
    check_loading_arguments,
    explained_checkpoint_errors,
    explained_unknown_arguments,
    explained_weight_errors,
)
from act_eval.harness.processes import shared_processes
from act_eval.harness.settings import check_evaluation_batch_size
from act_eval.harness.tensor_parallelism import check_heads_can_be_divided, check_tp_plan_is_known

if TYPE_CHECKING:
    from typing_extensions import Self

_DEFAULT_DEVICE = "cuda:0"  # of lm-eval's command line


class CheckedHFLM(HFLM):
    """A model of `hf` that ACT can be applied to.

    Args:
        pretrained: as for `hf`: a name, a path or a ready model.
        needs_chat_template: whether to refuse a tokenizer without a chat template, or the name of the one that it must have.
        kwargs: everything else that `hf` takes. Where there is no CUDA device, the default `device` is the CPU.

    Attributes:
        checkpoint_files: sizes and times of the files that it is loaded from, see `checkpoint_stamps`.

    Raises:
        InputError: a setting is out of range, ACT cannot be applied to this kind of model (`UnsupportedModelError`), or the
            checkpoint cannot be loaded (`CheckpointError`). Raised before the weights are loaded, but for what is wrong with
            them.
    """

    def __init__(
        self, pretrained: str | transformers.PreTrainedModel, needs_chat_template: bool | str = False, **kwargs: Any
    ) -> None:
        check_evaluation_batch_size(kwargs.get("batch_size", 1))
        check_loading_arguments({"pretrained": pretrained, **kwargs})
        self._checkpoint = pretrained if isinstance(pretrained, str) else pretrained.name_or_path
        self._is_ready = not isinstance(pretrained, str)
        self._needs_chat_template = needs_chat_template
        self.checkpoint_files = checkpoint_stamps({"pretrained": pretrained, **kwargs})
        self._is_divided = kwargs.get("tp_plan") is not None
        if self._is_divided:
            check_tp_plan_is_known()
        if kwargs.get("peft"):
            _check_adapter_of(kwargs["peft"], kwargs.get("revision"))
        if not torch.cuda.is_available():
            kwargs.setdefault("device", "cpu")
            shared_processes()  # before `hf` asks, which does not say that processes are on CPUs
        with explained_unknown_arguments(_known_arguments):
            super().__init__(pretrained, **kwargs)
        if hasattr(self, "accelerator"):  # `hf` shares documents among processes only where there are several GPUs
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """Make the model from lm-eval's `--model_args` as text. Bad input ends the program with one line and exit code 2."""
        with _exit_on_bad_input():
            return super().create_from_arg_string(arg_string, _on_this_machine(additional_config))

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """Make the model from lm-eval's `--model_args` by name. Bad input ends the program with one line and exit code 2."""
        with _exit_on_bad_input():
            return super().create_from_arg_obj(arg_dict, _on_this_machine(additional_config))

    # --- in the order in which `hf` calls it

    def _get_config(self, pretrained: str, *args: Any, **kwargs: Any) -> None:
        with explained_checkpoint_errors("config", _source(pretrained, kwargs)):
            super()._get_config(pretrained, *args, **kwargs)
        if self._is_divided:
            check_heads_can_be_divided(self.config)

    def _get_backend(self, config: transformers.PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        """Choose the auto class, and check whether ACT can be applied to what it makes of the config."""
        super()._get_backend(config, *args, **kwargs)
        if self._model_class is not None:
            check_supported(config, self._model_class)
        elif not self._is_ready and self.AUTO_MODEL_CLASS.__name__ not in (getattr(config, "auto_map", None) or {}):
            raise UnsupportedModelError(
                f"{self.AUTO_MODEL_CLASS.__name__} of transformers {transformers.__version__} has no class for "
                f"{type(config).__name__}, so act-hf cannot load this checkpoint: choose a text model that it can load."
            )

    @property
    def _model_class(self) -> type[transformers.PreTrainedModel] | None:
        """The class of transformers that models of this config are of; None where it has none."""
        return self.AUTO_MODEL_CLASS._model_mapping.get(type(self.config), None)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        source = tokenizer if isinstance(tokenizer, str) else self._checkpoint
        with explained_checkpoint_errors("tokenizer", _source(source, kwargs)):
            super()._create_tokenizer(pretrained, tokenizer, *args, **kwargs)
        if self._needs_chat_template:
            self._check_chat_template(self._needs_chat_template)

    def _create_model(self, pretrained: str, *args: Any, **kwargs: Any) -> None:
        with explained_weight_errors(_source(pretrained, kwargs)):
            super()._create_model(pretrained, *args, **kwargs)

    # --- afterwards

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Choose the chat template, as `hf` does. Raises InputError where the tokenizer has none."""
        if chat_template:
            self._check_chat_template(chat_template)
        return super().chat_template(chat_template)

    def _check_chat_template(self, wanted: bool | str) -> None:
        templates = self.tokenizer.chat_template
        name = wanted if isinstance(wanted, str) else "default"
        if isinstance(templates, dict) and name not in templates:
            raise InputError(
                f"the tokenizer of {self._checkpoint} has no chat template {name!r}: give apply_chat_template one of "
                f"{', '.join(sorted(templates))}."
            )
        if not templates:
            raise InputError(
                f"the tokenizer of {self._checkpoint} has no chat template: choose a chat model, or name the tokenizer of one "
                "with tokenizer=... in model_args."
            )


def _source(name: str, arguments: Mapping[str, Any]) -> str:
    """Describe where a checkpoint or its tokenizer is loaded from."""
    where = {key: arguments[key] for key in ("subfolder", "peft", "delta", "gguf_file") if arguments.get(key)}
    if arguments.get("revision") not in (None, "None", "main"):
        where["revision"] = arguments["revision"]
    return ", ".join([name, *(f"{key} {value}" for key, value in where.items())])


def _check_adapter_of(name: str, revision: str | None) -> None:
    """Raise UnsupportedModelError for an adapter that learns prompts, and CheckpointError for one that cannot be read."""
    from peft import PeftConfig

    with explained_checkpoint_errors("adapter", name):
        adapter = PeftConfig.from_pretrained(name, revision=revision)
    check_adapter(adapter)


def _on_this_machine(additional_config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave out the device that lm-eval's command line gives where none was named, on a machine that has no such device.

    `hf` takes the CPU then, also where there is an accelerator of another kind.
    """
    if additional_config is None or torch.cuda.is_available() or additional_config.get("device") != _DEFAULT_DEVICE:
        return additional_config
    return {name: value for name, value in additional_config.items() if name != "device"}


def _known_arguments() -> list[str]:
    """The names of the arguments of `hf` and of ACT."""
    of_hf = [name for name, taken in inspect.signature(HFLM).parameters.items() if taken.kind is not taken.VAR_KEYWORD]
    return [*of_hf, *argument_names()]


@contextmanager
def _exit_on_bad_input() -> Iterator[None]:
    """Print a line for bad input and exit with code 2: lm-eval's command line would print a traceback."""
    try:
        yield
    except InputError as error:
        print(f"act-hf: {error}", file=sys.stderr)
        raise SystemExit(2) from error
