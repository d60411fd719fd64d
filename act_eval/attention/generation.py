"""Kinds of generation in which keys of the prompt can be marked: those whose first forward pass is the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any

import transformers

from act_eval.errors import InputError

_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
WITHOUT_ONE_PREFILL = (*_ASSISTED, "prefill_chunk_size")
"""Settings of `generate` with which its first forward pass holds drafted tokens as well, or a part of the prompt alone."""


def check_generation(settings: transformers.GenerationConfig | Mapping[str, Any]) -> None:
    """Raise InputError for a kind of generation in which attention sinks, or a part of the prompt, cannot be told.

    Args:
        settings: a generation config, or keyword arguments of `generate`, of which others than these are ignored.
    """
    given = settings if isinstance(settings, Mapping) else vars(settings)
    assisted = next((name for name in _ASSISTED if given.get(name) is not None and given[name] is not False), None)
    if assisted is not None:
        raise InputError(
            f"{assisted} asks for assisted decoding, whose first forward pass holds drafted tokens beside the prompt, so that "
            f"these would help to choose its attention sinks: {_remedy(assisted)}."
        )
    if given.get("prefill_chunk_size") is not None:
        raise InputError(
            "prefill_chunk_size divides the prompt among forward passes, so that its attention sinks would be those of its "
            f"first chunk alone: {_remedy('prefill_chunk_size')}."
        )


def check_before_generating(model: transformers.PreTrainedModel, stack: ExitStack) -> None:
    """Let `generate` raise what `check_generation` raises, before it runs the model, until the stack is left."""
    if not hasattr(model, "generate"):
        return
    generate = model.generate

    @wraps(generate)
    def checked(*args: Any, **kwargs: Any) -> Any:
        arguments = {**inspect.signature(generate).bind_partial(*args).arguments, **kwargs}
        configs = (getattr(model, "generation_config", None), arguments.get("generation_config"))
        of_configs = {name: value for config in configs if config for name, value in vars(config).items() if value is not None}
        check_generation({**of_configs, **arguments})
        return generate(*args, **kwargs)

    if "generate" in vars(model):
        stack.callback(setattr, model, "generate", generate)
    else:
        stack.callback(delattr, model, "generate")
    model.generate = checked


def _remedy(name: str) -> str:
    return f"leave it out, or pass {name}=None where the checkpoint's generation_config sets it"
