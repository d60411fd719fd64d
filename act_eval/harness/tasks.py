"""The project's lm-eval tasks: where they are, what they hold, and clear words when a dataset fails them."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from act_eval.errors import InputError, SettingError, explained
from act_eval.harness.settings import PromptSettings
from act_eval.near_names import did_you_mean
from act_eval.task_groups import TaskGroup

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask, Task
    from lm_eval.tasks import TaskManager


_LISTS = "`act-eval tasks` lists the project's, `act-eval run ls tasks` those of lm-eval too"


class TaskError(InputError):
    """A task that does not exist, or whose dataset cannot be had or lacks what the task needs."""


@dataclass(frozen=True)
class TaskDescription:
    """One of the project's tasks, as its config says; nothing is loaded for it.

    Args:
        name: as for `--tasks`.
        dataset: hub id and config, or "generated".
        split_sizes: documents per split of the whole dataset.
        evaluation_split: the split that is scored.
        fewshot_split: the split that few-shot examples come from.
        num_fewshot: examples per prompt if `--num_fewshot` does not say.
        metrics: names, the headline first.
    """

    name: str
    dataset: str
    split_sizes: dict[str, int]
    evaluation_split: str
    fewshot_split: str
    num_fewshot: int
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class LoadedTasks:
    """Tasks that can be run, and the groups that they were asked for by.

    Attributes:
        tasks: by name.
        groups: by name.
        innermost: of the tasks that are in a group, the name of the innermost one.
    """

    tasks: Mapping[str, Task]
    groups: Mapping[str, TaskGroup]
    innermost: Mapping[str, str]


def tasks_path() -> Path:
    """Find the folder to give lm-eval as `include_path`: `tasks/` of a checkout, or its copy inside the installed package.

    Once lm-eval finds tasks through entry points (its pull request 4015), one line in pyproject.toml can name this function.
    """
    package = Path(__file__).parents[1]
    checkout = package.parent / "tasks"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "task_configs"


def project_tasks() -> TaskManager:
    """Make a task manager that knows the project's tasks only; to index lm-eval's own takes many seconds more."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks_path()), include_defaults=False)


def task_manager(
    names: Sequence[str], include_path: str | None = None, metadata: Mapping[str, Any] | None = None
) -> TaskManager:
    """Make a task manager that knows some tasks or groups; lm-eval's own are indexed, slowly, only where they are needed.

    Args:
        names: of lm-eval tasks, groups or tags, or patterns.
        include_path: folder with more task configs.
        metadata: what tasks are made with beside their configs, by name.

    Raises:
        SettingError: there is no folder `include_path`.
        TaskError: nothing goes by one of the names, or a file in `include_path` cannot be read, which may be why.
    """
    from lm_eval.tasks import TaskManager
    from yaml import YAMLError

    if not names:
        raise TaskError(f"no task was named: give names, separated by commas; {_LISTS}.")
    if include_path is not None and not Path(include_path).is_dir():
        raise SettingError("include_path", f"{include_path}: there is no such folder.")
    paths = [str(tasks_path()), *([include_path] if include_path else [])]
    for include_defaults in (False, True):
        try:
            manager = TaskManager(include_path=paths, include_defaults=include_defaults, metadata=dict(metadata or {}))
        except (OSError, ValueError, YAMLError):  # lm-eval 0.4.10, where later ones leave out what cannot be read
            _check_configs(include_path)
            raise
        unknown = [name for name in names if not manager.match_tasks([name])]
        if not unknown:
            return manager
    _check_configs(include_path)
    raise unknown_task(unknown[0], manager)


def unknown_task(name: str, manager: TaskManager | None = None) -> TaskError:
    """The error for a name that no task, group or tag goes by: with names that are like it, and what lists all of them.

    Args:
        name: what was asked for.
        manager: knows the names that were looked through; by default the project's are looked through.
    """
    near = did_you_mean(name, (manager or project_tasks()).all_tasks)
    return TaskError(f"there is no task {name!r}{near}: {_LISTS}.")


def _check_configs(folder: str | None) -> None:
    """Raise TaskError for the first file below a folder that cannot be read as a config of tasks."""
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else ():
        try:
            config = _read_yaml(path)
            if not isinstance(config, dict):
                raise ValueError(f"it is a {type(config).__name__}, not names with values")
        except Exception as error:  # of YAML, of files that it includes
            reason = " ".join(str(error).split())
            raise TaskError(f"{path} cannot be read as the config of a task ({reason}): mend or remove the file.") from error


def load_tasks(name: str, manager: TaskManager) -> dict[str, Task]:
    """Load the task of that name, or all tasks of a group or tag: tasks by name."""
    return dict(load_for_evaluation([name], manager).tasks)


