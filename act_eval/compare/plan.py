"""What a comparison runs: every variant with every seed on every task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.samplers import FirstNSampler
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from act_eval.errors import InputError, SettingError
from act_eval.generation_arguments import draws_replies
from act_eval.harness.arguments import ACTArguments, act_and_baseline
from act_eval.harness.asked_tasks import AskedTasks, check_samples, load_asked_tasks
from act_eval.harness.processes import is_first_process
from act_eval.harness.settings import ModelSettings, PromptSettings, check_evaluation_batch_size
from act_eval.harness.task_identity import describe_task
from act_eval.harness.tasks import LoadedTasks, explained_dataset_errors
from act_eval.harness.what_ran import in_json
from act_eval.model_arguments import without_placement
from act_eval.study_record import METHODS_FILE, STUDY_COMMAND, STUDY_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared.

    Args:
        model: which model; the baseline gets the same arguments without calibration.
        prompts: what it is asked; the seed there is not used.
        seeds: each is a run of its own with this seed, of the tasks that a seed can change something in, see
            `seeds_by_task`; of the others the first one counts.

    Raises:
        InputError: the limit, the batch size or a seed cannot work, or a seed is given twice.
    """

    model: ModelSettings
    prompts: PromptSettings
    seeds: tuple[int, ...] = (1234,)

    def __post_init__(self) -> None:
        self.prompts.check_limit()
        check_evaluation_batch_size(self.model.batch_size)
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise SettingError("seeds", f"{','.join(map(str, self.seeds))}: all must be at least 0 and below 2**32.")
        twice = next((seed for number, seed in enumerate(self.seeds) if seed in self.seeds[:number]), None)
        if twice is not None:
            raise SettingError("seeds", f"names {twice} twice: give each seed once.")


@dataclass(frozen=True)
class Run:
    """One variant of one task with one seed.

    Attributes:
        variant: what it is called.
        arguments: what is calibrated.
        model: which model.
        prompts: the task, the seed, and all else that shapes prompts.
    """

    variant: str
    arguments: ACTArguments
    model: ModelSettings
    prompts: PromptSettings

    @property
    def task(self) -> str:
        """The name of the task."""
        (task,) = self.prompts.tasks
        return task

    @property
    def model_args(self) -> dict[str, Any]:
        """The model arguments that this run's results record."""
        return {**self.model.without_act, **self.arguments.model_args}

    @property
    def asked(self) -> dict[str, Any]:
        """What the user asked for, in values that JSON can hold; device and batch size are not part of it."""
        return in_json(
            {
                "task": self.task,
                "model_args": without_placement(self.model_args),
                **self.prompts.recorded,
                "include_path": self.prompts.include_path,
            }
        )


@dataclass(frozen=True)
class RunPlan:
    """All runs of a comparison.

    Attributes:
        runs: in the order in which they run.
        loaded: their tasks, and the groups that these belong to.
        manager: knows their tasks.
        command: which plans them; what it planned for a folder earlier, and is not finished, is not asked for any more.
    """

    runs: tuple[Run, ...]
    loaded: LoadedTasks
    manager: TaskManager
    command: str = "compare"

    def check_folder(self, output: Path) -> None:
        """Raise InputError where a folder holds a study, and its report would be replaced by that of another command."""
        if self.command == STUDY_COMMAND:
            return
        for file in (STUDY_FILE, METHODS_FILE):
            if (output / file).is_file():
                raise InputError(f"{output} holds a study ({file}), whose report would be replaced: choose another folder.")

    def describe_tasks(self) -> dict[str, dict[str, Any]]:
        """See `describe_task`, for each task by name. To be called before a task runs, since its config changes then.

        Raises:
            TaskError: a dataset cannot be had.
        """
        run_of_task = {run.task: run for run in self.runs}
        with explained_dataset_errors():
            return {name: describe_task(self.loaded.tasks[name], run.prompts, run.model) for name, run in run_of_task.items()}


def plan_comparison(settings: ComparisonSettings) -> RunPlan:
    """Say what a comparison of ACT with its baseline runs. Raises what `act_and_baseline` and `plan_runs` raise."""
    act, baseline = act_and_baseline(settings.model.model_args)
    return plan_runs(settings, {"ACT": act, "baseline": baseline})


def plan_runs(settings: ComparisonSettings, variants: Mapping[str, ACTArguments]) -> RunPlan:
    """Say what is to be run: every variant with every seed on every task, those of groups and tags one by one.

    A task in which seeds change nothing is run with the first one, and is named in a line.

    The variants of a task run one after the other, so that a comparison that is running has something to compare.

    Args:
        settings: what to compare; of its model arguments, those of ACT are not used.
        variants: by name, the settings of ACT, one of them for the baseline.

    Raises:
        InputError: see `load_asked_tasks` and `seeds_by_task`; or documents of a task are asked for that it does not have.
    """
    asked = load_asked_tasks(replace(settings.prompts, seed=settings.seeds[0]), settings.model)
    seeds = seeds_by_task(asked, settings.seeds)
    once = [name for name, of_task in seeds.items() if len(of_task) < len(settings.seeds)]
    if once and is_first_process():
        names = ", ".join(once)
        logger.warning(
            "Neither few-shot examples nor replies are drawn, so seed %s alone is run: %s.", settings.seeds[0], names
        )
    prompts = {name: _prompts_of(name, task, asked.prompts) for name, task in asked.loaded.tasks.items()}
    runs = tuple(
        Run(variant, arguments, settings.model, replace(of_task, seed=seed))
        for seed in settings.seeds
        for name, of_task in prompts.items()
        if seed in seeds[name]
        for variant, arguments in variants.items()
    )
    return RunPlan(runs, asked.loaded, asked.manager)


def seeds_by_task(asked: AskedTasks, seeds: Sequence[int]) -> dict[str, Sequence[int]]:
    """By task the seeds that it is run with: all of them, or the first one where neither examples nor replies are drawn.

    Raises:
        InputError: there are several seeds, and no task in which they change anything.
    """
    by_task = {
        name: seeds if _draws(task, asked.prompts.of_task(name)) else seeds[:1] for name, task in asked.loaded.tasks.items()
    }
    if all(len(of_task) < len(seeds) for of_task in by_task.values()):
        raise InputError(
            "several seeds give the same prompts without few-shot examples, and the same replies unless these are sampled: set "
            "num_fewshot above 0, or give one seed."
        )
    return by_task


def _draws(task: Task, prompts: PromptSettings) -> bool:
    """Whether few-shot examples or replies of a task are drawn at random; `prompts` are those of this task."""
    shots = task.config.num_fewshot
    if shots != 0 and prompts.num_fewshot is not None:  # lm-eval does not change a 0 of a task's config
        shots = prompts.num_fewshot
    if shots and type(getattr(task, "sampler", None)) is not FirstNSampler:
        return True
    generation = {**(task.config.generation_kwargs or {}), **prompts.gen_kwargs}
    return task.OUTPUT_TYPE == "generate_until" and draws_replies(generation)


def _prompts_of(name: str, task: Task, prompts: PromptSettings) -> PromptSettings:
    """The settings of one task: of all settings, those that mean something to it."""
    if prompts.samples:
        with explained_dataset_errors():
            check_samples(name, len(task.eval_docs), prompts)
    of_task = prompts.of_task(name)
    return of_task if task.OUTPUT_TYPE == "generate_until" else replace(of_task, gen_kwargs={})
