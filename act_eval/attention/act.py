"""ACT, the Attention Calibration Technique, as a context manager around a Hugging Face model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from act_eval.attention import gptj
from act_eval.attention.backends import base_attention, check_base, check_base_of_model, register_act_attention
from act_eval.attention.calibration import DEFAULT_METHOD, CalibrationSettings
from act_eval.attention.generation import check_before_generating
from act_eval.attention.layer import MODULE_ATTRIBUTE, LayerCalibration, act_attention
from act_eval.attention.limits import DEFAULT_LIMITS, ComputeLimits
from act_eval.attention.masks import LastVisibility
from act_eval.attention.model_structure import (
    UnsupportedModelError,
    attention_modules,
    check_adapters,
    check_profile_layers,
    check_supported,
    compute_all_queries,
    model_shape,
    pretrained_model,
    refuse_continuous_batching,
    resolve_for_model,
)
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.errors import InputError
from act_eval.methods.base import Method
from act_eval.methods.per_head_group import PerHeadGroup
from act_eval.methods.registry import make_method
from act_eval.profiles import GROUP_SEPARATOR, HeadProfile, ProfileError, known_profile


@dataclass(frozen=True)
class ACT(CalibrationSettings):
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
            With a method per group of heads, its groups are those of the methods, in their order.
        base: attention backend for all heads (`"sdpa"`, `"eager"`, ...); by default the one that the model was loaded with.
        limits: how much is computed at once; no setting of ACT, since results agree whatever it is.
        method: what becomes of the rows, as the field of `CalibrationSettings`; by default what the profile says is to be done
            in its groups of heads, or else `"act"`.
        beta, threshold, alpha, keep, decode, sink_share, min_queries: when a key is a sink, and what becomes of its
            attention, as fields of `CalibrationSettings`; by keyword.

    Raises:
        InputError: a setting is out of range, both threshold and alpha are given, the base or the method is unknown, the base
            needs a package that is not installed, or profiles of rows say that different things are to be done.
        ProfileError: the profile is a file that holds none.
    """

    profile: HeadProfile | str | Sequence[HeadProfile]
    method: Any = field(default=None, kw_only=True)
    base: str | None = field(default=None, kw_only=True)
    layer_class: ClassVar[type[LayerCalibration]] = LayerCalibration
    limits: ComputeLimits = field(default=DEFAULT_LIMITS, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.method is None:
            object.__setattr__(self, "method", self._method_of_profile())
        super().__post_init__()
        if self.base is not None:
            check_base(self.base)

    @cached_property
    def calibration(self) -> CalibrationSettings:
        """What is done in a calibrated head, without the heads and the backend."""
        return CalibrationSettings(**{setting.name: getattr(self, setting.name) for setting in fields(CalibrationSettings)})

    def with_settings(self, settings: CalibrationSettings) -> ACT:
        """The same heads and backend, with other settings of what is done there."""
        given = {setting.name: getattr(settings, setting.name) for setting in fields(CalibrationSettings)}
        return ACT(self.profile, base=self.base, limits=self.limits, **given)

    def with_method(self, method: Method) -> ACT:
        """The same with another method, or with other parameters of it."""
        return self.with_settings(replace(self.calibration, method=method, beta=None))

    @classmethod
    def setting_names(cls) -> tuple[str, ...]:
        """The names of all settings but the profile and the parameters of methods."""
        return (*(setting.name for setting in fields(CalibrationSettings) if setting.name != "beta"), "base")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings but the profile, by name, the method's own parameters among them; values that JSON can hold."""
        values = {name: getattr(self, name) for name in self.setting_names() if name != "method"}
        return {"method": self.method.name, **self.method.parameters, **values}

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Calibrate `model` until the block ends.

        Args:
            model: a causal language model of transformers, also one wrapped by PEFT.

        Raises:
            UnsupportedModelError: its attention does not go through transformers' `AttentionInterface`, or it is an
                encoder-decoder, or has an adapter that learns prompts, or it is inside such a block already.
            ProfileError: the profile does not fit the model.
            InputError: the model cannot run with the base.
        """
        check_adapters(model)
        pretrained = pretrained_model(model)
        check_supported(pretrained.config, type(pretrained))
        text_config = pretrained.config.get_text_config()
        modules = attention_modules(pretrained)
        if any(hasattr(module, MODULE_ATTRIBUTE) for module in modules):
            raise UnsupportedModelError("the model is inside an ACT context already: leave it before entering another one.")
        heads = self._heads_of_rows(text_config, pretrained.name_or_path)
        check_profile_layers(heads, {module.layer_idx for module in modules})
        base: str = self.base or text_config._attn_implementation
        check_base_of_model(text_config, type(pretrained), base)
        adapted = gptj.is_adapted(type(pretrained))
        name = base if adapted else register_act_attention(base, act_attention)
        with ExitStack() as stack:
            if self.changes_nothing or not any(profile.size for profile in heads):
                name = base
            else:
                self._calibrate_modules(modules, heads, base, adapted, HeadDivision.of_model(pretrained), stack)
                compute_all_queries(pretrained, stack)
                refuse_continuous_batching(pretrained, stack)
                if self.method.marks_keys:
                    check_before_generating(pretrained, stack)
            for config in {id(module.config): module.config for module in modules}.values():
                stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
                config._attn_implementation_internal = name
            yield model

    def _calibrate_modules(
        self,
        modules: list[Any],
        heads: Sequence[HeadProfile],
        base: str,
        adapted: bool,
        division: HeadDivision,
        stack: ExitStack,
    ) -> None:
        """Put onto attention modules what they need, until the stack is left."""
        visibility, of_continuations = LastVisibility(self.limits), LastVisibility(self.limits)
        of_groups = self.calibration.of_groups
        profiles = [heads] if len(of_groups) == 1 else [_groups(heads, number) for number in range(len(of_groups))]
        # All heads anew where sinks are not few, but not those of other groups.
        limits = self.limits if len(of_groups) == 1 else replace(self.limits, share_of_heads_to_pick=math.inf)
        for module in modules:
            attend = gptj.base_attention if adapted else base_attention(module, base)
            for group, (settings, of_rows) in enumerate(zip(of_groups, profiles, strict=True)):
                attend = layer = self.layer_class(
                    layer=module.layer_idx,
                    base_name=base,
                    base=attend,
                    settings=settings,
                    heads=tuple(profile.heads.get(module.layer_idx, ()) for profile in of_rows),
                    visibility=visibility,
                    visibility_of_continuations=of_continuations,
                    num_heads=model_shape(module.config)[1],
                    division=division,
                    group=group,
                    limits=limits,
                )
                stack.callback(module.register_forward_pre_hook(layer.before_module, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(layer.after_module).remove)
            setattr(module, MODULE_ATTRIBUTE, layer)
            stack.callback(delattr, module, MODULE_ATTRIBUTE)
            if adapted:
                gptj.route_through(module, act_attention)
                stack.callback(delattr, module, "_attn")

    @property
    def _profiles(self) -> Sequence[HeadProfile | str]:
        """One for all rows, or one for each."""
        return [self.profile] if isinstance(self.profile, (HeadProfile, str)) else self.profile

    def _method_of_profile(self) -> str | Method:
        methods = {method_of_profile(profile) for profile in self._profiles}
        if len(methods) > 1:
            raise InputError("profiles of rows name different methods for their heads: give the method that all rows have.")
        return next(iter(methods), None) or DEFAULT_METHOD

    def _heads_of_rows(self, text_config: Any, checkpoint: str) -> list[HeadProfile]:
        resolved = [resolve_for_model(profile, text_config, checkpoint) for profile in self._profiles]
        for profile in resolved:
            check_groups(profile, self.calibration)
        return resolved


def method_of_profile(profile: HeadProfile | str | None) -> Method | None:
    """What a profile, or what names one, says is to be done in its heads; None where it does not say.

    Raises:
        ProfileError: it is a file that holds no profile.
        HubError: it cannot be had from the hub.
        InputError: there is no such method, or a parameter is not one of it.
    """
    known = known_profile(profile)
    methods = [make_method(group.method, group.parameters) for group in (known.groups if known else ()) if group.method]
    return PerHeadGroup(tuple(methods)) if len(methods) > 1 else next(iter(methods), None)


def check_groups(profile: HeadProfile, settings: CalibrationSettings) -> None:
    """Raise ProfileError unless a profile has as many groups of heads as there are methods; one without heads needs none."""
    methods, groups = len(settings.of_groups), len(profile.groups)
    if methods > 1 and profile.size and groups != methods:
        have = f"has {groups} groups of heads" if groups else "does not divide its heads into groups"
        raise ProfileError(
            f"the method {settings.method.name} needs {methods} groups of heads, one for each of its methods, but the profile "
            f"{have}: give as many lists of heads with {GROUP_SEPARATOR} between them, or a profile with such groups."
        )


def _groups(profiles: Sequence[HeadProfile], number: int) -> list[HeadProfile]:
    """The heads of one group in each of some profiles."""
    return [profile.group(number) for profile in profiles]
