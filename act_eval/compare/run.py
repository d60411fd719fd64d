"""Run a comparison: what is not finished, with the model loaded once, written in lm-eval's own file formats.

A run is one variant (baseline, or a setting of ACT) of one task with one seed. Each finished run is a results file with its
samples, moved into place when it is whole, so a comparison that was killed goes on with the runs that are missing, and in the
run that was killed with the batches that are missing: answers are put on disk as they come.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from rich.console import Console

from act_eval.compare.plan import ComparisonSettings, Run, RunPlan, plan_comparison
from act_eval.compare.progress import ComparisonProgress, RunSize
from act_eval.compare.recorded import (
    OF_WHAT_RAN,
    FinishedRuns,
    Identity,
    RecordedRuns,
    explain_changes,
    identity_of,
)
from act_eval.demo import DEMO_MODEL_NAME
from act_eval.files import UNFINISHED
from act_eval.harness.checkpoint_files import checkpoint_stamps
from act_eval.harness.environment import commit_looked_up_quietly, machine_described_once
from act_eval.harness.lm import ACTLM
from act_eval.harness.processes import is_first_process, only_writer, same_for_all, shared_processes
from act_eval.harness.recorded_answers import remove_answers
from act_eval.harness.request_cache import request_cache_of
from act_eval.harness.requests import RequestError
from act_eval.harness.tasks import check_enough_documents, evaluated_documents, explained_dataset_errors
from act_eval.harness.what_ran import digest_of, in_json, what_ran
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.model_arguments import without_secrets
from act_eval.planned_runs import IDENTITY_KEY, PLANNED_RUNS_FILE, PlannedRun, add_planned_runs
from act_eval.progress import print_line
from act_eval.task_groups import GROUPS_FILE, add_groups

_ANSWERS = ".answers"  # of runs that are not finished
_BOOTSTRAP_DRAWS = 1000  # for lm-eval's standard errors: its 100,000 take minutes a run for F1 or a perplexity


def run_comparison(
    settings: ComparisonSettings, output: Path, console: Console, begin: Callable[[], object] = lambda: None
) -> FinishedRuns | None:
    """Run ACT and its baseline.

    Args:
        settings: what to compare.
        output: folder of the results, see `run_missing`.
        console: where progress is shown.
        begin: see `run_missing`.

    Returns:
        All runs; None in all but the main process.

    Raises:
        InputError: see `plan_comparison` and `run_missing`; raised before the model is loaded.
    """
    return run_missing(plan_comparison(settings), output, console, begin)


def run_missing(
    plan: RunPlan, output: Path, console: Console, begin: Callable[[], object] = lambda: None
) -> FinishedRuns | None:
    """Run what is not finished, or no longer what is asked for, and write results and samples below `output`.

    Nothing is deleted: where the model, a task or a package has changed, older results stay beside the new ones. The model is
    not loaded where all runs are finished and the files of its checkpoint have not been touched since.

    Processes started together by torchrun or `accelerate launch` share the documents of each run, or the model (`tp_plan`);
    the main one writes.

    Args:
        plan: what is to be there in the end.
        output: folder of the results; made when missing.
        console: where progress is shown.
        begin: called when all that is refused before the weights are loaded is checked, and they are about to be.

    Returns:
        All runs; None in all but the main process.

    Raises:
        InputError: a dataset cannot be had, the folder cannot be made or holds a study, another command writes to it, or a
            setting or profile does not fit the model; raised before a model's weights are loaded.
        RequestError: documents of a task cannot be run; raised when the runs of all other tasks are finished.
    """
    plan.check_folder(output)
    with only_writer(output, records=[PLANNED_RUNS_FILE, GROUPS_FILE]):
        return _run_missing(plan, output, console, begin)


def _run_missing(plan: RunPlan, output: Path, console: Console, begin: Callable[[], object]) -> FinishedRuns | None:
    processes = shared_processes()
    if processes.is_main_process:
        for leftover in output.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
    processes.wait_for_everyone()
    recorded = RecordedRuns.read(output)
    processes.wait_for_everyone()
    descriptions = plan.describe_tasks()
    identities = _finished_without_the_model(plan, descriptions, recorded)
    if identities is None:
        asked = ((plan.loaded.tasks[run.task], run.prompts) for run in plan.runs)
        check_enough_documents(asked, _sharing(plan.runs[0], processes))
        checked = checked_model(plan)
        begin()
        lm = checked.with_weights()
        lm.known_what_ran = now = same_for_all(what_ran(lm))
        identities = [identity_of(run, descriptions[run.task], now) for run in plan.runs]
    missing = [(run, identity) for run, identity in zip(plan.runs, identities, strict=True) if not recorded.holds(identity)]
    for line in explain_changes(recorded, (identity for _, identity in missing)):
        print_line(console, line)
    if len(missing) < len(plan.runs):
        print_line(console, f"{len(plan.runs) - len(missing)} of {len(plan.runs)} runs are finished in {output}.")
    if processes.is_main_process:
        add_groups(plan.loaded.groups, output)
        remove_answers(output / _ANSWERS, (digest_of(identity) for identity in identities if recorded.holds(identity)))
        planned = (PlannedRun(run.variant, run.task, run.prompts.seed, run.asked, plan.command) for run in plan.runs)
        add_planned_runs(planned, output, [identity["asked"] for identity in recorded.identities])
    if missing:
        _run_all(missing, lm, plan, output, console)
        processes.wait_for_everyone()
    if not processes.is_main_process:
        return None
    with suppress(OSError):  # where answers of other runs are in it, or nothing has run
        (output / _ANSWERS).rmdir()
    return FinishedRuns(identities)


def _sharing(run: Run, processes: PartialState) -> int:
    """How many processes share a run's documents: one where they hold parts of the model."""
    return 1 if run.model_args.get("tp_plan") else processes.num_processes


