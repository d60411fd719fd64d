"""ACT, the Attention Calibration Technique, as a context manager around a Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import transformers
from torch import nn

from act_eval.attention import (
    MODULE_ATTRIBUTE,
    LastVisibility,
    LayerCalibration,
    base_attention,
    check_base,
    register,
)
from act_eval.calibration import CalibrationSettings, Decode, Keep
from act_eval.errors import InputError
from act_eval.profiles import HeadProfile, resolve_profile


class UnsupportedModelError(InputError):
    """A model that ACT cannot be applied to."""


@dataclass(frozen=True)
class ACT:
    """Calibrate attention sinks in chosen heads while a `with` block is active.

    Attention sinks are tokens that receive much attention on average without carrying meaning. Inside the block, sinks in
    the middle of the input keep the share `beta` of their attention in the heads of the profile, and each query gives what
    is freed to its other keys, in proportion. Nothing is trained, and leaving the block restores the model, also after an
    exception.

    Based on "Unveiling and Harnessing Hidden Attention Sinks" (https://arxiv.org/abs/2406.15765).

        act = ACT("all", beta=0.4)
        with act(model):
            model.generate(**inputs)

    Args:
        profile: the heads to calibrate: a `HeadProfile`, anything that `resolve_profile` understands (`"all"`,
            `"2:8+13;5:1"`, a path, a published name, `"auto"`), or a sequence of head profiles, one for each row of the batch.
        beta: share of its attention that a sink keeps, in [0, 1]; 1 changes nothing.
        threshold: a key is a sink when its mean attention exceeds this; 0.1 when alpha is not given either.
        alpha: a key is a sink when its mean attention exceeds `alpha / n`, for `n` tokens (the paper's definition; 5 there).
        keep: the sink that stays as it is: `"first-sink"` (published code) or `"first-token"` (paper).
        decode: how new tokens on a cache find their sinks: `"prefill"`, the prompt's sinks stay the sinks; `"row"`, each
            token's own attention decides; `"official"`, as the published code does, slips included.
        base: attention backend for all heads (`"sdpa"`, `"eager"`, ...); by default the one that the model was loaded with.

    Raises:
        InputError: a setting is out of range, both threshold and alpha are given, or the base is unknown.
    """

    profile: HeadProfile | str | Sequence[HeadProfile]
    beta: float = 0.4
    threshold: float | None = None
    alpha: float | None = None
    keep: Keep = "first-sink"
    decode: Decode = "prefill"
    base: str | None = None
    layer_class: ClassVar[type[LayerCalibration]] = LayerCalibration
    calibration: CalibrationSettings = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        calibration = CalibrationSettings(self.beta, self.threshold, self.alpha, self.keep, self.decode)
        object.__setattr__(self, "calibration", calibration)
        object.__setattr__(self, "threshold", calibration.threshold)
        if self.base is not None:
            check_base(self.base)

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments but the profile, by name; values that JSON can hold."""
        names = ("beta", "threshold", "alpha", "keep", "decode", "base")
        return {name: getattr(self, name) for name in names}

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Calibrate `model` until the block ends.

        Args:
            model: a causal language model of transformers, also one wrapped by PEFT.

        Raises:
            UnsupportedModelError: its attention does not go through transformers' `AttentionInterface`, or it is an
                encoder-decoder, or it is inside such a block already.
            ProfileError: the profile does not fit the model.
        """
        pretrained = pretrained_model(model)
        check_supported(pretrained.config, type(pretrained))
        text_config = pretrained.config.get_text_config()
        modules = attention_modules(pretrained)
        if any(hasattr(module, MODULE_ATTRIBUTE) for module in modules):
            raise UnsupportedModelError("the model is inside an ACT context already: leave it before entering another one.")
        heads = self._heads_of_rows(text_config, pretrained.name_or_path)
        current_base: str = text_config._attn_implementation
        base = self.base or current_base
        name = register(base)
        if self.calibration.changes_nothing or not any(profile.size for profile in heads):
            name = base
        configs = {id(module.config): module.config for module in modules}.values()
        visibility = LastVisibility()
        with ExitStack() as stack:
            for module in modules if name != base else ():
                layer = self.layer_class(
                    layer=module.layer_idx,
                    base=base_attention(module, base),
                    settings=self.calibration,
                    heads=tuple(profile.heads.get(module.layer_idx, ()) for profile in heads),
                    visibility=visibility,
                )
                setattr(module, MODULE_ATTRIBUTE, layer)
                stack.callback(delattr, module, MODULE_ATTRIBUTE)
                stack.callback(module.register_forward_pre_hook(layer.before_module, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(layer.after_module).remove)
            for config in configs:
                stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
                config._attn_implementation_internal = name
            yield model

    def _heads_of_rows(self, text_config: Any, checkpoint: str) -> list[HeadProfile]:
        profiles = [self.profile] if isinstance(self.profile, (HeadProfile, str)) else list(self.profile)
        num_layers, num_heads = model_shape(text_config)
        return [resolve_profile(profile, num_layers, num_heads, checkpoint) for profile in profiles]


def model_shape(config: transformers.PretrainedConfig) -> tuple[int, int]:
    """Number of decoder layers and of query heads per layer of a model. Raises UnsupportedModelError where it has none."""
    text_config = config.get_text_config()
    try:
        return text_config.num_hidden_layers, text_config.num_attention_heads
    except AttributeError:
        raise UnsupportedModelError(f"a {config.model_type} model has no attention heads that ACT could calibrate.") from None


def pretrained_model(model: nn.Module) -> transformers.PreTrainedModel:
    """The transformers model inside wrappers such as PEFT's. Raises UnsupportedModelError when there is none."""
    for module in model.modules():
        if isinstance(module, transformers.PreTrainedModel):
            return module
    raise UnsupportedModelError(f"{type(model).__name__} holds no transformers model, so ACT cannot be applied to it.")


def check_supported(config: transformers.PretrainedConfig, model_class: type[transformers.PreTrainedModel]) -> None:
    """Raise UnsupportedModelError for a kind of model that ACT cannot be applied to. Needs no weights."""
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{model_class.__name__} is an encoder-decoder, but ACT is defined for decoder-only (causal) language models."
        )
    if not model_class._can_set_attn_implementation():
        raise UnsupportedModelError(
            f"{model_class.__name__} does not use transformers' attention interface, so ACT cannot be applied to it: "
            "choose a model that does, such as Llama, Mistral, Qwen, Gemma, OPT, GPT-2 or GPT-NeoX."
        )


def attention_modules(model: transformers.PreTrainedModel) -> list[Any]:
    """The self-attention modules of the text decoder, in the order of its layers. Raises UnsupportedModelError for none."""
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
