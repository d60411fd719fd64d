"""The score of each task that a study is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.task import Task

from act_eval.errors import SettingError
from act_eval.study_record import Score

_PREFERRED = "acc"
_PROBE = (0.0, 0.0, 0.25, 1.0)  # whose mean is no other of its statistics


def primary_score(name: str, task: Task) -> Score:
    """Choose the score of a task that a study is about: its accuracy, else its first metric of which more is better.

    Metrics that are no mean over documents do not count, since two runs cannot be paired by document in them. Where lm-eval
    filters answers in several ways, the first one counts.

    Args:
        name: of the task.
        task: of lm-eval.

    Raises:
        SettingError: the task has no such metric.
    """
    better = [metric for metric, more_is_better in task.higher_is_better().items() if more_is_better]
    if not better:
        raise SettingError(
            "tasks", f"names {name}, which has no metric of which more is better: name it in also, to evaluate it beside."
        )
    functions = task.aggregation()
    means = [metric for metric in better if _is_mean(functions.get(metric))]
    if not means:
        raise SettingError(
            "tasks",
            f"names {name}, which has no metric that is a mean over documents (only {', '.join(better)}), so that no two runs "
            "can be paired by document: name it in also, to evaluate it beside, or choose a task with accuracy, say.",
        )
    metric = _PREFERRED if _PREFERRED in means else means[0]
    filters = [ensemble.name for ensemble in getattr(task, "_filters", ())]
    return Score(metric, filters[0] if filters else "none")


def _is_mean(function: Callable[[Sequence[Any]], Any] | None) -> bool:
    """Whether an aggregation of lm-eval, which may be any function of what is kept of documents, is the mean of numbers."""
    try:
        made = float(function(list(_PROBE)))  # type: ignore[misc]
    except Exception:  # it takes something else than numbers
        return False
    return math.isclose(made, sum(_PROBE) / len(_PROBE))
