"""Baseline and ACT on the same tasks with the model loaded once, written in lm-eval's own file formats.

A cell is one variant (baseline, or a setting of ACT) of one task with one seed. Each finished cell is a results file with its
samples, moved into place when it is whole, so a comparison that was killed goes on with the cells that are missing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from rich.console import Console

from act_eval.demo import DEMO_MODEL_NAME
from act_eval.errors import InputError
from act_eval.files import make_folder
from act_eval.harness.arguments import ACTArguments, act_and_baseline
from act_eval.harness.lm import ACTLM
from act_eval.harness.processes import shared_processes
from act_eval.harness.tasks import explained_dataset_errors, load_for_evaluation, task_manager
from act_eval.profiles import HeadProfile

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class ComparisonSettings:
    """What to run.

    Args:
        tasks: names of lm-eval tasks or groups.
        model_args: everything `act-hf` takes; the baseline gets the same without calibration.
        num_fewshot: solved examples per prompt, or None for each task's own number.
        limit: documents per task (a share of them when below 1), or None for all.
        batch_size: a number, "auto" or "auto:N".
        device: such as "cuda" or "cpu", or None for cuda where there is one.
        apply_chat_template: use the tokenizer's chat template.
        seeds: for lm-eval's few-shot sampler and all random generators; each is a run of its own.
        include_path: folder with more task configs, or None.
    """

    tasks: tuple[str, ...]
    model_args: Mapping[str, Any]
    num_fewshot: int | None = None
    limit: float | None = None
    batch_size: str = "1"
    device: str | None = None
    apply_chat_template: bool = False
    seeds: tuple[int, ...] = (1234,)
    include_path: str | None = None


@dataclass(frozen=True)
class Cell:
    """One variant of one task with one seed.

    Attributes:
        variant: what it is called.
        arguments: what is calibrated.
        settings: what else is run.
    """

    task: str
    seed: int
    variant: str
    arguments: ACTArguments
    settings: ComparisonSettings

    @property
    def model_args(self) -> dict[str, Any]:
        """The model arguments that this cell's results record."""
        others = {key: value for key, value in self.settings.model_args.items() if not key.startswith("act_")}
        return {**others, **self.arguments.model_args}

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a finished cell to count as this one."""
        settings = {key: value for key, value in asdict(self.settings).items() if key not in ("tasks", "model_args", "seeds")}
        profile = str(self.arguments.act_profile)
        if os.path.isfile(profile):
            settings["profile_hash"] = HeadProfile.load(profile).content_hash
        return json.loads(
            json.dumps({"task": self.task, "seed": self.seed, "model_args": self.model_args, **settings}, default=str)
        )


def run_comparison(settings: ComparisonSettings, output: Path, console: Console) -> bool:
    """Run ACT and its baseline, see `run_variants`; also raises what `act_and_baseline` does."""
    act, baseline = act_and_baseline(settings.model_args)
    _, is_main_process = run_variants(settings, {"ACT": act, "baseline": baseline}, output, console)
    return is_main_process


def run_variants(
    settings: ComparisonSettings, variants: Mapping[str, ACTArguments], output: Path, console: Console
) -> tuple[list[Cell], bool]:
    """Run every cell that is not finished, and write its results and samples below `output`.

    Processes started together by torchrun or `accelerate launch` share the documents of each cell; the main one writes.

    Args:
        settings: what to run; of its model arguments, those of ACT are not used.
        variants: by name, the settings of ACT, one of them for the baseline.
        output: folder of the results; made when missing.
        console: where progress is shown.

    Returns:
        All cells, and whether this is the main process, which has all results.

    Raises:
        InputError: a setting or a task name is wrong, a dataset cannot be had, or the folder cannot be made; raised before the
            model is loaded.
    """
    processes = shared_processes()
    if settings.num_fewshot == 0 and len(settings.seeds) > 1:
        raise InputError("several seeds give the same prompts without few-shot examples: set --num-fewshot, or give one seed.")
    manager = task_manager(settings.tasks, settings.include_path)
    tasks = manager.match_tasks(list(settings.tasks))
    cells = [
        Cell(task, seed, variant, arguments, settings)
        for variant, arguments in variants.items()
        for seed in settings.seeds
        for task in tasks
    ]
    make_folder(output)
    if processes.is_main_process:
        for leftover in output.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
    processes.wait_for_everyone()
    finished = _finished_identities(output)
    processes.wait_for_everyone()
    missing = [cell for cell in cells if cell.identity not in finished]
    if len(missing) < len(cells):
        console.print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished in {output}.")
    if not missing:
        return cells, processes.is_main_process
    with explained_dataset_errors():
        loaded = {task: load_for_evaluation(task, manager) for task in dict.fromkeys(cell.task for cell in missing)}
    lm = _load_model(cells[0])
    for arguments in {str(other.act_profile): other for other in variants.values()}.values():
        if arguments.act_profile != lm.arguments.act_profile:
            lm.profile_of(arguments)  # whether it fits, before anything runs
    for number, cell in enumerate(missing, start=1):
        seed = f", seed {cell.seed}" if len(settings.seeds) > 1 else ""
        console.print(f"[{number}/{len(missing)}] {cell.task}, {cell.variant}{seed}", markup=False)
        if lm.arguments != cell.arguments:
            lm.set_act(cell.arguments)
        with explained_dataset_errors():
            _run_cell(cell, lm, loaded[cell.task], manager, output)
    processes.wait_for_everyone()
    return cells, processes.is_main_process


def _finished_identities(output: Path) -> list[Any]:
    identities = []
    for file in output.rglob("results_*.json"):
        try:
            identities.append(json.loads(file.read_text(encoding="utf-8")).get("comparison_cell"))
        except (OSError, ValueError):
            logger.warning("%s is not readable and counts as missing.", file)
    return identities


def _load_model(cell: Cell) -> ACTLM:
    device = {} if cell.settings.device is None else {"device": cell.settings.device}
    return ACTLM(**{"batch_size": cell.settings.batch_size, **device, **cell.model_args})


def _run_cell(cell: Cell, lm: ACTLM, tasks: list[Any], manager: TaskManager, output: Path) -> None:
    settings = cell.settings
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=output) as folder:
        tracker = EvaluationTracker(output_path=folder)
        results = simple_evaluate(
            model=lm,
            model_args=cell.model_args,
            tasks=tasks,
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            batch_size=settings.batch_size,
            device=settings.device,
            log_samples=True,
            evaluation_tracker=tracker,
            apply_chat_template=settings.apply_chat_template,
            task_manager=manager,
            random_seed=cell.seed,
            numpy_random_seed=cell.seed,
            torch_random_seed=cell.seed,
            fewshot_random_seed=cell.seed,
        )
        if results is None:
            return
        samples = results.pop("samples")
        results["config"]["model"] = "act-hf"
        results["comparison_cell"] = cell.identity
        if "pretrained" not in cell.model_args:
            tracker.general_config_tracker.model_name = DEMO_MODEL_NAME
            tracker.general_config_tracker.model_name_sanitized = DEMO_MODEL_NAME
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, task_samples in samples.items():
            tracker.save_results_samples(task_name=task, samples=task_samples)
        _move_into_place(Path(folder), output, expected=len(samples) + 1)


def _move_into_place(folder: Path, output: Path, expected: int) -> None:
    """Move a finished cell's files; the results file last, since its presence says that the cell is finished."""
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name.startswith("results_"))
    if len(files) != expected:
        raise OSError(f"lm-eval wrote {len(files)} files instead of {expected} to {folder}: is the disk full?")
    for file in files:
        target = output / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
