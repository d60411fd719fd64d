"""A study from its tasks to its results: a search, then all that its verdict needs. What was stopped is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from act_eval.attention.calibration import CalibrationSettings
from act_eval.compare.recorded import FinishedRuns
from act_eval.compare.run import run_missing
from act_eval.errors import InputError
from act_eval.harness.processes import only_writer, shared_processes
from act_eval.harness.what_ran import in_json
from act_eval.progress import print_line
from act_eval.search.results import SearchResult
from act_eval.search.run import run_search
from act_eval.study.continued import check_asked_alike
from act_eval.study.plan import SEARCH_FOLDER, PlannedStudy, plan_study, plan_variants, variants_of
from act_eval.study.settings import StudySettings
from act_eval.study_record import METHODS_FILE, STUDY_FILE, StudyRecord, read_study, variants_with_heads, write_study

_LATER_SETTINGS = ("min_queries", "span", "span_missing")  # than version 0.2.0


def run_study(
    settings: StudySettings, output: Path, console: Console, begin: Callable[[], object] = lambda: None
) -> FinishedRuns | None:
    """Search for heads on training documents, then evaluate baseline, heads found and controls on evaluation documents.

    What the primary comparison is stands in `study.json` before anything is evaluated. A study that was stopped goes on where
    it was, with the same settings.

    Args:
        settings: what is studied.
        output: folder of the study; made when missing. `search/` holds the search, `controls/` the profiles of random heads,
            and the results are those of `act_eval.compare`.
        console: where progress is shown.
        begin: see `run_search`.

    Returns:
        All runs; None in all but the main process.

    Raises:
        InputError: a setting or a task is wrong, the folder holds another study, or another command writes to it; raised
            before a model's weights are loaded. Or the method has groups of heads, and the search finds none.
        RequestError: documents of a task cannot be run; raised when the runs of all other tasks are finished.
    """
    planned = plan_study(settings)
    with only_writer(output, records=[STUDY_FILE]):
        return _run_study(settings, planned, output, console, begin)


def _run_study(
    settings: StudySettings, planned: PlannedStudy, output: Path, console: Console, begin: Callable[[], object]
) -> FinishedRuns | None:
    record = planned.record
    processes = shared_processes()
    with processes.main_process_first():
        record = gone_on_with(record, output)
        if processes.is_main_process:
            write_study(record, output)
    seen = f"{len(record.searched)} of {len(record.tasks)} tasks" if record.unseen else f"all {len(record.tasks)} tasks"
    if processes.is_main_process:
        print_line(console, f"Search for heads, on training documents of {seen}.")
    variants = len(variants_with_heads(settings.random_draws))
    result = run_search(
        settings.search(record.searched),
        output / SEARCH_FOLDER,
        console,
        lambda search: planned.evaluation_layer_passes(search, variants),
        begin,
    )
    record = replace(record, search=_outcome(result))
    if processes.is_main_process:
        for line in result.summary():
            print_line(console, line)
        write_study(record, output)
    compared = variants_of(settings, result.profile, output)
    if len(compared.of_tasks) == 1:
        raise InputError(
            f"no head was chosen for any group of {settings.search(record.searched).act.method.name}, so there is nothing to "
            "compare with the baseline: search on more documents (search_limit), or choose another selection."
        )
    with processes.main_process_first():
        if processes.is_main_process:
            compared.write_controls()
    draws = len(compared.controls)
    if processes.is_main_process and result.profile.size and draws < settings.random_draws:
        are = "is 1 set" if draws == 1 else f"are {draws or 'no'} sets"
        print_line(console, f"There {are} of random heads, not {settings.random_draws}: no other has as many in each layer.")
    plan = plan_variants(settings, compared, record)
    if processes.is_main_process:
        print_line(console, f"Evaluation: {len(plan.runs)} runs, of {'; '.join(compared.of_tasks)}.")
    return run_missing(plan, output, console)


def gone_on_with(record: StudyRecord, output: Path) -> StudyRecord:
    """The record of a folder's study, or this one where there is none. Raises InputError where the study is another one."""
    if (output / METHODS_FILE).is_file():
        raise InputError(f"{output} holds a comparison of methods: choose another folder.")
    file = output / STUDY_FILE
    if not file.is_file():
        return record
    there = read_study(file)
    asked = _with_later_settings(there.asked)
    before, now = {"asked": asked, "scores": _plain(there)}, {"asked": record.asked, "scores": _plain(record)}
    check_asked_alike(output, before, now)
    return there


def _with_later_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a study was asked for, with the defaults of settings of ACT that there were not when it began."""
    search = dict(asked.get("search", {}))
    if "act" in search:
        defaults = {setting.name: setting.default for setting in fields(CalibrationSettings)}
        search["act"] = {**{name: defaults[name] for name in _LATER_SETTINGS}, **search["act"]}
    return {**asked, "search": search}


def _plain(record: StudyRecord) -> dict[str, str]:
    return {task: f"{score.metric},{score.filter}" for task, score in record.scores.items()}


def _outcome(result: SearchResult) -> dict[str, object]:
    """What the record says of a search."""
    return {
        "heads": result.profile.size,
        "heads_searched": len(result.heads),
        "profile_hash": result.profile.content_hash,
        "full_passes": {name: round(cost, 3) for name, cost in result.full_passes.items()},
        "gain": None if result.gain is None else in_json(asdict(result.gain)),
        "summary": result.summary(),
    }
