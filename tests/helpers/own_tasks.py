"""lm-eval without its own tasks, which take many seconds to index."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from lm_eval.tasks import TaskManager


def leave_out_lm_evals_tasks(patch: pytest.MonkeyPatch | None = None) -> None:
    """Have lm-eval know the tasks of `include_path` alone, while the patch lasts or as long as the process does."""
    initialise = TaskManager.__init__

    @functools.wraps(initialise)
    def without(self: TaskManager, *arguments: Any, include_defaults: bool = True, **options: Any) -> None:
        initialise(self, *arguments, include_defaults=False, **options)

    (patch or pytest.MonkeyPatch()).setattr(TaskManager, "__init__", without)
