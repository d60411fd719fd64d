"""The score of each task that a study is about."""

from __future__ import annotations

from lm_eval.api.task import Task

from act_eval.errors import SettingError
from act_eval.study_record import Score

_PREFERRED = "acc"


def primary_score(name: str, task: Task) -> Score:
    """Choose the score of a task that a study is about: its accuracy, else its first metric of which more is better.

    Where lm-eval filters answers in several ways, the first one counts.

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
    metric = _PREFERRED if _PREFERRED in better else better[0]
    filters = [ensemble.name for ensemble in getattr(task, "_filters", ())]
    return Score(metric, filters[0] if filters else "none")
