"""Baseline and ACT on the same tasks with the model loaded once, written in lm-eval's own file formats.

A run is one variant (baseline, or a setting of ACT) of one task with one seed. Each finished run is a results file with its
samples, moved into place when it is whole, so a comparison that was killed goes on with the runs that are missing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from rich.console import Console

from act_eval.demo import DEMO_MODEL_NAME
from act_eval.errors import InputError, SettingError
from act_eval.files import make_folder
from act_eval.harness.arguments import ACTArguments, act_and_baseline
from act_eval.harness.commit import commit_looked_up_quietly
from act_eval.harness.lm import ACTLM
from act_eval.harness.processes import shared_processes
from act_eval.harness.settings import ModelSettings, PromptSettings, check_evaluation_batch_size
from act_eval.harness.tasks import check_enough_documents, explained_dataset_errors, load_for_evaluation, task_manager
from act_eval.profiles import HeadProfile

__all__ = ["ComparisonSettings", "Run", "RunPlan", "plan_runs", "run_comparison", "run_missing"]

logger = logging.getLogger(__name__)

IDENTITY_KEY = "comparison_cell"  # of a results file, where a run's identity is
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared.

    Args:
        model: which model; the baseline gets the same arguments without calibration.
        prompts: what it is asked; the seed there is not used.
        seeds: each is a run of its own with this seed.

    Raises:
        InputError: the limit, the batch size or a seed cannot work, or there are several seeds, but no few-shot examples that
            they could draw.
    """

    model: ModelSettings
    prompts: PromptSettings
    seeds: tuple[int, ...] = (1234,)

    def __post_init__(self) -> None:
        self.prompts.check_limit()
        check_evaluation_batch_size(self.model.batch_size)
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise SettingError("seeds", f"{','.join(map(str, self.seeds))}: all must be at least 0 and below 2**32.")
        if self.prompts.num_fewshot == 0 and len(self.seeds) > 1:
            raise InputError(
                "several seeds give the same prompts without few-shot examples: set num_fewshot above 0, or give one seed."
            )


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
        """The name of the task, group or tag."""
        (task,) = self.prompts.tasks
        return task

    @property
    def model_args(self) -> dict[str, Any]:
        """The model arguments that this run's results record."""
        return {**self.model.without_act, **self.arguments.model_args}

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a finished run to count as this one; values that JSON can hold."""
        identity: dict[str, Any] = {
            "task": self.task,
            "model_args": self.model_args,
            **{name: value for name, value in asdict(self.model).items() if name != "model_args"},
            **self.prompts.recorded,
            "include_path": self.prompts.include_path,
        }
        profile = str(self.arguments.profile)
        if os.path.isfile(profile):
            identity["profile_hash"] = HeadProfile.load(profile).content_hash
        return json.loads(json.dumps(identity, default=str))


@dataclass(frozen=True)
class RunPlan:
    """All runs of a comparison.

    Attributes:
        runs: in the order in which they run.
        manager: knows their tasks.
    """

    runs: tuple[Run, ...]
    manager: TaskManager


def run_comparison(settings: ComparisonSettings, output: Path, console: Console) -> bool:
    """Run ACT and its baseline.

    Args:
        settings: what to compare.
        output: folder of the results, see `run_missing`.
        console: where progress is shown.

    Returns:
        Whether this is the main process, which has all results.

    Raises:
        InputError: see `act_and_baseline`, `plan_runs` and `run_missing`; raised before the model is loaded.
    """
    act, baseline = act_and_baseline(settings.model.model_args)
    return run_missing(plan_runs(settings, {"ACT": act, "baseline": baseline}), output, console)


def plan_runs(settings: ComparisonSettings, variants: Mapping[str, ACTArguments]) -> RunPlan:
    """Say what is to be run: every variant with every seed on every task.

    Args:
        settings: what to compare; of its model arguments, those of ACT are not used.
        variants: by name, the settings of ACT, one of them for the baseline.

    Raises:
        InputError: there is no task of a name.
    """
    manager = task_manager(settings.prompts.tasks, settings.prompts.include_path)
    runs = tuple(
        Run(variant, arguments, settings.model, replace(settings.prompts, tasks=(task,), seed=seed))
        for variant, arguments in variants.items()
        for seed in settings.seeds
        for task in manager.match_tasks(list(settings.prompts.tasks))
    )
    return RunPlan(runs, manager)


def run_missing(plan: RunPlan, output: Path, console: Console) -> bool:
    """Run what is not finished, and write results and samples below `output`.

    Processes started together by torchrun or `accelerate launch` share the documents of each run; the main one writes.

    Args:
        plan: what is to be there in the end.
        output: folder of the results; made when missing.
        console: where progress is shown.

    Returns:
        Whether this is the main process, which has all results.

    Raises:
        InputError: a dataset cannot be had, the folder cannot be made, or a setting or profile does not fit the model; raised
            before a model's weights are loaded.
    """
    processes = shared_processes()
    make_folder(output)
    if processes.is_main_process:
        for leftover in output.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
    processes.wait_for_everyone()
    finished = _finished_identities(output)
    processes.wait_for_everyone()
    missing = [run for run in plan.runs if run.identity not in finished]
    if len(missing) < len(plan.runs):
        console.print(f"{len(plan.runs) - len(missing)} of {len(plan.runs)} runs are finished in {output}.")
    if missing:
        _run_all(missing, plan, output, console)
        processes.wait_for_everyone()
    return processes.is_main_process


def _run_all(runs: Sequence[Run], plan: RunPlan, output: Path, console: Console) -> None:
    """Load the tasks, then the model, and run one after the other."""
    with explained_dataset_errors():
        tasks = {task: load_for_evaluation(task, plan.manager) for task in dict.fromkeys(run.task for run in runs)}
    for run in runs:
        check_enough_documents(tasks[run.task], run.prompts.limit, shared_processes().num_processes)
    first, several_seeds = plan.runs[0], len({run.prompts.seed for run in plan.runs}) > 1
    model = replace(first.model, model_args=first.model_args)
    needs_chat_template = first.prompts.apply_chat_template
    lm = ACTLM(needs_chat_template=needs_chat_template, **{"batch_size": model.batch_size, **model.lm_arguments()})
    for arguments in {str(run.arguments.profile): run.arguments for run in plan.runs}.values():
        if arguments.profile != lm.arguments.profile:
            lm.profile_of(arguments)  # whether it fits, before anything runs
    for number, run in enumerate(runs, start=1):
        seed = f", seed {run.prompts.seed}" if several_seeds else ""
        console.print(f"[{number}/{len(runs)}] {run.task}, {run.variant}{seed}", markup=False)
        if lm.arguments != run.arguments:
            lm.set_act(run.arguments)
        with explained_dataset_errors():
            _run(run, lm, tasks[run.task], plan.manager, output)


def _finished_identities(output: Path) -> list[Any]:
    identities = []
    for file in output.rglob("results_*.json"):
        try:
            identities.append(json.loads(file.read_text(encoding="utf-8")).get(IDENTITY_KEY))
        except (OSError, ValueError):
            logger.warning("%s is not readable and counts as missing.", file)
    return identities


def _run(run: Run, lm: ACTLM, tasks: list[Any], manager: TaskManager, output: Path) -> None:
    """Evaluate one run, and put its files in place when they are whole."""
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=output) as folder:
        tracker = EvaluationTracker(output_path=folder)
        with commit_looked_up_quietly():
            results = simple_evaluate(
                model=lm,
                model_args=run.model_args,
                tasks=tasks,
                batch_size=run.model.batch_size,
                device=run.model.device,
                log_samples=True,
                evaluation_tracker=tracker,
                task_manager=manager,
                **run.prompts.evaluation_arguments(),
            )
        if results is None:
            return
        samples = results.pop("samples")
        results["config"]["model"] = "act-hf"
        results[IDENTITY_KEY] = run.identity
        if "pretrained" not in run.model_args:
            tracker.general_config_tracker.model_name = DEMO_MODEL_NAME
            tracker.general_config_tracker.model_name_sanitized = DEMO_MODEL_NAME
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, task_samples in samples.items():
            tracker.save_results_samples(task_name=task, samples=task_samples)
        _move_into_place(Path(folder), output, expected=len(samples) + 1)


def _move_into_place(folder: Path, output: Path, expected: int) -> None:
    """Move a finished run's files; the results file last, since its presence says that the run is finished."""
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name.startswith("results_"))
    if len(files) != expected:
        raise OSError(f"lm-eval wrote {len(files)} files instead of {expected} to {folder}: is the disk full?")
    for file in files:
        target = output / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
