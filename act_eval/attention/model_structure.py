"""The attention layers and heads of a model, and which models ACT cannot be applied to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import transformers
from torch import nn

from act_eval.attention import gptj
from act_eval.errors import InputError
from act_eval.profiles import HeadProfile, ProfileError, resolve_profile

# What configs (`layer_types`) call the layers of hybrid models that have no attention map.
_LAYERS_WITHOUT_ATTENTION = {"linear_attention", "mamba", "mamba2", "recurrent", "conv", "moe"}


class UnsupportedModelError(InputError):
    """A model that ACT cannot be applied to."""


def pretrained_model(model: nn.Module) -> transformers.PreTrainedModel:
    """The transformers model inside wrappers such as PEFT's.

    Raises:
        UnsupportedModelError: there is none.
    """
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            return module
    raise UnsupportedModelError(f"{type(model).__name__} holds no transformers model, so ACT cannot be applied to it.")


def check_supported(config: transformers.PretrainedConfig, model_class: type[transformers.PreTrainedModel]) -> None:
    """Raise UnsupportedModelError for a kind of model that ACT cannot be applied to; its weights are not needed."""
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{model_class.__name__} is an encoder-decoder, but ACT is defined for decoder-only (causal) language models."
        )
    if not model_class._can_set_attn_implementation() and not gptj.is_adapted(model_class):
        raise UnsupportedModelError(
            f"{model_class.__name__} computes attention inside its own modules and does not use transformers' attention "
            "interface, so ACT cannot be applied to it: choose a model that does, such as Llama, Mistral, Qwen, Gemma, OPT, "
            "GPT-2 or GPT-NeoX."
        )
    text_config = config.get_text_config()
    if getattr(text_config, "reorder_and_upcast_attn", False) and text_config._attn_implementation == "eager":
        raise UnsupportedModelError(
            f"{model_class.__name__} with reorder_and_upcast_attn computes eager attention without transformers' attention "
            "interface: load it with attn_implementation=sdpa."
        )


def model_shape(config: transformers.PretrainedConfig) -> tuple[int, int]:
    """Number of decoder layers, and of query heads in each.

    Raises:
        UnsupportedModelError: the model has no attention heads.
    """
    text_config = config.get_text_config()
    try:
        return text_config.num_hidden_layers, text_config.num_attention_heads
    except AttributeError:
        raise UnsupportedModelError(f"a {config.model_type} model has no attention heads that ACT could calibrate.") from None


def attention_layers(config: transformers.PretrainedConfig) -> tuple[int, ...]:
    """Indices of the decoder layers that have attention heads: all, but for hybrid models with linear attention or the like."""
    text_config = config.get_text_config()
    num_layers, _ = model_shape(config)
    types = getattr(text_config, "layer_types", None) or getattr(text_config, "layers_block_type", None)
    types = types or ["attention"] * num_layers
    return tuple(layer for layer in range(num_layers) if types[layer] not in _LAYERS_WITHOUT_ATTENTION)


def resolve_for_model(profile: str | HeadProfile, config: transformers.PretrainedConfig, checkpoint: str = "") -> HeadProfile:
    """Turn whatever names a profile into one that fits the model; `all` and `auto` leave out layers without attention.

    Args:
        profile: as `resolve_profile` gets it.
        config: of the model.
        checkpoint: name or path of the model, for `auto`.

    Raises:
        ProfileError: nothing goes by that name, or the profile does not fit the model.
        UnsupportedModelError: the model has no attention heads.
    """
    layers = attention_layers(config)
    resolved = resolve_profile(profile, *model_shape(config), checkpoint, layers)
    check_profile_layers([resolved], set(layers))
    return resolved


def attention_modules(model: transformers.PreTrainedModel) -> list[Any]:
    """The self-attention modules of the text decoder, in the order of its layers.

    Raises:
        UnsupportedModelError: there are none.
    """
    text_config = model.config.get_text_config()
    modules = [
        module
        for module in model.modules()
        if "Attention" in type(module).__name__
        and isinstance(getattr(module, "layer_idx", None), int)
        and getattr(module, "config", None) is text_config
        and not getattr(module, "is_cross_attention", False)
    ]
    if not modules:
        raise UnsupportedModelError(
            f"no attention layers were found in {type(model).__name__}, so ACT cannot be applied to it."
        )
    return modules


def check_profile_layers(profiles: Sequence[HeadProfile], layers: set[int]) -> None:
    """Raise ProfileError unless all layers that profiles name heads of are among these, which have attention."""
    named = {layer for profile in profiles for layer, heads in profile.heads.items() if heads}
    if named - layers:
        raise ProfileError(
            f"the profile names heads of layers {sorted(named - layers)}, but this model has attention in layers "
            f"{sorted(layers)} only: name heads of these, or choose `all`."
        )


def decoder_layers(model: transformers.PreTrainedModel) -> tuple[nn.Module, ...]:
    """The layers of the text decoder, in order: the list of modules that hold the attention modules at their layer indices.

    Empty where the layers cannot be told from the model's other modules.

    Raises:
        UnsupportedModelError: the model has no attention modules.
    """
    num_layers, _ = model_shape(model.config)
    attention = attention_modules(model)
    for modules in model.modules():
        if isinstance(modules, nn.ModuleList) and len(modules) == num_layers:
            layers = tuple(modules)
            if all(any(inner is module for inner in layers[module.layer_idx].modules()) for module in attention):
                return layers
    return ()


def check_adapters(model: nn.Module) -> None:
    """Raise UnsupportedModelError for a model with an adapter that puts tokens of its own before the prompt.

    PEFT calls that prompt learning: prompt tuning, prefix tuning, P-tuning. Adapters of weights, such as LoRA, are supported.

    Args:
        model: perhaps wrapped by PEFT.
    """
    for module in model.modules():
        adapters = getattr(module, "peft_config", None)
        for adapter in adapters.values() if isinstance(adapters, dict) else ():
            check_adapter(adapter)


def check_adapter(adapter: Any) -> None:
    """Raise UnsupportedModelError for a config of PEFT that is about prompt learning."""
    if getattr(adapter, "is_prompt_learning", False):
        kind = getattr(adapter.peft_type, "value", adapter.peft_type)
        raise UnsupportedModelError(
            f"the adapter is of type {kind}, which puts learned tokens before the prompt, where ACT cannot tell them from the "
            "prompt's own: choose an adapter of weights, such as LoRA, or the model without it."
        )


def refuse_continuous_batching(model: transformers.PreTrainedModel, stack: ExitStack) -> None:
    """Let `generate_batch` raise UnsupportedModelError until the stack is left: it would replace the attention function.

    transformers' continuous batching packs requests into rows and chooses an attention function for that.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise UnsupportedModelError(
            "continuous batching (generate_batch) replaces the attention function, so ACT cannot be applied: use generate."
        )

    for name in ("generate_batch", "init_continuous_batching"):
        if hasattr(model, name):
            setattr(model, name, refuse)
            stack.callback(delattr, model, name)


def compute_all_queries(model: transformers.PreTrainedModel, stack: ExitStack) -> None:
    """Keep Gemma 4 from dropping the queries of a prefill whose logits nobody asked for, until the stack is left.

    Its last layers share the keys of earlier ones, and compute only the last queries; but a sink is found from all of them.
    """
    for module in model.modules():
        if hasattr(module, "_maybe_slice_kv_shared_inputs"):
            module._maybe_slice_kv_shared_inputs = lambda *inputs, **_: inputs[:4]
            stack.callback(delattr, module, "_maybe_slice_kv_shared_inputs")
