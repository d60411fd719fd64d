"""What a study evaluates: which runs there are, before and after the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task

from act_eval.compare.plan import RunPlan, plan_runs, seeds_by_task
from act_eval.errors import SettingError
from act_eval.files import make_folder, write_texts
from act_eval.harness.arguments import ACTArguments, baseline_of
from act_eval.harness.asked_tasks import AskedTasks, load_asked_tasks
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import TaskError, evaluated_documents, explained_dataset_errors
from act_eval.harness.what_ran import in_json
from act_eval.model_arguments import without_placement
from act_eval.near_names import did_you_mean
from act_eval.profiles import HeadProfile
from act_eval.search.batches import padded_tokens
from act_eval.search.documents import calibration_split
from act_eval.search.plan import PlannedSearch
from act_eval.search.store import PROFILE_FILE
from act_eval.study.controls import random_profiles
from act_eval.study.scores import primary_score
from act_eval.study.settings import StudySettings
from act_eval.study_record import ALL, BASELINE, FOUND, STUDY_COMMAND, SWITCHED_OFF, StudyRecord, random_variant

SEARCH_FOLDER = "search"
CONTROLS_FOLDER = "controls"


@dataclass(frozen=True)
class Variants:
    """The variants of a study.

    Attributes:
        of_tasks: by name, what is calibrated in runs of the primary comparison's tasks.
        of_also: those of the tasks that are evaluated beside.
        controls: profiles of random heads, by the files that they belong in.
    """

    of_tasks: Mapping[str, ACTArguments]
    of_also: Mapping[str, ACTArguments]
    controls: Mapping[Path, HeadProfile] = field(default_factory=dict)

    def write_controls(self) -> None:
        """Put the controls in their files."""
        for file, profile in self.controls.items():
            make_folder(file.parent)
            write_texts({file.name: profile.to_json()}, file.parent)


@dataclass(frozen=True)
class PlannedStudy:
    """What is known of a study before anything is searched or evaluated.

    Attributes:
        record: what it is about.
        documents: how many are evaluated, by task.
    """

    record: StudyRecord
    documents: Mapping[str, int]

    def evaluation_layer_passes(self, search: PlannedSearch, variants: int) -> float:
        """How many layer passes the evaluation takes, about: documents are taken to be as long as those that are searched on.

        Args:
            search: of the study, with its documents.
            variants: how many variants of each task are evaluated; of tasks beside it is two.
        """
        tokens: dict[str, list[int]] = {}
        for document in search.documents:
            tokens.setdefault(document.task, []).append(padded_tokens([document], 1))
        means = {task: sum(of_task) / len(of_task) for task, of_task in tokens.items()}
        other = sum(means.values()) / len(means)
        runs = {task: 2 if task in self.record.also else variants for task in self.documents}
        read = (number * runs[task] * means.get(task, other) for task, number in self.documents.items())
        return search.space.num_layers * sum(read)


def plan_study(settings: StudySettings) -> PlannedStudy:
    """Say what a study is about, before anything is searched or evaluated.

    Raises:
        InputError: a task cannot be loaded, or has no score that counts; none of them can be searched on; or there are several
            seeds, and they change nothing.
    """
    asked = load_asked_tasks(replace(settings.comparison().prompts, seed=settings.seeds[0]), settings.model)
    seeds_by_task(asked, settings.seeds)
    also = tuple(dict.fromkeys(task for name in settings.also for task in asked.tasks_of(name)))
    tasks = {name: task for name, task in asked.loaded.tasks.items() if name not in also}
    if not tasks:
        raise SettingError("also", "holds all tasks: leave out of it those of the primary comparison.")
    scores = {name: primary_score(name, task) for name, task in tasks.items()}
    record = StudyRecord(_asked(settings), scores, _searched(settings.search_tasks, asked, tasks), also)
    documents = {}
    for name, task in asked.loaded.tasks.items():
        with explained_dataset_errors():
            documents[name] = len(evaluated_documents(task, prompts_of_run(settings, record, asked.prompts.of_task(name))))
    return PlannedStudy(record, documents)


def prompts_of_run(settings: StudySettings, record: StudyRecord, prompts: PromptSettings) -> PromptSettings:
    """The settings of a task's runs: tasks beside may have a limit of their own."""
    (task,) = prompts.tasks
    return prompts if settings.also_limit is None or task not in record.also else replace(prompts, limit=settings.also_limit)


