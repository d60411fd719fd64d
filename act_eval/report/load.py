"""Read lm-eval's results and samples into tables."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from act_eval.errors import InputError, explained
from act_eval.files import files_below
from act_eval.model_arguments import by_name, results_without_secrets, without_placement
from act_eval.planned_runs import PLANNED_RUNS_FILE, PlannedRun, asked_of, each_once, missing_runs, read_planned_runs
from act_eval.progress import stage_progress
from act_eval.report import older_files
from act_eval.report.aggregation import NANMEAN, aggregation_of, aggregations, has_weights, known
from act_eval.report.answers import Answers, AnswersReader
from act_eval.report.conditions import WHAT_RAN, Conditions, answers_are_drawn, conditions
from act_eval.report.loaded_studies import LoadedStudy, RecordedStudies, RunsOfFile, names_in, with_names
from act_eval.report.settings_text import describe_settings, is_baseline
from act_eval.report.unfinished import Unfinished
from act_eval.short_names import cut_names
from act_eval.study_record import MethodsRecord, StudyRecord
from act_eval.task_groups import GROUPS_FILE, TaskGroup, read_groups

RUN_COLUMNS = {
    "file": "str",
    "samples_file": "object",
    "date": "str",
    "model": "str",
    "model_args": "str",
    "settings": "str",
    "is_baseline": "bool",
    "num_heads": "Int64",
    "predict_only": "bool",
    "task": "str",
    "version": "str",
    "num_fewshot": "Int64",
    "seed": "Int64",
    "limit": "Float64",
    "documents": "Int64",
    "cluster_field": "object",
    "arguments": "object",
}
SAMPLE_COLUMNS = {
    "run": "int32",
    "line": "int32",
    "filter": "category",
    "metric": "category",
    "doc_id": "int64",
    "doc_hash": "uint64",
    "prompt_hash": "uint64",
    "target_hash": "uint64",
    "cluster": "category",
    "aggregation": "category",
    "value": "float64",
    "weight": "float64",
}
SCORE_COLUMNS = {"run": "int32", "filter": "str", "metric": "str", "value": "float64", "standard_error": "float64"}

CLUSTER_FIELDS = ("subject", "title")

_HASHES = ("doc_hash", "prompt_hash", "target_hash")
_LONGEST_REASON = 200
_LONGEST_ARGUMENT = 40
_RANDOM_NAME = re.compile("[a-z0-9]{8}")  # what lm-eval calls a model that no argument names
_UNNAMED = "unnamed model"
_NO_METRIC = "bypass"  # what lm-eval's --predict_only puts in place of a task's metrics


class ReportError(InputError):
    """Results that cannot be read or must not be compared."""


@dataclass(frozen=True)
class Results:
    """What lm-eval wrote.

    Attributes:
        runs: a row for each results file and task (`RUN_COLUMNS`). `samples_file` is None where there are no samples;
            `model` is what the model arguments name, else what `act-hf` recorded, else what lm-eval says of a Python
            object; where calibrated runs with several sets of model arguments have that name, it also says what differs, such
            as `org/model (dtype=float16)`; `model_args` those that answers depend on, without ACT's; `settings` the ACT
            settings in one line, in which variants of a study are called by what they stand for;
            `is_baseline` whether nothing was calibrated; `predict_only` whether lm-eval was told to compute no scores;
            `seed` that of the few-shot sampler, or, without few-shot examples, of replies that are drawn, and missing where it
            decides nothing; `documents` how many were evaluated; `cluster_field` which field of the documents says what belongs
            together, the first of `CLUSTER_FIELDS` that they have (MMLU's subject, SQuAD's title), or None; `arguments` the
            whole `config` of the results file, without access tokens.
        samples: a row for each run, document and metric (`SAMPLE_COLUMNS`). `run` is the index of `runs`; hashes are 64 bits of
            lm-eval's; `line` is where the sample stands in its file, from 1; `cluster` the value of the cluster field, missing
            without one. `aggregation` is the function of `aggregation.aggregate` that is taken to make the metric's score of
            `value` and `weight`, which are missing where the sample holds something else than numbers.
        scores: a row for each run and metric: what lm-eval itself computed (`SCORE_COLUMNS`).
        groups: lm-eval's groups that tasks were run in, by name.
        tags: names of tasks, by the tags in their configs.
        lower_is_better: task and metric, where lm-eval says so.
        conditions: of each run, in the order of `runs`, what must agree between baseline and ACT.
        asked: what comparisons were asked for that wrote results files, wanted or not.
        planned: the runs that comparisons are to have, finished or not, each once.
        studies: that runs belong to.
        method_comparisons: the same of several methods.
        answers: what runs answered, by their index in `runs`, for those that have samples.
    """

    runs: pd.DataFrame
    samples: pd.DataFrame
    scores: pd.DataFrame
    groups: Mapping[str, TaskGroup]
    tags: Mapping[str, tuple[str, ...]]
    lower_is_better: frozenset[tuple[str, str]]
    conditions: tuple[Conditions, ...]
    asked: tuple[Mapping[str, Any], ...] = ()
    planned: tuple[PlannedRun, ...] = ()
    studies: tuple[LoadedStudy[StudyRecord], ...] = ()
    method_comparisons: tuple[LoadedStudy[MethodsRecord], ...] = ()
    answers: Mapping[int, Answers] = field(default_factory=dict)

    @property
    def unfinished(self) -> Unfinished | None:
        """What is planned, and has no results; None where nothing is missing."""
        missing = missing_runs(self.planned, self.asked)
        return Unfinished(self.planned, tuple(missing), self.groups) if missing else None

    def settings_of(self, model_args: Mapping[str, Any]) -> str:
        """The settings, in one line, of runs with these model arguments. Raises KeyError where there are none."""
        for run in self.runs[["arguments", "settings"]].to_dict("records"):
            if _of_act(run["arguments"]["model_args"]) == _of_act(model_args):
                return str(run["settings"])
        raise KeyError(f"no run has the model arguments {dict(model_args)}")


def _of_act(model_args: Mapping[str, Any]) -> str:
    """What tells the settings of ACT apart among model arguments."""
    act = {name: value for name, value in model_args.items() if name.startswith("act_")}
    return json.dumps(act, sort_keys=True, default=str)


def load(folders: Iterable[Path], is_wanted: Callable[[Mapping[str, Any]], bool] = lambda content: True) -> Results:
    """Read every run below some folders, in an order that depends on the files' contents and names alone.

    A run is one task of one `results_<date>.json`; its samples are in the file of the same task and date beside it. Runs may
    share a folder, since lm-eval names folders by checkpoint only: the settings in the results tell them apart.

    Args:
        folders: where to look, recursively.
        is_wanted: says from the content of a results file whether to read its runs; all by default.

    Raises:
        ReportError: a folder does not exist, there is no run in any of them, a file is not what lm-eval writes, or a score is
            not a number.
    """
    files: dict[Path, Path] = {}
    plans: dict[Path, list[PlannedRun]] = {}
    kept_groups = []
    for folder in folders:
        if not folder.is_dir():
            raise ReportError(f"there is no folder {folder}: give the --output_path of lm_eval or act-eval compare.")
        kept_groups += [read_groups(file) for file in files_below(folder, GROUPS_FILE)]
        plans |= {file.resolve(): read_planned_runs(file) for file in files_below(folder, PLANNED_RUNS_FILE)}
        files |= {file.resolve(): file for file in files_below(folder, "results_*.json")}
    recorded = RecordedStudies.beside(plans)
    in_order = [files[path] for path in sorted(files, key=lambda path: (path.name, str(path)))]
    planned = each_once(itertools.chain(*plans.values()))
    asked: list[Mapping[str, Any]] = []

    def is_wanted_and_noted(content: Mapping[str, Any]) -> bool:
        asked.extend(filter(None, [asked_of(content)]))
        return is_wanted(content)

    parts, files_of_parts = [], []
    with stage_progress(Console(stderr=True), "reading results", len(in_order), "files") as progress:
        for file in in_order:
            part = _load_file(file, is_wanted_and_noted)
            if part is not None:
                parts.append(part)
                files_of_parts.append(file.resolve())
            progress.advance(1)
    if not any(len(part.runs) for part in parts):
        if planned:
            raise ReportError(f"none of {len(planned)} planned runs is finished: report again later, or compare again.")
        raise ReportError("no results were found: run lm_eval with --output_path, or act-eval compare.")
    parts = _with_models_told_apart(parts)
    merged = _merged(parts, kept_groups)
    ends = itertools.accumulate(len(part.runs) for part in parts)
    of_comparisons = [
        RunsOfFile(file, part.asked[0], merged.runs.iloc[end - len(part.runs) : end])
        for file, part, end in zip(files_of_parts, parts, ends, strict=True)
        if part.asked and len(part.runs)
    ]
    studies = recorded.loaded_studies(of_comparisons)
    names = names_in(studies)
    keys = zip(merged.runs["model"], merged.runs["settings"], strict=True)
    runs = merged.runs.assign(settings=[names.get(key, key[1]) for key in keys])
    return replace(
        merged,
        runs=runs.astype({"settings": RUN_COLUMNS["settings"]}),
        asked=tuple(asked),
        planned=tuple(planned),
        studies=tuple(with_names(study, names) for study in studies),
        method_comparisons=recorded.loaded_method_comparisons(of_comparisons),
    )


def _with_models_told_apart(parts: Sequence[Results]) -> list[Results]:
    """The same runs; where calibrated ones with several sets of model arguments have one name, it says what differs."""
    sets: dict[str, dict[str, dict[str, str]]] = {}
    calibrated: dict[str, set[str]] = {}
    for run in itertools.chain(*(part.runs.to_dict("records") for part in parts)):
        kept = _of_the_answers(run["arguments"].get("model_args"))
        sets.setdefault(run["model"], {})[run["model_args"]] = {name: " ".join(str(kept[name]).split()) for name in kept}
        if not run["is_baseline"]:
            calibrated.setdefault(run["model"], set()).add(run["model_args"])
    names = {
        (model, text): f"{model} ({said})" if said else model
        for model, used in calibrated.items()
        if len(used) > 1
        for text, said in _what_differs(sets[model]).items()
    }

    def named(runs: pd.DataFrame) -> pd.DataFrame:
        keys = zip(runs["model"], runs["model_args"], strict=True)
        return runs.assign(model=[names.get(key, key[0]) for key in keys]).astype({"model": RUN_COLUMNS["model"]})

    return [replace(part, runs=named(part.runs)) for part in parts]


def _what_differs(sets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What each of some sets of arguments has that others have not, or have otherwise, by name; empty for nothing."""
    differing = {}
    for name in sorted({name for arguments in sets.values() for name in arguments}):
        values = {arguments.get(name) for arguments in sets.values()}
        if len(values) > 1:
            differing[name] = cut_names(filter(None, values), _LONGEST_ARGUMENT)
    return {
        key: ", ".join(f"{name}={short.get(of[name], '')}" for name, short in differing.items() if name in of)
        for key, of in sets.items()
    }


