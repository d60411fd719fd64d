"""What a comparison would run: documents, requests and tokens of each run, and which runs are finished, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from lm_eval.api.instance import Instance

from act_eval.compare.plan import Run, RunPlan
from act_eval.compare.recorded import RecordedRuns
from act_eval.compare.run import checked_model
from act_eval.harness.checkpoint_files import Stamps, checkpoint_stamps
from act_eval.harness.documents import render
from act_eval.harness.tasks import evaluated_documents, explained_dataset_errors
from act_eval.harness.without_weights import LMWithoutWeights

State = Literal["finished", "to run", "to run unless its model is the one that ran"]


@dataclass(frozen=True)
class ForeseenRun:
    """A run that a comparison has, or would have.

    Attributes:
        run: what is asked for.
        documents, requests: how many there are.
        tokens: that the model reads and writes for them; where it generates, at most.
        state: whether it is finished, as far as files tell; the files of the checkpoint may have been touched since it ran.
    """

    run: Run
    documents: int
    requests: int
    tokens: int
    state: State


def foresee_runs(plan: RunPlan, output: Path) -> list[ForeseenRun]:
    """Say what `run_missing` would do with a plan and an output folder, which stays as it is.

    Args:
        plan: its tasks cannot be evaluated afterwards, since their configs change.
        output: may be missing.

    Raises:
        InputError: what `run_missing` raises before it loads a model's weights.
        RequestError: documents of a task cannot be run.
    """
    plan.check_folder(output)
    recorded = RecordedRuns.read(output)
    stamps = checkpoint_stamps(plan.runs[0].model_args)
    descriptions = plan.describe_tasks()
    lm = checked_model(plan)
    run_of_requests = {(run.task, run.prompts.seed): run for run in plan.runs}  # which variants share
    with explained_dataset_errors():
        sizes = {asked: _size(run, plan, lm) for asked, run in run_of_requests.items()}
    return [
        ForeseenRun(run, *sizes[run.task, run.prompts.seed], _state(run, descriptions[run.task], recorded, stamps))
        for run in plan.runs
    ]


def _state(run: Run, task: Mapping[str, Any], recorded: RecordedRuns, stamps: Stamps | None) -> State:
    """Whether a run is finished; `task` is the description of its task."""
    identity = recorded.foreseen_identity(run, task, stamps)
    if identity is not None:
        return "finished" if recorded.holds(identity) else "to run"
    return "to run unless its model is the one that ran" if recorded.has_asked(run) else "to run"


def _size(run: Run, plan: RunPlan, lm: LMWithoutWeights) -> tuple[int, int, int]:
    """Documents, requests and tokens of a run."""
    task = plan.loaded.tasks[run.task]
    if run.prompts.gen_kwargs:
        task.set_config("generation_kwargs", dict(run.prompts.gen_kwargs), update=True)
    documents = render(lm, task, evaluated_documents(task, run.prompts), run.prompts)
    requests = [request for document in documents for request in document for _ in range(request.repeats)]
    by_kind = groupby(sorted(requests, key=_kind), key=_kind)
    return len(documents), len(requests), sum(lm.count_tokens(list(of_kind)) for _, of_kind in by_kind)


def _kind(request: Instance) -> str:
    return str(request.request_type)
