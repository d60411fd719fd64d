"""A search from its tasks to its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from act_eval.attention.act import ACT
from act_eval.harness.processes import only_writer, same_for_all, shared_processes, speaking_console
from act_eval.harness.what_ran import what_ran
from act_eval.progress import ProgressDisplay, print_line
from act_eval.search.documents import CalibrationDocument
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.groups import Division, StagesOf, acts_of_parts, divide, tune
from act_eval.search.heads import Head, SearchSpace
from act_eval.search.plan import PlannedSearch, plan_search
from act_eval.search.planned_costs import MOST_PASSES, documents_to_tune, estimate_stages
from act_eval.search.ranking import rank_heads, ranked_by_estimates
from act_eval.search.results import (
    Costs,
    MeasuredHeads,
    SearchResult,
    ValidatedGain,
    head_table,
    make_profile,
    sum_of_costs,
)
from act_eval.search.scores import PairedScores
from act_eval.search.screening import screen_heads
from act_eval.search.selection import ranked_candidates
from act_eval.search.settings import SearchSettings
from act_eval.search.stages import Stages
from act_eval.search.store import IDENTITY_FILE, UnitStore
from act_eval.search.time_left import TimeLeft
from act_eval.search.units import UnitRunner
from act_eval.search.validation import validate_head_sets
from act_eval.search.validation_plan import ValidationPlan
from act_eval.search.write import write_result


def run_search(
    settings: SearchSettings,
    output: Path,
    console: Console | None = None,
    afterwards: Callable[[PlannedSearch], float] | None = None,
    begin: Callable[[], object] = lambda: None,
) -> SearchResult:
    """Search, or go on with a search, and write what it finds to a folder.

    That is `profile.json`, `heads.csv` with its heat map `heads.png` and `heads.svg`, and, where head sets are validated,
    `heads_together.csv`; `search.json` and `units/` are what an interrupted search goes on from.

    Args:
        settings: what to search for.
        output: folder; made when missing.
        console: where it is said what the search costs, before it starts, after its first batch how long it takes, and how far
            each stage is; stderr by default.
        afterwards: says how many layer passes come after the search, and belong to the same work; none by default.
        begin: called when all that is refused before the weights are loaded is checked, and they are about to be.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, a document cannot be scored, or another command
            writes to the folder; raised before the model's weights are loaded. Or the folder cannot be used.
        NonFiniteLogitsError: logits of the model are not numbers.
    """
    planned = plan_search(settings)
    with only_writer(output, records=[IDENTITY_FILE]):
        return _run_search(settings, planned, output, speaking_console(console), afterwards, begin)


def _run_search(
    settings: SearchSettings,
    planned: PlannedSearch,
    output: Path,
    console: Console,
    afterwards: Callable[[PlannedSearch], float] | None,
    begin: Callable[[], object],
) -> SearchResult:
    begin()
    lm = planned.lm.with_weights()
    processes = shared_processes()
    ran = same_for_all(what_ran(lm))
    identity = planned.identity(ran)
    with processes.main_process_first():
        store = UnitStore.open(output, identity.content, _needed_bytes(planned))
    kept = "" if store.is_empty else " What is there already is not computed again."
    print_line(console, f"{planned.costs.summary()}{kept}")
    time_left = TimeLeft(planned.costs, lm.world_size, afterwards=0.0 if afterwards is None else afterwards(planned))
    with ProgressDisplay(console) as display:
        units = UnitRunner(store, lm.rank, lm.world_size, settings.model.whole_batch_size(), time_left, display)

        def stages_of(act: ACT, prefix: str) -> Stages:
            evaluator = HeadEvaluator(lm, act, planned.space.layers, settings.model.whole_batch_size())
            return Stages(units, evaluator, planned.priors, prefix)

        found = _find_heads(settings, planned, stages_of)
    counts = {"search": len(planned.to_search), "validation": len(planned.to_validate)}
    profile = make_profile(
        identity,
        found.chosen,
        found.heads,
        found.head_sets,
        found.gain,
        counts,
        found.full_passes,
        found.act,
        found.division.profile(found.chosen),
    )
    result = SearchResult(profile, found.heads, found.head_sets, found.full_passes, found.gain, found.candidates, settings.k)

    if processes.is_main_process:
        write_result(result, planned.space, output)
    processes.wait_for_everyone()
    return result


@dataclass(frozen=True)
class _Found:
    """What a search finds, see `SearchResult`, the heads that it chooses, and what is to be done in which of them."""

    chosen: Sequence[Head]
    heads: pd.DataFrame
    head_sets: pd.DataFrame
    full_passes: dict[str, float]
    gain: ValidatedGain | None
    candidates: Sequence[Head]
    act: ACT
    division: Division


def _find_heads(settings: SearchSettings, planned: PlannedSearch, stages_of: StagesOf) -> _Found:
    """Score or estimate heads, with each part of the method, and choose among them."""
    space, to_search, act = planned.space, planned.to_search, settings.act
    acts = acts_of_parts(act)
    tasks = np.array([document.task for document in to_search])
    measured = [
        _measure_heads(settings, planned, stages_of(of_part, f"part{number}-" if len(acts) > 1 else ""), len(acts))
        for number, of_part in enumerate(acts)
    ]
    tables = [head_table(space.heads, of_part, tasks) for of_part in measured]
    costs = sum_of_costs([of_part.costs for of_part in measured])
    heads, part_of = (tables[0], {}) if len(acts) == 1 else divide(tables, settings.objective)
    division = Division(act.method, part_of)
    if planned.mode == "estimated":
        candidates = ranked_by_estimates(heads)
    else:
        candidates = ranked_candidates(heads, len(to_search), settings.selection, settings.k, settings.objective)
    chosen = candidates[: settings.k]
    to_tune = to_search[: documents_to_tune(len(to_search), planned.mode)]
    act, of_tuning = tune(act, division, chosen, settings.tuned, to_tune, stages_of, settings.objective)
    costs, division = replace(costs, exact=costs.exact + of_tuning), replace(division, method=act.method)
    if settings.selection != "validated":
        return _Found(chosen, heads, pd.DataFrame(), costs.in_full_passes, None, candidates, act, division)
    spent = costs.estimates + costs.exact
    budget = MOST_PASSES * costs.full_pass - spent if planned.mode == "estimated" else None
    batch_size = settings.model.whole_batch_size()
    plan = ValidationPlan.of_candidates(len(chosen), planned.to_validate, batch_size, space.num_layers, budget)
    validation = validate_head_sets(stages_of(act, ""), chosen, planned.to_validate, plan, division.profile)
    costs = replace(costs, validation=validation.cost)
    head_sets = validation.head_sets
    return _Found(validation.chosen, heads, head_sets, costs.in_full_passes, validation.gain, candidates, act, division)


def _measure_heads(settings: SearchSettings, planned: PlannedSearch, stages: Stages, parts: int) -> MeasuredHeads:
    """Score or estimate all heads with one of so many parts of the method."""
    if planned.mode == "estimated":
        return rank_heads(stages, planned.space, planned.to_search, estimate_stages(parts))
    if planned.mode == "screened":
        return screen_heads(stages, planned.space, planned.to_search, settings.budget / parts)
    return _score_all_heads(stages, planned.space, planned.to_search)


def _needed_bytes(planned: PlannedSearch) -> int:
    """Roughly what the units of a search take on disk.

    That is 10 bytes for each head and document, with some dozens of head sets, and 8 for each choice where they are kept.
    """
    per_document = 10 + (8 * planned.priors.most_choices if planned.priors.corrects else 0)
    return per_document * (len(planned.space.heads) + 40) * len(planned.documents) + 2**20


def _score_all_heads(stages: Stages, space: SearchSpace, documents: Sequence[CalibrationDocument]) -> MeasuredHeads:
    """Score all heads of a search space exactly, on all documents."""
    order, scores = stages.score_heads("exact", documents, space.heads, "scoring all heads")
    in_order = [documents[number] for number in order]
    tasks = np.array([document.task for document in in_order])
    baseline, calibrated = (stages.priors.correct(in_order, found) for found in (scores.baseline, scores.calibrated))
    paired = {head: PairedScores(tasks, baseline, calibrated[number]) for number, head in enumerate(space.heads)}
    return MeasuredHeads(paired, Costs(scores.baseline_cost, exact=scores.cost))