def _load_file(file: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> Results | None:
    """The runs of one results file, or None where they are not wanted."""
    with _explained(lambda: f"{file} is not a results file of lm-eval", "delete it"):
        results = _read_json(file)
        if not is_wanted(results):
            return None
        runs = list(_runs(file, results))
        scores = [_scores(number, results["results"].get(run["task"], {})) for number, run in enumerate(runs)]
        tags = {(tag, task) for task, config in results["configs"].items() for tag in _as_list(config.get("tag"))}
        higher_is_better = results.get("higher_is_better", {}).items()
        lower_is_better = {(task, name) for task, metrics in higher_is_better for name in metrics if metrics[name] is False}
        samples, answers = [], {}
        for number, run in enumerate(runs):
            if run["samples_file"] is not None:
                metric_list = results["configs"][run["task"]].get("metric_list") or []
                file_of_samples, named = Path(run["samples_file"]), aggregations(metric_list)
                run["cluster_field"], table, answers[number] = _read_samples(file_of_samples, number, named)
                samples.append(table)
        return Results(
            _table(runs, RUN_COLUMNS),
            _concatenated(samples),
            _table(itertools.chain(*scores), SCORE_COLUMNS),
            _groups(results),
            {name: tuple(task for tag, task in sorted(tags) if tag == name) for name, _ in tags},
            frozenset(lower_is_better),
            tuple(conditions(results, run["task"]) for run in runs),
            asked=tuple(filter(None, [asked_of(results)])),
            answers=answers,
        )


def _merged(parts: Sequence[Results], kept_groups: Sequence[Mapping[str, TaskGroup]]) -> Results:
    """The runs of several files, one after the other, with the groups that comparisons keep beside them."""
    first_runs = itertools.accumulate((len(part.runs) for part in parts), initial=0)
    samples, scores = [], []
    answers: dict[int, Answers] = {}
    for part, first_run in zip(parts, first_runs, strict=False):
        answers |= {run + first_run: of_run for run, of_run in part.answers.items()}
        samples.append(part.samples.assign(run=part.samples["run"] + first_run))
        scores.append(part.scores.assign(run=part.scores["run"] + first_run))
    return Results(
        pd.concat([part.runs for part in parts], ignore_index=True),
        _concatenated(samples),
        pd.concat(scores, ignore_index=True),
        _united_groups([*(part.groups for part in parts), *kept_groups]),
        _united([part.tags for part in parts]),
        frozenset().union(*(part.lower_is_better for part in parts)),
        tuple(itertools.chain(*(part.conditions for part in parts))),
        answers=answers,
    )


def _united(parts: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The members of each name in any of the parts."""
    members: dict[str, set[str]] = {}
    for part in parts:
        for name, tasks in part.items():
            members.setdefault(name, set()).update(tasks)
    return {name: tuple(sorted(members[name])) for name in sorted(members)}


def _united_groups(parts: Sequence[Mapping[str, TaskGroup]]) -> dict[str, TaskGroup]:
    """Groups with the tasks that they have in any of the parts."""
    tasks = _united([{name: group.tasks for name, group in part.items()} for part in parts])
    weighted = _united([{name: group.weighted_by_size for name, group in part.items()} for part in parts])
    return {name: TaskGroup(tasks[name], weighted[name]) for name in tasks}


def _explained(what: Callable[[], str], remedy: str) -> AbstractContextManager[None]:
    """Turn whatever malformed content leads to into a ReportError that begins with what is malformed, and says the remedy."""

    def explain(error: Exception) -> ReportError:
        return ReportError(f"{what()} ({_one_line(error)}): {remedy}, and run that evaluation again.")

    return explained(explain, OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def _one_line(error: Exception) -> str:
    return " ".join(repr(error).split())[:_LONGEST_REASON]


def read_samples(file: Path, lines: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Some samples of a file, whole, by line number from 1."""
    wanted = set(lines)
    with file.open(encoding="utf-8") as content:
        numbered = itertools.islice(enumerate(content, start=1), max(wanted, default=0))
        return {number: json.loads(line) for number, line in numbered if number in wanted}


def _read_json(file: Path) -> dict[str, Any]:
    content = results_without_secrets(json.loads(file.read_text(encoding="utf-8")))
    act = content["config"].get("act")
    if act is not None and "text" not in act:
        missing = [name for name in older_files.REQUIRED if name not in act]
        if missing:
            raise ReportError(f"{file} does not say what ACT's {missing[0]} was: run that evaluation again.")
    return content


def _groups(results: Mapping[str, Any]) -> dict[str, TaskGroup]:
    """Each group with the tasks below it, those of its subgroups too, and with the weights of its scores."""
    members: Mapping[str, list[str]] = results.get("group_subtasks") or {}

    def below(name: str) -> Iterator[str]:
        for member in members.get(name, []):
            yield from below(member) if members.get(member) else [member]

    tasks = {name: tuple(below(name)) for name in members if members[name]}
    return {name: TaskGroup(tasks[name], tuple(_weighted_by_size(results, name, tasks[name]))) for name in tasks}


def _weighted_by_size(results: Mapping[str, Any], group: str, tasks: Sequence[str]) -> Iterator[str]:
    """The metrics of which lm-eval's score of a group is the mean over documents, and not that over tasks.

    Its files do not say so, but hold the scores that tell.
    """
    for key, score in (results.get("groups") or {}).get(group, {}).items():
        metric, comma, _ = key.partition(",")
        there = [task for task in tasks if key in results["results"].get(task, {})]
        if not comma or metric.endswith("_stderr") or not isinstance(score, (int, float)) or not there:
            continue
        values = [results["results"][task][key] for task in there]
        sizes = [results.get("n-samples", {}).get(task, {}).get("effective", 1) for task in there]
        if math.isclose(score, np.average(values, weights=sizes)) and not math.isclose(score, np.mean(values)):
            yield metric


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _runs(file: Path, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    config = results["config"]
    act = config.get("act")
    date = file.stem.removeprefix("results_")
    for task in results["configs"]:
        num_fewshot = results.get("n-shot", {}).get(task)
        samples_file = file.with_name(f"samples_{task}_{date}.jsonl")
        yield {
            "file": str(file),
            "samples_file": str(samples_file) if samples_file.is_file() else None,
            "date": date,
            "model": _name_of_the_model(results),
            "model_args": ",".join(f"{key}={value}" for key, value in _of_the_answers(config.get("model_args")).items()),
            "settings": describe_settings(act),
            "is_baseline": is_baseline(act),
            "num_heads": 0 if act is None else act["num_heads"],
            "predict_only": [entry.get("metric") for entry in results["configs"][task].get("metric_list") or []]
            == [_NO_METRIC],
            "task": task,
            "version": str(results.get("versions", {}).get(task, "")),
            "num_fewshot": num_fewshot,
            "seed": _seed(results, task),
            "limit": config.get("limit"),
            "documents": results.get("n-samples", {}).get(task, {}).get("effective"),
            "cluster_field": None,
            "arguments": config,
        }


def _seed(results: Mapping[str, Any], task: str) -> int | None:
    """The seed that decides what a task's answers are: of its few-shot examples, or else of replies that are drawn."""
    config = results["config"]
    if results.get("n-shot", {}).get(task):
        return config.get("fewshot_seed")
    return config.get("torch_seed") if answers_are_drawn(results, task) else None


def _name_of_the_model(results: Mapping[str, Any]) -> str:
    """What the model arguments name; else what `act-hf` recorded; else what lm-eval says of a Python object.

    Where no argument names a model, lm-eval makes a name up; where one is a Python object, its name is the object as text.
    """
    config = results["config"]
    name = str(results.get("model_name") or "")
    in_arguments = map(str, by_name(config.get("model_args")).values())
    is_made_up = _RANDOM_NAME.fullmatch(name) is not None and name not in in_arguments
    if name and not is_made_up and len(name.splitlines()) == 1:
        return name
    recorded = config.get(WHAT_RAN) or {}
    return str(recorded.get("name") or config.get("model") or _UNNAMED)


def _of_the_answers(model_args: Any) -> dict[str, Any]:
    """Those of `--model_args` that answers depend on, besides ACT's, sorted."""
    kept = without_placement(by_name(model_args))
    return {name: kept[name] for name in sorted(kept) if not name.startswith("act_")}


def _scores(run: int, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            error = results.get(f"{metric}_stderr,{filter_name}")
            error = error if isinstance(error, (int, float)) else None
            yield {"run": run, "filter": filter_name, "metric": metric, "value": value, "standard_error": error}


def _read_samples(file: Path, run: int, named: Mapping[str, str]) -> tuple[str | None, pd.DataFrame, Answers]:
    """The cluster field of the documents of one file, its samples, and the answers in them.

    Args:
        file: of samples.
        run: its number.
        named: the aggregations of the task's metrics.
    """
    answers = AnswersReader()
    lines, filters, metrics, functions, values, weights, clusters = [], [], [], [], [], [], []
    cluster_field: str | None = None
    identities: list[tuple[int, str, str, str]] = []
    number = 0
    malformed = _explained(lambda: f"line {number} of {file} is not a sample of lm-eval", "delete its results file")
    with malformed, file.open(encoding="utf-8") as content:
        for number, line in enumerate(content, start=1):
            sample = json.loads(line)
            answers.add(number, sample)
            doc_hash, prompt_hash, target_hash = (str(sample[name]) for name in _HASHES)
            identity = int(np.int64(sample["doc_id"])), doc_hash, prompt_hash, target_hash
            fields = sample["doc"] if isinstance(sample["doc"], dict) else {}
            if number == 1:
                cluster_field = next((name for name in CLUSTER_FIELDS if isinstance(fields.get(name), str)), None)
            cluster = fields.get(cluster_field)
            for name in sample["metrics"]:
                aggregation = named.get(name) or aggregation_of(name)
                logged = _numbers(sample.get(name), aggregation)
                for value in logged or ():
                    if not math.isfinite(value) and not (aggregation == NANMEAN and math.isnan(value)):
                        raise ReportError(
                            f"{name} of document {identity[0]} is {value} (line {number} of {file}): run it again."
                        )
                value, weight = logged or (math.nan, math.nan)
                lines.append(number)
                filters.append(str(sample.get("filter", "none")))
                metrics.append(str(name))
                functions.append(known(aggregation))
                values.append(value)
                weights.append(weight)
                clusters.append(cluster if isinstance(cluster, str) else None)
                identities.append(identity)
    doc_ids, *hashes = zip(*identities, strict=True) if identities else ((), (), (), ())
    table = pd.DataFrame(
        {
            "run": np.full(len(lines), run, dtype="int32"),
            "line": np.array(lines, dtype="int32"),
            "filter": pd.Categorical(filters),
            "metric": pd.Categorical(metrics),
            "doc_id": np.array(doc_ids, dtype="int64"),
            **{
                name: pd.util.hash_array(np.array(texts, dtype=object), categorize=False)
                for name, texts in zip(_HASHES, hashes, strict=True)
            },
            "cluster": pd.Categorical(clusters),
            "aggregation": pd.Categorical(functions),
            "value": np.array(values, dtype="float64"),
            "weight": np.array(weights, dtype="float64"),
        }
    )
    return cluster_field, table, answers.answers()


def _numbers(logged: Any, aggregation: str) -> tuple[float, float] | None:
    """Value and weight of a document, as a sample holds them; None where it holds something else."""
    numbers = logged if has_weights(aggregation) else [logged, 1.0]
    if not isinstance(numbers, list) or len(numbers) != 2 or any(type(number) not in (bool, int, float) for number in numbers):
        return None
    return float(numbers[0]), float(numbers[1])


def _concatenated(samples: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not samples:
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in SAMPLE_COLUMNS.items()})
    categories = {
        column: sorted({name for table in samples for name in table[column].cat.categories})
        for column, dtype in SAMPLE_COLUMNS.items()
        if dtype == "category"
    }
    same = [
        table.assign(**{column: table[column].cat.set_categories(names) for column, names in categories.items()})
        for table in samples
    ]
    return pd.concat(same, ignore_index=True)


def _table(rows: Iterable[dict[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns)).astype(dict(columns))
