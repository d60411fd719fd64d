"""Several methods side by side: each with a search of its own on the same documents, then all against one baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from act_eval.compare.plan import RunPlan, plan_runs
from act_eval.compare.recorded import FinishedRuns
from act_eval.compare.run import run_missing
from act_eval.errors import InputError, SettingError
from act_eval.harness.arguments import ACTArguments, arguments_of_method, baseline_of
from act_eval.harness.processes import only_writer, shared_processes
from act_eval.harness.settings import ModelSettings
from act_eval.harness.what_ran import in_json
from act_eval.profiles import HeadProfile
from act_eval.progress import print_line
from act_eval.search.identity import in_lists
from act_eval.search.plan import plan_search
from act_eval.search.results import SearchResult
from act_eval.search.run import run_search
from act_eval.search.store import PROFILE_FILE
from act_eval.study.continued import check_asked_alike
from act_eval.study.plan import SEARCH_FOLDER, plan_study
from act_eval.study.settings import StudySettings
from act_eval.study_record import (
    BASELINE,
    METHODS_FILE,
    STUDY_COMMAND,
    STUDY_FILE,
    MethodsRecord,
    SearchedMethod,
    StudyRecord,
    read_methods,
    write_methods,
)


@dataclass(frozen=True)
class MethodComparison:
    """What is compared: studies without controls, one of each method, which differ in what is done in heads alone.

    Attributes:
        studies: by the name of their method; without random heads.
    """

    studies: Mapping[str, StudySettings]

    @classmethod
    def of_methods(
        cls, study: Callable[[ModelSettings], StudySettings], model: ModelSettings, methods: tuple[str, ...]
    ) -> MethodComparison:
        """Compare some methods.

        Args:
            study: makes the study of one method, of a model whose arguments name it.
            model: its arguments name no method; a method gets those that it takes.
            methods: names, two at least.

        Raises:
            InputError: there are fewer than two methods, one is named twice or unknown or changes nothing with these arguments,
                the arguments name a method, no method takes one of them, or something is to be evaluated beside.
        """
        if len(methods) < 2:
            raise SettingError("methods", f"names {', '.join(methods) or 'none'}: name two methods or more to compare them.")
        twice = [name for number, name in enumerate(methods) if name in methods[:number]]
        if twice:
            raise SettingError("methods", f"names {twice[0]} twice: name it once.")
        if "act_method" in model.model_args:
            raise SettingError("methods", "says which methods are compared, so act_method does not go with it: leave one out.")
        arguments = {method: arguments_of_method(model.model_args, method, methods) for method in methods}
        studies = {method: study(replace(model, model_args=given)) for method, given in arguments.items()}
        comparison = cls({method: replace(of_method, random_draws=0) for method, of_method in studies.items()})
        if comparison.first.also:
            raise SettingError("also", "evaluates the heads of one method beside, and does not go with methods: leave it out.")
        return comparison

    @property
    def first(self) -> StudySettings:
        """The study of the first method, of which the others have the documents and the search."""
        return next(iter(self.studies.values()))

    def search_folder(self, method: str, output: Path) -> Path:
        """Where the search of a method is, below the folder of the comparison."""
        return output / SEARCH_FOLDER / method

    def asked(self, record: StudyRecord) -> dict[str, Any]:
        """All that was asked for that numbers depend on, in values that JSON can hold; `record` is that of the first method."""
        searches = {method: study.search(record.searched) for method, study in self.studies.items()}
        done = {method: {**search.act.settings, "tuned": in_lists(search.tuned)} for method, search in searches.items()}
        return in_json({**record.asked, "methods": done})


@dataclass(frozen=True)
class ComparedMethods:
    """What was compared.

    Attributes:
        record: what it is about, and what was searched.
        runs: all of them.
    """

    record: MethodsRecord
    runs: FinishedRuns


def compare_methods(
    settings: MethodComparison, output: Path, console: Console, begin: Callable[[], object] = lambda: None
) -> ComparedMethods | None:
    """Search for the heads of each method, then evaluate all of them and the baseline.

    All searches are made on the same training documents, in the same mode and with the same budget. What was asked for stands
    in `methods.json` before anything is searched; a comparison that was stopped goes on where it was.

    Args:
        settings: what is compared.
        output: folder; made when missing. `search/METHOD/` holds the search of a method, and the results are those of
            `act_eval.compare`.
        console: where progress is shown.
        begin: see `run_search`; called before each search.

    Returns:
        What was compared; None in all but the main process.

    Raises:
        InputError: a setting or a task is wrong, the folder holds another comparison or a study, or another command writes to
            it; raised before a model's weights are loaded.
    """
    record, searched_tasks = _record(settings)
    for study in settings.studies.values():
        search = study.search(searched_tasks)
        if search.act.method.uses_span:  # a prompt without that part is met before the search of another method
            plan_search(search)
    with only_writer(output, records=[METHODS_FILE]):
        processes = shared_processes()
        with processes.main_process_first():
            record = _gone_on_with(record, output)
            if processes.is_main_process:
                write_methods(record, output)
        searched, arguments = {}, {}
        for method, study in settings.studies.items():
            folder = settings.search_folder(method, output)
            if processes.is_main_process:
                print_line(console, f"{method}: search for heads.")
            result = run_search(study.search(searched_tasks), folder, console, begin=begin)
            if result.profile.size:
                arguments[method] = ACTArguments.with_profile(study.model.model_args, str(folder / PROFILE_FILE))
            searched[method] = _searched(result, arguments.get(method))
            if processes.is_main_process:
                for line in result.summary():
                    print_line(console, f"{method}: {line}")
        record = replace(record, searched=searched)
        if processes.is_main_process:
            write_methods(record, output)
        runs = run_missing(_plan(settings, arguments), output, console)
    return None if runs is None else ComparedMethods(record, runs)


def foresee_methods(settings: MethodComparison, output: Path) -> tuple[list[str], RunPlan]:
    """Say what `compare_methods` would do with a folder, which stays as it is: what each search costs, and the known runs.

    Raises:
        InputError: what `compare_methods` raises before it loads a model's weights.
    """
    record, searched_tasks = _record(settings)
    _gone_on_with(record, output)
    lines, arguments = [], {}
    for method, study in settings.studies.items():
        folder, planned = settings.search_folder(method, output), plan_search(study.search(searched_tasks))
        if not planned.is_finished_in(folder):
            lines.append(f"{method}: {planned.costs.summary()}")
            continue
        lines.append(f"{method}: the search is finished.")
        if HeadProfile.load(folder / PROFILE_FILE).size:
            arguments[method] = ACTArguments.with_profile(study.model.model_args, str(folder / PROFILE_FILE))
    return lines, _plan(settings, arguments)


def _plan(settings: MethodComparison, arguments: Mapping[str, ACTArguments]) -> RunPlan:
    first = settings.first
    baseline = baseline_of(ACTArguments.from_model_args({**first.model.model_args, "act_profile": "none"}))
    return replace(plan_runs(first.comparison(), {**arguments, BASELINE: baseline}), command=STUDY_COMMAND)


def _searched(result: SearchResult, arguments: ACTArguments | None) -> SearchedMethod:
    passes = round(result.full_passes["total"], 3)
    if arguments is None:
        return SearchedMethod(0, passes, "no head was chosen", result.profile.content_hash)
    return SearchedMethod(result.profile.size, passes, arguments.calibration.text, result.profile.content_hash)


def _record(settings: MethodComparison) -> tuple[MethodsRecord, tuple[str, ...]]:
    """What a comparison is about, before anything is searched; and the tasks that are searched on."""
    of_first = plan_study(settings.first).record
    return MethodsRecord(settings.asked(of_first), of_first.scores), of_first.searched


def _gone_on_with(record: MethodsRecord, output: Path) -> MethodsRecord:
    """The record of a folder's comparison, or this one where there is none. Raises InputError where it holds another one."""
    if (output / STUDY_FILE).is_file():
        raise InputError(f"{output} holds a study of one method: choose another folder.")
    file = output / METHODS_FILE
    if not file.is_file():
        return record
    there = read_methods(file)
    before, now = ({**of.asked, "scores": in_json(asdict(of)["scores"])} for of in (there, record))
    check_asked_alike(output, before, now)
    return there
