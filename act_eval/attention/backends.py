"""The attention backends below the act attention function: which there are, and how it is put above one."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_flash_attention_utils import lazy_import_flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from act_eval.attention import gptj
from act_eval.attention.model_structure import UnsupportedModelError
from act_eval.errors import InputError
from act_eval.near_names import did_you_mean

NAME_PREFIX = "act_"
LEARNED_SINK_LOGITS = frozenset({"flint", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash"})
"""Model types of transformers with learned sink logits in their attention, in all layers or in some."""

_LONGEST_REASON = 200


def check_base(base: str) -> None:
    """Raise InputError unless transformers knows an attention backend of that name, with masks, and has what it needs."""
    backends = ["eager", *(name for name in ALL_ATTENTION_FUNCTIONS if not name.startswith(NAME_PREFIX))]
    with_masks = sorted(name for name in backends if name in ALL_MASK_ATTENTION_FUNCTIONS)
    if base not in backends:
        near = did_you_mean(base, with_masks)
        raise InputError(f"there is no base attention {base!r}{near}: choose one of {', '.join(with_masks)}.")
    if base not in with_masks:
        raise InputError(
            f"the base attention {base!r} is registered in transformers without a mask function, and so would get no masks: "
            f"register one under this name with AttentionMaskInterface.register, or choose one of {', '.join(with_masks)}."
        )
    if ALL_ATTENTION_FUNCTIONS.get(base) is flash_attention_forward:
        with_packages = [name for name in with_masks if ALL_ATTENTION_FUNCTIONS.get(name) is not flash_attention_forward]
        try:
            lazy_import_flash_attention(base)  # as the first forward pass with it does
        except Exception as error:  # whatever a package raises that does not fit the machine
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", _LONGEST_REASON, placeholder=" ...").rstrip(" .")
            raise InputError(
                f"the base attention {base!r} cannot be used here ({reason}): install the package that it needs, which runs on "
                f"GPUs, or choose one of {', '.join(with_packages)}."
            ) from error


def register_act_attention(base: str, function: Callable[..., tuple[Tensor, Tensor | None]]) -> str:
    """Let transformers find the act attention function under a name of its own, with the masks of a base backend.

    A function that is registered without a mask function of the same name would get no mask at all.

    Args:
        base: "eager", or a name that `AttentionInterface` knows, such as "sdpa".
        function: the act attention function.

    Returns:
        The name to put into a config's `_attn_implementation`.

    Raises:
        InputError: there is no such backend, it has no masks, or it needs what is not installed.
    """
    check_base(base)
    name = NAME_PREFIX + base
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def base_name(config: transformers.PretrainedConfig) -> str:
    """The name of the attention backend that a model runs with, below ACT where it is active."""
    return config.get_text_config()._attn_implementation.removeprefix(NAME_PREFIX)


def check_base_of_model(
    config: transformers.PretrainedConfig, model_class: type[transformers.PreTrainedModel], base: str
) -> None:
    """Raise InputError where models of a class cannot run with an attention backend; their weights are not needed."""
    model_type = config.get_text_config().model_type
    if gptj.is_adapted(model_class) and base != "eager":
        raise UnsupportedModelError(
            f"ACT runs {model_type} models with eager attention only, but the base is {base!r}: "
            "choose act_base=eager, or load the model with attn_implementation=eager."
        )
    if model_type in LEARNED_SINK_LOGITS and base == "sdpa":
        raise InputError(f"{model_type} models have learned sink logits, which sdpa attention drops: choose act_base=eager.")


def base_attention(module: nn.Module, base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The base backend's attention function for a module.

    "eager" is in no registry: every modelling file has its own `eager_attention_forward`.

    Args:
        module: an attention module.
        base: name of the backend.

    Raises:
        InputError: the module's file has no eager attention function.
    """
    if base != "eager":
        function = ALL_ATTENTION_FUNCTIONS[base]
        return partial(_call_under_its_own_name, function, base) if "flash" in base else function
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise InputError(f"{type(module).__name__} comes from a file without an eager attention function: choose another base.")


def _call_under_its_own_name(
    function: Callable[..., tuple[Tensor, Tensor | None]], base: str, module: nn.Module, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Call a flash attention function with its own name in the module's config: it loads its kernels by that name."""
    config: Any = module.config
    name = config._attn_implementation_internal
    config._attn_implementation_internal = base
    try:
        return function(module, *args, **kwargs)
    finally:
        config._attn_implementation_internal = name
