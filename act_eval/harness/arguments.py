"""The `act_*` entries of lm-eval's `--model_args`."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from act_eval.attention.act import ACT, method_of_profile
from act_eval.attention.calibration import DEFAULT_METHOD, CalibrationSettings, settings_about, settings_unused_by
from act_eval.errors import InputError
from act_eval.hub_files import is_hub_name
from act_eval.methods.per_head_group import parameter_names
from act_eval.methods.registry import available_methods, classes_of, make_method
from act_eval.near_names import did_you_mean
from act_eval.profiles import HeadProfile, has_lists_of_groups, known_profile, normalize_name, stored_profile

_PREFIX = "act_"
_WHEN_A_KEY_IS_A_SINK = ("threshold", "alpha")  # two ways to say it
_SETTINGS = {setting.name: setting.default for setting in fields(ACT) if setting.name in ACT.setting_names()}


def argument_names() -> tuple[str, ...]:
    """All `act_*` entries that there are, those of every method among them."""
    of_methods = {parameter.name for method in available_methods().values() for parameter in fields(method)}
    return tuple(f"{_PREFIX}{name}" for name in ("profile", *_SETTINGS, "head_share", *sorted(of_methods)))


@dataclass(frozen=True)
class ACTArguments:
    """Which heads are calibrated, and how, before the model is known.

    Attributes:
        profile: names the heads, as `resolve_profile` understands it, or is the profile.
        head_share: share of the profile's heads that are calibrated, see `HeadProfile.share`.
        settings: settings of `ACT` that were given, by name.
        parameters: those of the method that were given, by name.

    Raises:
        InputError: a setting is out of range, both threshold and alpha are given, a parameter is not the method's, or there are
            groups of heads without a method for each.
    """

    profile: str | HeadProfile = "auto"
    head_share: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "profile", normalize_name(self.profile))
        HeadProfile({}).share(self.head_share)
        if "method" in self.settings or not (isinstance(self.profile, str) and is_hub_name(self.profile)):
            self.check()  # what a profile on the hub says of its groups is read where the method is needed

    def check(self) -> None:
        """Raise InputError where settings and method do not go together; a profile on the hub is read for its groups."""
        self.act(HeadProfile({}))
        if self.calibration.method.uses_span and self.calibration.span is None:
            raise InputError(
                f"the method {self.calibration.method.name} is about a part of the prompt: name it with {_PREFIX}span, a "
                "regular expression or one of description, question and examples."
            )
        if has_lists_of_groups(self.profile) and len(self.calibration.of_groups) == 1:
            raise InputError(
                f"{_PREFIX}profile={reprlib.repr(self.profile)} has groups of heads, but {self.calibration.method.name} is one "
                f"method: name one for each group, as in {_PREFIX}method=act+mask-head."
            )

    @classmethod
    def from_model_args(cls, model_args: Mapping[str, Any]) -> ACTArguments:
        """Read the `act_*` entries among all model arguments: fields of this class, settings of ACT, parameters of the method.

        Raises:
            InputError: see `ACTArguments`; one is unknown.
        """
        given = {name.removeprefix(_PREFIX): value for name, value in model_args.items() if name.startswith(_PREFIX)}
        own = {name: given.pop(name) for name in ("profile", "head_share") if name in given}
        settings = {name: given.pop(name) for name in _SETTINGS if name in given}
        known = argument_names()
        unknown = next((name for name in given if f"{_PREFIX}{name}" not in known), None)
        if unknown is not None:
            near = did_you_mean(unknown, [name.removeprefix(_PREFIX) for name in known], _PREFIX)
            raise InputError(f"act-hf has no argument '{_PREFIX}{unknown}'{near}: choose among {', '.join(known)}.")
        return cls(**own, settings=settings, parameters=given)

    @classmethod
    def with_profile(cls, model_args: Mapping[str, Any], profile: str, content: HeadProfile | None = None) -> ACTArguments:
        """Read the `act_*` entries among all model arguments, but with another profile, such as one that a search found.

        Where the profile says what is done in its groups of heads, that goes before the method of the arguments.

        Args:
            model_args: everything that `act-hf` takes.
            profile: names it.
            content: the profile itself, where it is not yet there under its name.
        """
        given = dict(model_args)
        method = method_of_profile(profile if content is None else content)
        if method is not None:
            parameters = parameter_names(tuple(available_methods().values()))
            left_out = {f"{_PREFIX}{name}" for name in ("method", *parameters)}
            own = {f"{_PREFIX}{name}": value for name, value in {"method": method.name, **method.parameters}.items()}
            given = {**{name: value for name, value in given.items() if name not in left_out}, **own}
        return cls.from_model_args({**given, "act_profile": profile})

    @property
    def model_args(self) -> dict[str, Any]:
        """All arguments as entries of `--model_args`; those that were not given have their defaults."""
        method = self._without_heads.method
        settings = {**_SETTINGS, **self.settings, "method": method.name, **method.parameters}
        everything = {"profile": self.profile, **settings, "head_share": self.head_share}
        return {f"{_PREFIX}{name}": value for name, value in everything.items()}

    @property
    def calibration(self) -> CalibrationSettings:
        """What is done in the heads of the profile."""
        return self._without_heads.calibration

    @property
    def changes_nothing(self) -> bool:
        """Whether this is the baseline: no head is calibrated, or calibrated heads stay as they are."""
        return self.profile == "none" or self.head_share == 0 or self.calibration.changes_nothing

    @property
    def without_effect(self) -> str:
        """Those of the arguments that leave attention as it is, such as `act_beta=1`, where this is the baseline."""
        calibration = self.calibration
        shares = {"head_share": self.head_share, "sink_share": calibration.sink_share}
        nothing: dict[str, Any] = {name: share for name, share in shares.items() if share == 0}
        if calibration.method.changes_nothing:
            nothing |= calibration.method.parameters
        return ", ".join(f"{_PREFIX}{name}={value}" for name, value in nothing.items())

    @property
    def not_repeated(self) -> str:
        """What the profile says its heads were found with, where neither it nor its opposite was given, such as `act_alpha=5`.

        Nothing where the profile is no file, or where a default is what they were found with.
        """
        profile = known_profile(self.profile)
        given, now = {*self.settings, *self.parameters}, self.act(HeadProfile({})).settings
        if given & set(_WHEN_A_KEY_IS_A_SINK):
            given |= set(_WHEN_A_KEY_IS_A_SINK)
        by_profile = None if "method" in given else method_of_profile(profile)
        if by_profile is not None:
            given |= {"method", *by_profile.parameters}
        unused = settings_unused_by(classes_of(now["method"]))
        others = {
            name: value
            for name, value in (profile.settings if profile else {}).items()
            if name in now and name not in given and name not in unused and value is not None and value != now[name]
        }
        return ", ".join(f"{_PREFIX}{name}={value}" for name, value in others.items() if name != "base")

    def act(self, profile: HeadProfile) -> ACT:
        """Make an ACT with these settings and a profile that was resolved for a model."""
        return replace(self._without_heads, profile=profile)

    @cached_property
    def _without_heads(self) -> ACT:
        of_profile = None if "method" in self.settings else method_of_profile(self.profile) or DEFAULT_METHOD
        method = make_method(self.settings.get("method", of_profile), self.parameters)
        return ACT(HeadProfile({}), **{**self.settings, "method": method})


def act_and_baseline(model_args: Mapping[str, Any]) -> tuple[ACTArguments, ACTArguments]:
    """Read ACT as the model arguments ask for it, and make the baseline of the same model.

    Raises:
        InputError: an `act_*` argument is unknown or out of range, settings and method do not go together, or the profile
            names no head.
    """
    arguments = ACTArguments.from_model_args(model_args)
    arguments.check()
    check_not_the_baseline(arguments)
    return arguments, baseline_of(arguments)


def check_not_the_baseline(arguments: ACTArguments) -> None:
    """Raise InputError where arguments calibrate no head, or leave those that they calibrate as they are."""
    if arguments.profile == "none":
        raise InputError("act_profile=none is the baseline itself: name the heads that ACT calibrates.")
    if arguments.changes_nothing:
        raise InputError(
            f"{arguments.without_effect} changes nothing, so ACT would be the baseline itself: choose other values."
        )
    stored = stored_profile(arguments.profile)
    if stored is not None and not stored.size:
        raise InputError(
            f"the head profile {arguments.profile} names no head, so it is the baseline itself: choose another profile, or "
            "search on more documents if it is of a search that found evidence for none."
        )


def baseline_of(arguments: ACTArguments) -> ACTArguments:
    """Make the arguments of the same model without calibration."""
    base = arguments.settings.get("base")
    return ACTArguments("none", settings={} if base is None else {"base": base})


def arguments_of_method(model_args: Mapping[str, Any], method: str, methods: Collection[str]) -> dict[str, Any]:
    """The model arguments of one of several methods: those that it takes, of what all of them take, and its name.

    Args:
        model_args: everything that `act-hf` takes, without a method.
        method: its name.
        methods: the names of all that are run.
    """
    unknown = {f"{_PREFIX}{name}" for name in unknown_arguments(method, methods)}
    return {**{name: value for name, value in model_args.items() if name not in unknown}, f"{_PREFIX}method": method}


def unknown_arguments(method: str, methods: Collection[str]) -> set[str]:
    """The arguments, without `act_`, that other methods of several take, but this one does not."""
    everything = set().union(*(_taken_by(name) for name in methods))
    return everything - _taken_by(method)


def _taken_by(name: str) -> set[str]:
    """The arguments that a method takes and not every method does; none where it is unknown, which `ACTArguments` says."""
    methods = classes_of(name)
    about_keys = {*settings_about("about_sinks"), *settings_about("about_span")}
    return parameter_names(methods) | (about_keys - settings_unused_by(methods))
