"""ACT's settings in results files of before they held a text: the parameters of the method lie among the other settings.

This module knows the settings of that time, to which none is added: what came later is in files that say it in words. The first
of these files did not name the attention backend in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

REQUIRED = ("threshold", "alpha", "keep", "decode", "profile", "profile_hash", "num_heads")
_OPTIONAL = ("method", "sink_share", "changes_nothing", "base", "heads")
_OLDEST_METHOD = "act"  # of files that do not say which one it was
_DIGITS = ".10g"
_LONGEST_PROFILE = 20


def current_form(act: Mapping[str, Any]) -> dict[str, Any]:
    """ACT's settings as results files hold them now, with the method's `parameters` apart and the whole as `text`.

    Args:
        act: from a results file, older or not; an older one has all that is `REQUIRED`.
    """
    if "text" in act:
        return {**act, "text": _with_base(str(act["text"]), act)}
    parameters = {name: value for name, value in act.items() if name not in (*REQUIRED, *_OPTIONAL)}
    settings = {name: value for name, value in act.items() if name not in parameters}
    return {
        "method": _OLDEST_METHOD,
        "parameters": parameters,
        "changes_nothing": act.get("beta") == 1 and act["decode"] != "official",
        **settings,
        "text": _text(settings, parameters),
    }


def _with_base(text: str, act: Mapping[str, Any]) -> str:
    """A text that names the attention backend where one was asked for."""
    base = act.get("base")
    words = "" if base is None else f", base {base}"
    return text if text.endswith(words) else f"{text}{words}"


def _text(act: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """The settings in one line, such as `all (32 heads), beta 0.4, alpha 5`.

    The method is named where it is not ACT's own, and what says when a key is a sink where the method uses sinks. A profile
    file is named by its last two path components and by its content's hash, since files change; a long list of heads by its
    beginning and its hash.
    """
    profile = str(act["profile"])
    if profile.endswith(".json"):
        profile = f"{'/'.join(Path(profile).parts[-2:])} {act['profile_hash'][:8]}"
    elif len(profile) > _LONGEST_PROFILE:
        profile = f"{profile[: _LONGEST_PROFILE - 3]}... {act['profile_hash'][:8]}"
    method = act.get("method", _OLDEST_METHOD)
    parts = [f"{profile} ({act['num_heads']} heads)"]
    parts += [method] if method != _OLDEST_METHOD else []
    parts += [f"{name} {value:{_DIGITS}}" for name, value in parameters.items()]
    parts += [f"{name} {act[name]:{_DIGITS}}" for name in ("alpha", "threshold") if act[name] is not None]
    parts += [f"{100 * act['sink_share']:{_DIGITS}}% of sinks"] if act.get("sink_share", 1) != 1 else []
    parts += [act["keep"]] if act["keep"] != "first-sink" else []
    parts += [f"decode {act['decode']}"] if act["decode"] != "prefill" else []
    return _with_base(", ".join(parts), act)
