"""What a run's settings of ACT are called in a report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from act_eval.report.older_files import current_form

_UNCHANGED = "baseline"  # the text of settings that calibrate nothing
_HEADS = re.compile(r" \(\d+ heads\)")  # what follows the profile in a text of settings


def describe_settings(act: Mapping[str, Any] | None) -> str:
    """The settings of a run in one line, as `act-hf` wrote it: `all (32 heads), beta 0.4, alpha 5`, or `baseline`.

    Args:
        act: `config["act"]` of a results file, also of an older one; None for a run of another model than `act-hf`.
    """
    return _UNCHANGED if act is None or is_baseline(act) else str(current_form(act)["text"])


def profile_of(settings: str) -> str:
    """The profile in a text of settings, such as `search/profile.json 08360df3`."""
    return _HEADS.split(settings, maxsplit=1)[0]


def names_of_variants(studies: Iterable[tuple[str, Mapping[str, str]]]) -> dict[tuple[str, str], str]:
    """What settings that studies compare are called: by the variant that they stand for, in place of their profile.

    So `search/profile.json 08360df3 (4 heads), beta 0.4, alpha 5` is `heads found (4 heads), beta 0.4, alpha 5`. Where several
    studies of a model have other settings for the same variant, profiles stay: `heads found: search/profile.json ...`.

    Args:
        studies: of each the model, and the settings of each variant.

    Returns:
        Names by model and settings; no two settings of a model have the same.
    """
    variants = {
        (model, settings): variant
        for model, of_study in studies
        for variant, settings in of_study.items()
        if settings != _UNCHANGED
    }
    names = {(model, text): f"{variant}{text[len(profile_of(text)) :]}" for (model, text), variant in variants.items()}
    counts = Counter((model, name) for (model, _), name in names.items())
    return {key: name if counts[key[0], name] == 1 else f"{variants[key]}: {key[1]}" for key, name in names.items()}


def is_baseline(act: Mapping[str, Any] | None) -> bool:
    """Whether nothing was calibrated: no head, or calibrated heads stayed as they were.

    Args:
        act: see `describe_settings`.
    """
    return act is None or act["num_heads"] == 0 or bool(current_form(act)["changes_nothing"])
