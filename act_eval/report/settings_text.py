"""What a run's settings of ACT are called in a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from act_eval.report.older_files import current_form


def describe_settings(act: Mapping[str, Any] | None) -> str:
    """The settings of a run in one line, as `act-hf` wrote it: `all (32 heads), beta 0.4, alpha 5`, or `baseline`.

    Args:
        act: `config["act"]` of a results file, also of an older one; None for a run of another model than `act-hf`.
    """
    return "baseline" if act is None or is_baseline(act) else str(current_form(act)["text"])


def is_baseline(act: Mapping[str, Any] | None) -> bool:
    """Whether nothing was calibrated: no head, or calibrated heads stayed as they were.

    Args:
        act: see `describe_settings`.
    """
    return act is None or act["num_heads"] == 0 or bool(current_form(act)["changes_nothing"])
