"""What results say of ACT's settings, as far as answers depend on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from act_eval.attention.act import ACT
from act_eval.hub_files import is_hub_name, read_hub_file, short_hub_name
from act_eval.profiles import HeadProfile

_LONGEST_PROFILE = 20


def act_identity(act: ACT, profile: HeadProfile) -> dict[str, Any]:
    """Collect the settings that answers depend on: all of ACT's, and the profile by content."""
    nothing = act.calibration.changes_nothing
    return {**act.settings, "changes_nothing": nothing, "profile_hash": profile.content_hash}


def recorded_act(act: ACT, profile: HeadProfile, profile_name: str) -> dict[str, Any]:
    """Collect what results say of ACT: `act_identity` with the method's parameters apart, the heads, and all of it in one line.

    Where the profile has groups of heads, they are there too.

    Of a profile on the hub they also say the commit, since a branch moves.

    Args:
        act: with all settings.
        profile: the heads that are calibrated.
        profile_name: what they were asked for by.
    """
    parameters = act.method.parameters
    settings = {name: value for name, value in act_identity(act, profile).items() if name not in parameters}
    return {
        **settings,
        "parameters": parameters,
        "profile": profile_name,
        **({"profile_commit": read_hub_file(profile_name).commit} if is_hub_name(profile_name) else {}),
        "num_heads": profile.size,
        "heads": _recorded_heads(profile),
        **(
            {"groups": [_recorded_heads(profile.group(number)) for number in range(len(profile.groups))]}
            if profile.groups
            else {}
        ),
        "text": settings_text(act, profile, profile_name),
    }


def _recorded_heads(profile: HeadProfile) -> dict[str, list[int]]:
    return {str(layer): list(heads) for layer, heads in profile.heads.items() if heads}


def settings_text(act: ACT, profile: HeadProfile, profile_name: str) -> str:
    """Describe the ACT settings of a run in one line, such as `all (32 heads), beta 0.4, alpha 5`, or `baseline`.

    An attention backend is named where one was asked for (`base eager`).

    A profile file, here or on the hub, is named by the last two parts of its path and by its content's hash, since files
    change; a long list of heads by its beginning and its hash.
    """
    if act.calibration.changes_nothing or not profile.size:
        return "baseline"
    name, digest = profile_name, profile.content_hash[:8]
    if is_hub_name(name):
        name = f"{short_hub_name(name)} {digest}"
    elif name.endswith(".json"):
        name = f"{'/'.join(Path(name).parts[-2:])} {digest}"
    elif len(name) > _LONGEST_PROFILE:
        name = f"{name[: _LONGEST_PROFILE - 3]}... {digest}"
    base = "" if act.base is None else f"base {act.base}"
    return ", ".join([f"{name} ({profile.size} heads)", *filter(None, [act.calibration.text, base])])