def tasks_with_tag(tag: str, manager: TaskManager) -> list[str]:
    """The names of all tasks that have a tag; none where it is no tag."""
    entry = manager.task_index[tag] if tag in manager.all_tags else None
    if entry is None:
        return []
    return sorted(entry["task"] if isinstance(entry, dict) else entry.tags)


@contextmanager
def _explained_config_errors(name: str) -> Iterator[None]:
    """Turn what is raised while tasks are made from their configs, datasets apart, into one sentence.

    What memory or the disk fail at passes unchanged; all else is about the config, its functions or its templates.

    Raises:
        TaskError: names the task, the reason and the remedy; or the dataset, see `explained_dataset_errors`.
    """

    def explain(error: Exception) -> TaskError:
        reason = " ".join(str(error).split()).rstrip(".")
        return TaskError(
            f"task {name!r} cannot be made from its config ({type(error).__name__}: {reason}): mend its YAML file."
        )

    with explained(explain, Exception), explained_dataset_errors():
        yield


def _flat(tasks: dict[Any, Any]) -> dict[str, Task]:
    """Flatten a dictionary in which groups are dictionaries, to tasks by name."""
    flat: dict[str, Task] = {}
    for name, task in tasks.items():
        flat |= _flat(task) if isinstance(task, dict) else {name: task}
    return flat


def _innermost_groups(tasks: dict[Any, Any], group: str | None = None) -> Iterator[tuple[str, str]]:
    """Find the innermost group of each task in a dictionary in which groups are dictionaries."""
    for name, task in tasks.items():
        if isinstance(task, dict):
            yield from _innermost_groups(task, str(getattr(name, "group", name)))
        elif group is not None:
            yield name, group


def load_for_evaluation(names: Iterable[str], manager: TaskManager) -> LoadedTasks:
    """Load tasks, and all tasks of groups and tags, each once.

    Raises:
        TaskError: a task's config or dataset cannot be used, or its name holds a path, so that lm-eval would write its samples
            into another folder.
    """
    tasks: dict[str, Task] = {}
    groups: dict[str, TaskGroup] = {}
    innermost: dict[str, str] = {}
    for name in names:
        with _explained_config_errors(name):
            if not hasattr(manager, "load"):  # lm-eval 0.4.10
                nested = manager.load_task_or_group([name])
                found, of_name, inner = _flat(nested), dict(_nested_groups(nested)), dict(_innermost_groups(nested))
            else:
                loaded = manager.load([name])
                found, of_name = loaded["tasks"], {group.name: _task_group(group) for group in loaded["groups"].values()}
                inner = {task: group for group, children in loaded["group_map"].items() for task in children if task in found}
        tasks |= {task: found[task] for task in found if task not in tasks}
        groups |= of_name
        innermost |= inner
    for task in tasks:
        if Path(task).name != task:
            raise TaskError(f"the task name {task!r} holds a path, but files are named by it: rename the task in its config.")
    return LoadedTasks(tasks, groups, innermost)


def _task_group(group: Any) -> TaskGroup:
    weighted = [entry.metric for entry in group.aggregate_metric_list or () if entry.weight_by_size]
    return TaskGroup(tuple(task.task_name for task in group.get_all_tasks()), tuple(weighted))


def _nested_groups(tasks: dict[Any, Any]) -> Iterator[tuple[str, TaskGroup]]:
    """All groups, by name, of a dictionary in which groups are dictionaries."""
    for group, members in tasks.items():
        if isinstance(members, dict):
            entries = group.config["aggregate_metric_list"] or ()
            yield group.group_name, TaskGroup(tuple(_flat(members)), tuple(e["metric"] for e in entries if e["weight_by_size"]))
            yield from _nested_groups(members)


def evaluated_documents(task: Task, prompts: PromptSettings) -> Sequence[int]:
    """The documents of a task that are evaluated, by their numbers in the split."""
    from lm_eval.evaluator_utils import get_sample_size

    chosen = (prompts.samples or {}).get(task.config.task)
    if chosen is not None:
        return chosen
    limit = get_sample_size(task, prompts.limit)
    return range(len(task.eval_docs))[:limit]


def check_enough_documents(asked: Iterable[tuple[Task, PromptSettings]], processes: int) -> None:
    """Check that every process of several gets a document of each task: lm-eval cannot go on with one that has none.

    Args:
        asked: tasks that are run, with what says how many of their documents are asked.
        processes: how many share the documents.

    Raises:
        TaskError: a task has too few documents.
    """
    for task, prompts in asked if processes > 1 else ():
        number = len(evaluated_documents(task, prompts))
        if number < processes:
            raise TaskError(
                f"{processes} processes cannot share the documents of task {task.config.task}, of which {number} are "
                "asked for: raise limit, or start fewer processes."
            )