def variants_of(settings: StudySettings, found: HeadProfile, output: Path) -> Variants:
    """Say what is compared once heads are found.

    Where no head was found, all heads are compared with the baseline, and nothing is evaluated beside.

    Args:
        settings: of the study.
        found: the profile of the search in the output folder.
        output: the folder of the study.
    """
    asked = ACTArguments.from_model_args({**settings.model.model_args, "act_profile": "none"})
    baseline = {BASELINE: baseline_of(asked)}
    # Of all heads, a method of groups does not know which belongs where.
    every_head = {} if len(asked.calibration.of_groups) > 1 else {ALL: _calibrated("all", settings.model)}
    if not found.size:
        return Variants({**baseline, **every_head}, {})
    file = output / SEARCH_FOLDER / PROFILE_FILE
    heads_found = {FOUND: _calibrated(file, settings.model)}
    others = {} if _is_every_head(found) else every_head
    controls = {}
    for number, profile in enumerate(random_profiles(found, settings.random_draws, settings.seeds[0]), start=1):
        of_draw = output / CONTROLS_FOLDER / f"random-{number}.json"
        controls[of_draw] = profile
        others[random_variant(number)] = _calibrated(of_draw, settings.model, profile)
    base = asked.settings.get("base")
    switched_off = {"method": "mask-head", **({} if base is None else {"base": base})}
    others[SWITCHED_OFF] = ACTArguments(str(file), settings=switched_off)
    return Variants({**heads_found, **baseline, **others}, {**heads_found, **baseline}, controls)


def plan_variants(settings: StudySettings, variants: Variants, record: StudyRecord) -> RunPlan:
    """Say what is evaluated: the variants of each task. Raises what `plan_runs` raises."""
    plan = plan_runs(settings.comparison(), {**variants.of_tasks, **variants.of_also})
    runs = []
    for run in plan.runs:
        if run.task not in record.also:
            runs += [run] if run.variant in variants.of_tasks else []
        elif run.variant in variants.of_also:
            runs.append(replace(run, prompts=prompts_of_run(settings, record, run.prompts)))
    return replace(plan, runs=tuple(runs), command=STUDY_COMMAND)


def _calibrated(profile: str | Path, model: ModelSettings, content: HeadProfile | None = None) -> ACTArguments:
    """What is asked for, in the heads of a profile; see `ACTArguments.with_profile`."""
    return ACTArguments.with_profile(model.model_args, str(profile), content)


def _is_every_head(profile: HeadProfile) -> bool:
    """Whether a profile holds each head of its model."""
    shape = profile.num_layers, profile.num_heads
    return None not in shape and profile.size == shape[0] * shape[1]  # type: ignore[operator]


def _searched(names: Sequence[str], asked: AskedTasks, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The tasks that are searched on: of those that the study compares, the ones that were named, or all that can be.

    Raises:
        InputError: one that was named cannot be searched on, or none can.
    """
    named: list[str] = []
    for name in names:
        meant = asked.tasks_of(name)
        if not meant or not set(meant) <= set(tasks):
            near = did_you_mean(name, tasks)
            raise SettingError("search_tasks", f"names {name}, which is none of the study's tasks{near}: add it to tasks.")
        named += [task for task in meant if task not in named]
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
    prompts, act = settings.prompts, settings.search(settings.prompts.tasks).act
    of_search = ("search_tasks", "search_limit", "layers", "mode", "objective", "selection", "k")
    return in_json(
        {
            "tasks": prompts.tasks,
            "also": settings.also,
            "also_limit": settings.also_limit,
            "model_args": without_placement(settings.model.model_args),
            **{name: value for name, value in prompts.recorded.items() if name != "seed"},
            "seeds": settings.seeds,
            "include_path": prompts.include_path,
            "search": {**{name: getattr(settings, name) for name in of_search}, "act": act.settings},
            "random_draws": settings.random_draws,
        }
    )
