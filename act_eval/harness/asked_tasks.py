"""Tasks as settings ask for them: loaded as `lm_eval run` does it, and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transformers import set_seed

from act_eval.errors import InputError, SettingError
from act_eval.harness.processes import is_first_process
from act_eval.harness.request_cache import delete_cached_requests
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import LoadedTasks, explained_dataset_errors, load_for_evaluation, task_manager, tasks_with_tag
from act_eval.model_arguments import without_secrets
from act_eval.near_names import did_you_mean

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class AskedTasks:
    """Tasks that can be run, and how they are asked.

    Attributes:
        loaded: the tasks, and the groups that they were asked for by.
        manager: knows them.
        prompts: as they were asked for, but with the number of solved examples by tasks where it was by groups or tags.
    """

    loaded: LoadedTasks
    manager: TaskManager
    prompts: PromptSettings

    def tasks_of(self, name: str) -> Sequence[str]:
        """The tasks that a name of a task, group or tag, or a pattern of such names, stands for; none where it is unknown."""
        matches = self.manager.match_tasks([name])
        return list(dict.fromkeys(task for match in matches for task in _tasks_of(match, self.loaded, self.manager)))


def load_asked_tasks(prompts: PromptSettings, model: ModelSettings) -> AskedTasks:
    """Load the tasks that settings name. All random generators are seeded first, since tasks may draw while they are made.

    Args:
        prompts: what is asked; a number of solved examples that is given for a task takes the place of that in its config.
        model: its arguments are what tasks are made with, beside the metadata.

    Raises:
        InputError: there is no task of a name, or its config or dataset cannot be used; or a setting does not fit a task.
    """
    if prompts.cache_requests == "delete" and is_first_process():
        delete_cached_requests()
    manager = task_manager(prompts.tasks, prompts.include_path, {**without_secrets(model.without_act), **prompts.metadata})
    matches = list(dict.fromkeys(match for name in prompts.tasks for match in manager.match_tasks([name])))
    set_seed(prompts.seed)
    with explained_dataset_errors():
        loaded = load_for_evaluation(matches, manager)
    _check_unsafe_code(loaded.tasks, prompts)
    unknown = next((name for name in prompts.samples or () if name not in loaded.tasks), None)
    if unknown is not None:
        raise SettingError(
            "samples",
            f"names {unknown!r}, which is none of the tasks that are asked{did_you_mean(unknown, loaded.tasks)}: leave it out, "
            "or add it to tasks.",
        )
    if isinstance(prompts.num_fewshot, Mapping):
        prompts = replace(prompts, num_fewshot=_by_task(prompts.num_fewshot, loaded, manager))
    if prompts.check_integrity:
        _check_integrity(matches)
    return AskedTasks(loaded, manager, prompts)


def check_samples(name: str, documents: int, prompts: PromptSettings) -> None:
    """Raise SettingError where documents of a task are asked for that it does not have.

    Args:
        name: of the task.
        documents: how many there are in the split that is used.
        prompts: say which ones are asked for.
    """
    beyond = next((number for number in (prompts.samples or {}).get(name, ()) if number >= documents), None)
    if beyond is not None:
        raise SettingError(
            "samples", f"names document {beyond} of {name}, which has documents 0 to {documents - 1}: leave it out."
        )


def _check_unsafe_code(tasks: Mapping[str, Task], prompts: PromptSettings) -> None:
    unsafe = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not prompts.confirm_run_unsafe_code:
        raise SettingError(
            "confirm_run_unsafe_code",
            f"is needed for {', '.join(unsafe)}, which may execute code that the model writes: give it, or leave the task out.",
        )


def _by_task(numbers: Mapping[str, int], loaded: LoadedTasks, manager: TaskManager) -> dict[str, int]:
    """Numbers of solved examples by task; of several names that cover a task, the one that covers fewest tasks counts.

    As lm-eval does not change a 0 of a task's config later, such a config is changed here.
    """
    covered = {name: _tasks_of(name, loaded, manager) for name in numbers}
    unknown = next((name for name, tasks in covered.items() if not tasks), None)
    if unknown is not None:
        raise SettingError(
            "num_fewshot",
            f"names {unknown!r}, which is no task, group or tag of what is asked"
            f"{did_you_mean(unknown, [*loaded.tasks, *loaded.groups])}: leave it out, or add it to tasks.",
        )
    by_task: dict[str, int] = {}
    for name in sorted(numbers, key=lambda name: -len(covered[name])):
        by_task |= dict.fromkeys(covered[name], numbers[name])
    for name, number in by_task.items():
        if loaded.tasks[name].config.num_fewshot == 0:
            loaded.tasks[name].set_config("num_fewshot", number)
    return by_task


def _tasks_of(name: str, loaded: LoadedTasks, manager: TaskManager) -> Sequence[str]:
    """The tasks that are asked and that a name of a task, a group or a tag stands for."""
    if name in loaded.tasks:
        return [name]
    if name in loaded.groups:
        return loaded.groups[name].tasks
    return [task for task in tasks_with_tag(name, manager) if task in loaded.tasks]


def _check_integrity(names: Iterable[str]) -> None:
    """Run lm-eval's own tests of some tasks, groups or tags. Raises InputError where they fail, or where there are none."""
    from lm_eval.evaluator_utils import run_task_tests

    names = list(names)
    try:
        run_task_tests(task_list=names)
    except (FileNotFoundError, ImportError) as error:
        raise SettingError(
            "check_integrity",
            "runs lm-eval's own tests with pytest, but this lm-eval was installed without them: leave it out, or install "
            "lm-eval from a checkout.",
        ) from error
    except ValueError as error:
        raise InputError(
            f"lm-eval's own tests of {', '.join(names)} fail: leave check_integrity out to run nevertheless."
        ) from error