def _finished_without_the_model(
    plan: RunPlan, descriptions: Mapping[str, Any], recorded: RecordedRuns
) -> list[Identity] | None:
    """The identities of all runs where one can tell from files alone that they are finished; else None."""
    stamps = checkpoint_stamps(plan.runs[0].model_args)
    identities = []
    for run in plan.runs:
        identity = recorded.foreseen_identity(run, descriptions[run.task], stamps)
        if identity is None or not recorded.holds(identity):
            return None
        identities.append(identity)
    return identities


def checked_model(plan: RunPlan) -> LMWithoutWeights:
    """Make the model without its weights, and check that the heads of every run fit it. Raises what `ACTLM` raises."""
    first = plan.runs[0]
    model = replace(first.model, model_args=first.model_args)
    needs_chat_template = first.prompts.apply_chat_template
    lm = LMWithoutWeights(needs_chat_template=needs_chat_template, **{"batch_size": model.batch_size, **model.lm_arguments()})
    for run in plan.runs:
        lm.profile_of(run.arguments)
    return lm


def _run_all(
    runs: Sequence[tuple[Run, Identity]],
    lm: ACTLM,
    plan: RunPlan,
    output: Path,
    console: Console,
) -> None:
    """Run one after the other. Requests that cannot be run end their task's runs; the others go on before that is raised."""
    refused: dict[str, RequestError] = {}
    with machine_described_once(), ComparisonProgress([_size(run, plan) for run, _ in runs], console) as progress:
        lm.progress = progress.requests
        for number, (run, identity) in enumerate(runs):
            if lm.arguments != run.arguments:
                lm.set_act(run.arguments)
            try:
                with progress.run(number), explained_dataset_errors():
                    _run(run, identity, lm, plan, output)
            except RequestError as error:
                if lm.world_size > 1:  # the other processes do not know
                    raise
                refused[str(error)] = error
    if refused:
        *others, last = refused.values()
        for other in others:
            print_line(console, str(other))
        raise last


def _size(run: Run, plan: RunPlan) -> RunSize:
    """Say what the display of progress needs to know of a run."""
    several_seeds = len({other.prompts.seed for other in plan.runs}) > 1
    task = plan.loaded.tasks[run.task]
    kind = "loglikelihood" if task.OUTPUT_TYPE == "multiple_choice" else task.OUTPUT_TYPE
    name = f"{run.task}, {run.variant}" + (f", seed {run.prompts.seed}" if several_seeds else "")
    return RunSize(name, run.task, kind, len(evaluated_documents(task, run.prompts)))


def _run(run: Run, identity: Identity, lm: ACTLM, plan: RunPlan, output: Path) -> None:
    """Evaluate one run, and put its files in place when they are whole; until then its answers are on disk."""
    with (
        tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=output) as folder,
        lm.recording(output / _ANSWERS, digest_of(identity)) as recorded,
    ):
        tracker = EvaluationTracker(output_path=folder)
        with commit_looked_up_quietly(), request_cache_of(identity["tasks"], run.prompts, lm):
            results = simple_evaluate(
                model=lm,
                model_args=without_secrets(run.model_args),
                tasks=[plan.loaded.tasks[run.task]],
                batch_size=run.model.batch_size,
                device=run.model.device,
                log_samples=True,
                evaluation_tracker=tracker,
                task_manager=plan.manager,
                bootstrap_iters=_BOOTSTRAP_DRAWS,
                **run.prompts.evaluation_arguments(),
            )
        if results is None or not is_first_process():
            return
        samples = results.pop("samples")
        results["config"]["model"] = "act-hf"
        results["configs"] = in_json(results["configs"])  # without the addresses of functions
        results[IDENTITY_KEY] = {name: value for name, value in identity.items() if name not in OF_WHAT_RAN}
        if "pretrained" not in run.model_args:
            tracker.general_config_tracker.model_name = DEMO_MODEL_NAME
            tracker.general_config_tracker.model_name_sanitized = DEMO_MODEL_NAME
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, task_samples in samples.items():
            tracker.save_results_samples(task_name=task, samples=task_samples)
        _move_into_place(Path(folder), output, expected=len(samples) + 1)
        recorded.remove()


def _move_into_place(folder: Path, output: Path, expected: int) -> None:
    """Move a finished run's files; the results file last, since its presence says that the run is finished."""
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name.startswith("results_"))
    if len(files) != expected:
        raise OSError(f"lm-eval wrote {len(files)} files instead of {expected} to {folder}: is the disk full?")
    for file in files:
        target = output / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
