"""A search from its tasks to its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from act_eval.errors import SettingError
from act_eval.files import make_folder
from act_eval.harness.asked_tasks import AskedTasks, load_asked_tasks
from act_eval.harness.documents import draw_training_documents
from act_eval.harness.lm import ACTLM
from act_eval.harness.processes import same_for_all, shared_processes, speaking_console
from act_eval.harness.tasks import explained_dataset_errors
from act_eval.harness.what_ran import what_ran
from act_eval.progress import print_line
from act_eval.search.documents import CalibrationDocument, calibration_split, fingerprint, interleave, render_documents
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.heads import Head, SearchSpace
from act_eval.search.identity import SearchIdentity
from act_eval.search.objective import LabelPriors
from act_eval.search.planned_costs import MOST_PASSES, PlannedCosts
from act_eval.search.ranking import rank_heads
from act_eval.search.results import Costs, MeasuredHeads, SearchResult, head_table, make_profile
from act_eval.search.scores import PairedScores
from act_eval.search.screening import screen_heads
from act_eval.search.selection import ranked_candidates
from act_eval.search.settings import SearchSettings
from act_eval.search.stages import Stages
from act_eval.search.store import UnitStore
from act_eval.search.time_left import TimeLeft
from act_eval.search.units import UnitRunner
from act_eval.search.validation import validate_head_sets
from act_eval.search.validation_plan import ValidationPlan
from act_eval.search.write import write_result


def run_search(settings: SearchSettings, output: Path, console: Console | None = None) -> SearchResult:
    """Search, or go on with a search, and write what it finds to a folder.

    That is `profile.json`, `heads.csv` with its heat map `heads.png` and `heads.svg`, and, where head sets are validated,
    `heads_together.csv`; `search.json` and `units/` are what an interrupted search goes on from.

    Args:
        settings: what to search for.
        output: folder; made when missing.
        console: where it is said what the search costs, before it starts, after its first batch how long it takes, and how far
            each stage is; stderr by default.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, or the folder cannot be used.
        NonFiniteLogitsError: logits of the model are not numbers.
    """
    asked = load_asked_tasks(settings.prompts, settings.model)
    tasks = asked.loaded.tasks
    splits = {name: calibration_split(task) for name, task in tasks.items()}
    with explained_dataset_errors():
        drawn = {name: draw_training_documents(name, task, asked.prompts) for name, task in tasks.items()}
    make_folder(output)
    needs_chat_template = settings.prompts.apply_chat_template
    lm = ACTLM(needs_chat_template=needs_chat_template, **settings.model.lm_arguments(act_profile="none"))
    processes = shared_processes()
    space = SearchSpace.from_config(lm.config, settings.layers)
    documents = _load_documents(lm, asked, drawn, settings)
    to_search, to_validate = _split_documents(documents, settings)
    evaluator = HeadEvaluator(lm, settings.act, space.layers, settings.model.whole_batch_size())
    identity = SearchIdentity(settings, space, splits, fingerprint(documents), same_for_all(what_ran(lm)))
    priors = LabelPriors.of_search(settings.objective, documents)
    with processes.main_process_first():
        store = UnitStore.open(output, identity.content, _needed_bytes(space, documents, priors))
    planned = PlannedCosts.of_search(settings, space, to_search, to_validate, identity.mode, priors.corrects)
    console = speaking_console(console)
    kept = "" if store.is_empty else " What is there already is not computed again."
    print_line(console, f"{planned.summary()}{kept}")
    time_left = TimeLeft(planned, lm.world_size)
    batch_size = settings.model.whole_batch_size()
    units = UnitRunner(store, lm.rank, lm.world_size, batch_size, time_left, console)
    stages = Stages(units, evaluator, priors)

    ranked: list[Head] | None = None
    if identity.mode == "estimated":
        ranked, measured = rank_heads(stages, space, to_search)
    elif identity.mode == "screened":
        measured = screen_heads(stages, space, to_search, settings.budget)
    else:
        measured = _score_all_heads(stages, space, to_search)
    costs = measured.costs
    heads = head_table(space.heads, measured, np.array([document.task for document in to_search]))
    candidates = ranked_candidates(heads, len(to_search), settings.selection, settings.k) if ranked is None else ranked
    chosen = candidates[: settings.k]
    head_sets, gain = pd.DataFrame(), None
    if settings.selection == "validated":
        budget = None if ranked is None else MOST_PASSES * costs.full_pass - costs.estimates
        plan = ValidationPlan.of_candidates(len(chosen), to_validate, batch_size, space.num_layers, budget)
        validation = validate_head_sets(stages, chosen, to_validate, plan)
        chosen, head_sets, gain = validation.chosen, validation.head_sets, validation.gain
        costs = replace(costs, validation=validation.cost)
    counts = {"search": len(to_search), "validation": len(to_validate)}
    profile = make_profile(identity, chosen, heads, head_sets, gain, counts, costs.in_full_passes)
    result = SearchResult(profile, heads, head_sets, costs.in_full_passes, gain, candidates)

    if processes.is_main_process:
        write_result(result, space, output)
    processes.wait_for_everyone()
    return result


def _load_documents(
    lm: ACTLM, asked: AskedTasks, drawn: Mapping[str, Sequence[int]], settings: SearchSettings
) -> list[CalibrationDocument]:
    """Render the documents of all tasks, in an order in which every stretch holds its share of each task."""
    with explained_dataset_errors():
        return interleave(render_documents(lm, asked.loaded.tasks, drawn, asked.prompts), settings.prompts.seed)


def _split_documents(
    documents: Sequence[CalibrationDocument], settings: SearchSettings
) -> tuple[Sequence[CalibrationDocument], Sequence[CalibrationDocument]]:
    """Split documents into those that single heads are scored on, and those that head sets are validated on, if they are."""
    if settings.selection != "validated":
        return documents, []
    if len(documents) < 2:
        raise SettingError(
            "selection", "validated needs at least 2 documents: raise limit, choose more tasks, or choose another selection."
        )
    half = (len(documents) + 1) // 2
    return documents[:half], documents[half:]


def _needed_bytes(space: SearchSpace, documents: Sequence[CalibrationDocument], priors: LabelPriors) -> int:
    """Roughly what the units of a search take on disk.

    That is 10 bytes for each head and document, with some dozens of head sets, and 8 for each choice where they are kept.
    """
    per_document = 10 + (8 * priors.most_choices if priors.corrects else 0)
    return per_document * (len(space.heads) + 40) * len(documents) + 2**20


def _score_all_heads(stages: Stages, space: SearchSpace, documents: Sequence[CalibrationDocument]) -> MeasuredHeads:
    """Score all heads of a search space exactly, on all documents."""
    order, scores = stages.score_heads("exact", documents, space.heads, "scoring all heads")
    in_order = [documents[number] for number in order]
    tasks = np.array([document.task for document in in_order])
    baseline, calibrated = (stages.priors.correct(in_order, found) for found in (scores.baseline, scores.calibrated))
    paired = {head: PairedScores(tasks, baseline, calibrated[number]) for number, head in enumerate(space.heads)}
    return MeasuredHeads(paired, Costs(scores.baseline_cost, exact=scores.cost))