def _read_config(entry: Any) -> dict[str, Any]:
    """Read the config of a task or group from its entry in a task manager's index; functions stay names."""
    return _read_yaml(entry["yaml_path"] if isinstance(entry, dict) else entry.yaml_path)


def _read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a config with what it includes; functions stay names."""
    try:
        from lm_eval.tasks._yaml_loader import load_yaml
    except ImportError:  # lm-eval 0.4.10
        from lm_eval.utils import load_yaml_config

        return load_yaml_config(str(path), mode="simple")
    return load_yaml(path, resolve_func=False)


def describe_tasks() -> tuple[list[TaskDescription], dict[str, list[str]]]:
    """Describe the project's tasks, and list the members of each of its groups."""
    manager = project_tasks()
    configs = {name: _read_config(entry) for name, entry in manager.task_index.items()}
    descriptions = [_describe(name, configs[name]) for name in manager.all_subtasks]
    return descriptions, {name: configs[name]["task"] for name in manager.all_groups}


def _describe(name: str, config: dict[str, Any]) -> TaskDescription:
    dataset = " ".join(config[key] for key in ("dataset_path", "dataset_name") if key in config)
    return TaskDescription(
        name=name,
        dataset=dataset or "generated",
        split_sizes=config["metadata"]["split_sizes"],
        evaluation_split=config.get("test_split") or config["validation_split"],
        fewshot_split=config["fewshot_split"],
        num_fewshot=config.get("num_fewshot", 0),
        metrics=tuple(metric["metric"] for metric in config["metric_list"]),
    )


def example_prompt(name: str) -> str:
    """Render the prompt of a task's first document as the model gets it, with the choices and the right answer below.

    Raises:
        TaskError: the project has no task of that name, a group has it, or its dataset cannot be had.
    """
    manager = project_tasks()
    if name in manager.all_groups:
        members = _read_config(manager.task_index[name])["task"]
        raise TaskError(f"{name} is a group of the tasks {', '.join(members)}: name one of them.")
    if name not in manager.all_subtasks:
        near = did_you_mean(name, manager.all_subtasks)
        raise TaskError(f"the project has no task {name!r}{near}: `act-eval tasks` lists those that it has.")
    with explained_dataset_errors():
        task = load_tasks(name, manager)[name]
        document = task.eval_docs[0]
        prompt = task.fewshot_context(document, 0)
        target = task.doc_to_target(document)
        choices = task.doc_to_choice(document) if task.config.doc_to_choice else []
    answer = choices[target] if choices else target
    lines = [prompt, "", *([f"choices: {choices}"] if choices else []), f"answer:  {answer!r}"]
    return "\n".join(lines)


@contextmanager
def explained_dataset_errors() -> Iterator[None]:
    """Turn what lm-eval raises when a task's dataset cannot be loaded or does not fit into one sentence.

    Works for any task, lm-eval's own included: the task is found in the traceback, since lm-eval's errors do not name it.

    Raises:
        TaskError: names the task, its dataset, the reason and the remedy. Errors that have nothing to do with a dataset
            pass unchanged.
    """
    from jinja2 import UndefinedError

    try:
        yield
    except InputError:
        raise
    except Exception as error:
        task, is_download = _failing_task(error)
        if task is None:
            raise
        dataset = " ".join(filter(None, [task.DATASET_PATH, task.DATASET_NAME])) or "generated"
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if is_download:
            raise TaskError(
                f"the dataset {dataset} of task {task.config.task} cannot be loaded ({reason.rstrip('.')}): connect to the "
                f"Hugging Face hub (and unset HF_HUB_OFFLINE), or run in a folder that holds it as {task.DATASET_PATH}."
            ) from error
        if isinstance(error, ValueError) and "Sample larger than population" in str(error):
            raise TaskError(
                f"task {task.config.task} has fewer solved examples than num_fewshot asks for: give a lower number."
            ) from error
        if not isinstance(error, (KeyError, UndefinedError)):
            raise
        splits = ", ".join(f"{name} ({', '.join(split.column_names)})" for name, split in task.dataset.items())
        raise TaskError(
            f"the dataset {dataset} does not have what task {task.config.task} needs ({reason}): it has the splits and columns "
            f"{splits}; if that is an outdated copy, delete it, and else use the dataset that the task's README names."
        ) from error


def _failing_task(error: Exception) -> tuple[ConfigurableTask | None, bool]:
    """Find the task whose method raised, or None, and say whether it was loading its dataset."""
    from lm_eval.api.task import ConfigurableTask

    task, is_download = None, False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        instance = frame.f_locals.get("self")
        if isinstance(instance, ConfigurableTask):
            task = instance
            is_download = is_download or frame.f_code.co_name == "download"
    return task, is_download
