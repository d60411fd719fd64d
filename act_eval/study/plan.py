"""What a study evaluates: which runs there are, before and after the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task

from act_eval.compare.plan import RunPlan, plan_runs
from act_eval.errors import SettingError
from act_eval.files import make_folder, write_texts
from act_eval.harness.arguments import ACTArguments, baseline_of
from act_eval.harness.asked_tasks import load_asked_tasks
from act_eval.harness.settings import ModelSettings
from act_eval.harness.tasks import TaskError
from act_eval.harness.what_ran import in_json, without_placement
from act_eval.profiles import HeadProfile
from act_eval.search.documents import calibration_split
from act_eval.study.controls import random_profiles
from act_eval.study.scores import primary_score
from act_eval.study.settings import StudySettings
from act_eval.study_record import ALL, BASELINE, FOUND, SWITCHED_OFF, StudyRecord, random_variant

SEARCH_FOLDER = "search"
CONTROLS_FOLDER = "controls"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True)
class Variants:
    """The variants of a study.

    Attributes:
        of_tasks: by name, what is calibrated in runs of the primary comparison's tasks.
        of_also: those of the tasks that are evaluated beside.
    """

    of_tasks: Mapping[str, ACTArguments]
    of_also: Mapping[str, ACTArguments]


def plan_record(settings: StudySettings) -> StudyRecord:
    """Say what a study is about, before anything is searched or evaluated.

    Raises:
        InputError: a task cannot be loaded, or has no score that counts; or none of them can be searched on.
    """
    asked = load_asked_tasks(replace(settings.comparison().prompts, seed=settings.seeds[0]), settings.model)
    also = _tasks_of(settings.also, settings)
    tasks = {name: task for name, task in asked.loaded.tasks.items() if name not in also}
    if not tasks:
        raise SettingError("also", "holds all tasks: leave out of it those of the primary comparison.")
    scores = {name: primary_score(name, task) for name, task in tasks.items()}
    return StudyRecord(_asked(settings), scores, _searched(settings, tasks), also)


def variants_of(settings: StudySettings, found: HeadProfile, output: Path) -> Variants:
    """Say what is compared once heads are found, and write the controls' profiles.

    Where no head was found, all heads are compared with the baseline, and nothing is evaluated beside.

    Args:
        settings: of the study.
        found: the profile of the search in the output folder.
        output: the folder of the study.
    """
    every_head = _calibrated("all", settings.model)
    baseline = {BASELINE: baseline_of(every_head)}
    if not found.size:
        return Variants({**baseline, ALL: every_head}, {})
    file = output / SEARCH_FOLDER / PROFILE_FILE
    heads_found = {FOUND: _calibrated(file, settings.model)}
    controls = {} if _is_every_head(found) else {ALL: every_head}
    draws = random_profiles(found, settings.random_draws, settings.seeds[0])
    if draws:
        folder = output / CONTROLS_FOLDER
        make_folder(folder)
        for number, profile in enumerate(draws, start=1):
            (written,) = write_texts({f"random-{number}.json": profile.to_json()}, folder)
            controls[random_variant(number)] = _calibrated(written, settings.model)
    base = every_head.settings.get("base")
    switched_off = {"method": "mask-head", **({} if base is None else {"base": base})}
    controls[SWITCHED_OFF] = ACTArguments(str(file), settings=switched_off)
    return Variants({**heads_found, **baseline, **controls}, {**heads_found, **baseline})


def plan_variants(settings: StudySettings, variants: Variants, record: StudyRecord) -> RunPlan:
    """Say what is evaluated: the variants of each task. Raises what `plan_runs` raises."""
    plan = plan_runs(settings.comparison(), {**variants.of_tasks, **variants.of_also})
    runs = []
    for run in plan.runs:
        if run.task not in record.also:
            runs += [run] if run.variant in variants.of_tasks else []
        elif run.variant in variants.of_also:
            limit = run.prompts.limit if settings.also_limit is None else settings.also_limit
            runs.append(replace(run, prompts=replace(run.prompts, limit=limit)))
    return replace(plan, runs=tuple(runs))


def _calibrated(profile: str | Path, model: ModelSettings) -> ACTArguments:
    return ACTArguments.from_model_args({**model.model_args, "act_profile": str(profile)})


def _is_every_head(profile: HeadProfile) -> bool:
    """Whether a profile holds each head of its model."""
    shape = profile.num_layers, profile.num_heads
    return None not in shape and profile.size == shape[0] * shape[1]  # type: ignore[operator]


def _tasks_of(names: tuple[str, ...], settings: StudySettings) -> tuple[str, ...]:
    """The tasks that some names of tasks, groups or tags stand for."""
    if not names:
        return ()
    prompts = replace(settings.prompts, tasks=names, samples=None, num_fewshot=None, cache_requests=None, check_integrity=False)
    return tuple(load_asked_tasks(prompts, settings.model).loaded.tasks)


def _searched(settings: StudySettings, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The tasks that are searched on. Raises InputError where one of those that were named cannot be, or none can."""
    named = _tasks_of(settings.search_tasks, settings)
    unknown = next((name for name in named if name not in tasks), None)
    if unknown is not None:
        raise SettingError("search_tasks", f"names {unknown}, which is none of the study's tasks: add it to tasks.")
    refusals: dict[str, TaskError] = {}
    for name in named or tasks:
        try:
            calibration_split(tasks[name])
        except TaskError as error:
            refusals[name] = error
    if refusals and (named or len(refusals) == len(tasks)):
        raise next(iter(refusals.values()))
    return tuple(name for name in named or tasks if name not in refusals)


def _asked(settings: StudySettings) -> dict[str, Any]:
    """All that a study was asked for that its numbers depend on, in values that JSON can hold."""
    prompts, search = settings.prompts, settings.search(settings.prompts.tasks)
    of_search = {name: getattr(settings, name) for name in ("search_tasks", "search_limit", "layers", "mode", "selection", "k")}
    return in_json(
        {
            "tasks": prompts.tasks,
            "also": settings.also,
            "also_limit": settings.also_limit,
            "model_args": without_placement(settings.model.model_args),
            **{name: value for name, value in prompts.recorded.items() if name != "seed"},
            "seeds": settings.seeds,
            "include_path": prompts.include_path,
            "search": {**of_search, "act": search.act.settings},
            "random_draws": settings.random_draws,
        }
    )
