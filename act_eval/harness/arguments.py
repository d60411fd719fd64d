"""The `act_*` entries of lm-eval's `--model_args`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings
from act_eval.errors import InputError
from act_eval.methods import available_methods, make_method
from act_eval.methods.base import Method
from act_eval.profiles import HeadProfile


@dataclass(frozen=True)
class ACTArguments:
    """The `act_*` entries of `--model_args`. See `act_eval.attention.act.ACT` for their meaning.

    Attributes:
        act_head_share: see `HeadProfile.share`.
        parameters: those of the method, by name: `act_beta=0.2` is `{"beta": 0.2}`.

    Raises:
        InputError: a setting is out of range, both act_threshold and act_alpha are given, or a parameter is not the method's.
    """

    act_profile: str | HeadProfile | None = "auto"
    act_method: str | Method = "act"
    act_threshold: float | None = None
    act_alpha: float | None = None
    act_keep: str = "first-sink"
    act_decode: str = "prefill"
    act_base: str | None = None
    act_sink_share: float = 1.0
    act_head_share: float = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.act_profile is None:  # lm-eval turns the word none into None
            object.__setattr__(self, "act_profile", "none")
        HeadProfile({}).share(self.act_head_share)
        self.act(HeadProfile({}))

    @classmethod
    def of_model_args(cls, model_args: Mapping[str, Any]) -> ACTArguments:
        """The `act_*` entries among all model arguments; those that are no settings of ACT are parameters of the method.

        Raises:
            InputError: see `ACTArguments`; one is unknown.
        """
        names = [name for name in cls.__dataclass_fields__ if name.startswith("act_")]
        given = {key: value for key, value in model_args.items() if key.startswith("act_")}
        parameters = {key.removeprefix("act_"): given.pop(key) for key in list(given) if key not in names}
        of_methods = {field.name for method in available_methods().values() for field in fields(method)}
        unknown = [name for name in parameters if name not in of_methods]
        if unknown:
            names += sorted(f"act_{name}" for name in of_methods)
            raise InputError(f"act-hf has no argument 'act_{unknown[0]}': choose among {', '.join(names)}.")
        return cls(**given, parameters=parameters)

    @property
    def model_args(self) -> dict[str, Any]:
        """All of them, as entries of `--model_args`; the method's parameters with their defaults."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__ if name.startswith("act_")}
        method = self.calibration.method
        return {**settings, "act_method": method.name, **{f"act_{name}": value for name, value in method.parameters.items()}}

    @property
    def changes_nothing(self) -> bool:
        """Whether this is the baseline: no head is calibrated, or calibrated heads stay as they are."""
        return self.act_profile == "none" or self.act_head_share == 0 or self.calibration.changes_nothing

    @property
    def calibration(self) -> CalibrationSettings:
        """What is done in the heads of the profile."""
        return self.act(HeadProfile({})).calibration

    def act(self, profile: HeadProfile) -> ACT:
        """ACT with these settings and a profile that was resolved for a model."""
        return ACT(
            profile,
            threshold=self.act_threshold,
            alpha=self.act_alpha,
            keep=self.act_keep,  # type: ignore[arg-type]
            decode=self.act_decode,  # type: ignore[arg-type]
            base=self.act_base,
            method=make_method(self.act_method, self.parameters),
            sink_share=self.act_sink_share,
        )


def act_and_baseline(model_args: Mapping[str, Any]) -> tuple[ACTArguments, ACTArguments]:
    """ACT as the model arguments ask for it, and the baseline of the same model.

    Raises:
        InputError: an `act_*` argument is unknown or out of range, or the profile names no head.
    """
    arguments = ACTArguments.of_model_args(model_args)
    if arguments.act_profile == "none":
        raise InputError("act_profile=none is the baseline itself: name the heads that ACT calibrates.")
    if arguments.changes_nothing:
        raise InputError("these settings change nothing, so ACT would be the baseline itself: choose others.")
    profile = arguments.act_profile
    if isinstance(profile, str) and os.path.isfile(profile) and not HeadProfile.load(profile).size:
        raise InputError(f"the head profile {profile} names no head, so it is the baseline itself: choose another profile.")
    return arguments, baseline_of(arguments)


def baseline_of(arguments: ACTArguments) -> ACTArguments:
    """The same model without calibration."""
    return ACTArguments(act_profile="none", act_base=arguments.act_base)
