"""Clear words where a checkpoint cannot be loaded: what transformers, huggingface_hub and peft raise, in one sentence."""

from __future__ import annotations

import pickle
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError

from act_eval.errors import InputError, SettingError, explained
from act_eval.near_names import did_you_mean

_LONGEST_REASON = 250
# What loading weights raises because of files and arguments. Not RuntimeError, which may come from the machine:
_OF_WEIGHTS = (OSError, ValueError, ImportError, EOFError, SafetensorError, pickle.UnpicklingError)
_RUNTIME_ERRORS_OF_WEIGHTS = re.compile("mismatch|state_dict|PytorchStreamReader|Invalid magic number")
_WRONG_KEYWORD = re.compile(r"(?:unexpected|multiple values for) keyword argument '([^']*)'")
_DTYPES = ("dtype", "softmax_dtype", "mixed_precision_dtype")


class CheckpointError(InputError):
    """A checkpoint or an adapter that is not there, that is damaged, or that cannot be loaded as the arguments say."""


def check_loading_arguments(arguments: Mapping[str, Any]) -> None:
    """Check, before anything is loaded, arguments of lm-eval's `hf` that it would look at too late or not at all.

    Args:
        arguments: of the model, by name; those that are not given are not looked at.

    Raises:
        SettingError: one of them cannot work here.
    """
    pretrained = arguments.get("pretrained")
    if not (pretrained is None or isinstance(pretrained, (str, torch.nn.Module))) or pretrained == "":
        raise SettingError(
            "pretrained", f"is {pretrained!r}: give the name of a model on the Hugging Face hub, or a path such as ./model."
        )
    for name in _DTYPES:
        if arguments.get(name) not in (None, "auto"):
            _check_dtype(name, arguments[name])
    if arguments.get("device") is not None:
        _check_device(arguments["device"])
    if arguments.get("backend", "causal") not in ("default", "causal", "seq2seq"):
        raise SettingError("backend", f"is {arguments['backend']!r}: leave it out, or choose causal.")
    for name in ("max_length", "max_batch_size"):
        value = arguments.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise SettingError(name, f"must be a whole number, at least 1, not {value!r}.")
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise SettingError("enable_thinking", "goes together with the token that ends the thinking: add think_end_token=...")
    if arguments.get("peft") and arguments.get("delta"):
        raise SettingError("peft", "and delta do not go together: give one of them.")


def _check_dtype(name: str, dtype: Any) -> None:
    """Check that weights can be of a type, which is one of torch or its name."""
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or not known.is_floating_point or known.itemsize < 2:
        raise SettingError(name, f"is {dtype!r}: choose one of float16, bfloat16, float32 and float64.")


def _check_device(device: Any) -> None:
    """Check that a device is one of this machine's; `hf` would take another one in its place, without a word."""
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise SettingError("device", f"is {device!r}, which is no device: choose one such as cpu, cuda or cuda:1.") from None
    if wanted.type == "cpu":
        return
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != wanted.type:
        there = "cpu" if accelerator is None else f"cpu and {accelerator.type}"
        raise SettingError("device", f"is {device}, but torch finds no such device here: choose among {there}.")
    number = torch.accelerator.device_count()
    if wanted.index is not None and wanted.index >= number:
        raise SettingError(
            "device", f"is {device}, but there are {number} of them: choose one up to {wanted.type}:{number - 1}."
        )


def explained_checkpoint_errors(part: str, source: str) -> AbstractContextManager[None]:
    """Turn what is raised where the config or the tokenizer of a checkpoint cannot be read into one sentence.

    For a block that reads small files and does nothing else, so that whatever it raises is about them.

    Args:
        part: what is read, such as "config".
        source: of what: a name or path, with what else says where it is.

    Raises:
        CheckpointError: names the part, the source, the reason and the remedy.
    """
    return explained(lambda error: _explained(part, source, error), Exception)


def explained_weight_errors(source: str) -> AbstractContextManager[None]:
    """Turn what is raised where weights do not fit, or arguments are wrong, into one sentence.

    What else loading weights can raise, such as that memory ran out, passes unchanged.

    Args:
        source: a name or path, with what else says where the weights are.

    Raises:
        CheckpointError: names the source, the reason and the remedy.
    """

    def explain(error: Exception) -> CheckpointError | None:
        is_of_weights = not isinstance(error, RuntimeError) or (
            not should_reduce_batch_size(error) and _RUNTIME_ERRORS_OF_WEIGHTS.search(str(error)) is not None
        )
        return _explained("weights", source, error) if is_of_weights else None

    return explained(explain, RuntimeError, *_OF_WEIGHTS)


@contextmanager
def explained_unknown_arguments(known: Callable[[], Collection[str]]) -> Iterator[None]:
    """Name a model argument that neither `hf` nor transformers takes, and those that are like it of what `known` lists.

    Raises:
        CheckpointError: there is one.
    """
    try:
        yield
    except TypeError as error:
        wrong = _WRONG_KEYWORD.search(str(error))
        if wrong is None:
            raise
        near = did_you_mean(wrong[1], known())
        raise CheckpointError(
            f"there is no model argument {wrong[1]!r}{near} for this checkpoint: act-hf takes those of lm-eval's hf, those of "
            "transformers' from_pretrained, and its own act_*."
        ) from error


def _explained(part: str, source: str, error: Exception) -> CheckpointError:
    path = Path(source.split(", ")[0])
    is_path = path.exists() or source.startswith(("/", ".", "~")) or len(path.parts) > 2
    if is_path and not path.is_dir():
        reason = "it is a file" if path.exists() else "there is no such folder"
        remedy = "give the path of a folder that holds a checkpoint, or the name of one on the Hugging Face hub."
    else:
        text = " ".join(map(str, error.args)) if isinstance(error, ImportError) else str(error)
        text = " ".join(text.split()).rstrip(".") or type(error).__name__
        reason = textwrap.shorten(text, _LONGEST_REASON, placeholder=" ...")
        remedy = (
            "mend the files in that folder or the model arguments, or choose another checkpoint."
            if is_path
            else "check the name and the model arguments, connect to the Hugging Face hub (and unset HF_HUB_OFFLINE), or give "
            "the path of a folder that holds it."
        )
    return CheckpointError(f"the {part} of {source} cannot be loaded ({reason}): {remedy}")
