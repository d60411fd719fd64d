"""Which runs are compared: baseline and ACT document by document, or not at all and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from act_eval.errors import SettingError
from act_eval.report.aggregation import aggregate
from act_eval.report.conditions import Conditions, difference, difference_of_models
from act_eval.report.load import SCORE_COLUMNS, ReportError, Results

PAIR_COLUMNS = ("model", "settings", "num_heads", "task", "num_fewshot", "limit", "seed", "filter", "metric")
VALUE_COLUMNS = (
    *PAIR_COLUMNS,
    "doc_id",
    "baseline_backend",
    "cluster_field",
    "cluster",
    "aggregation",
    "weight",
    "baseline",
    "calibrated",
    "run_baseline",
    "run_calibrated",
    "line_baseline",
    "line_calibrated",
)
UNPAIRED_COLUMNS = (*PAIR_COLUMNS, "baseline_backend", "n", "baseline", "calibrated")
_OF_METRICS = ("filter", "metric", "aggregation", "weight", "baseline", "calibrated")
DOCUMENT_COLUMNS = tuple(column for column in VALUE_COLUMNS if column not in _OF_METRICS)

_SAME = ["model", "task", "num_fewshot", "limit", "seed"]
_REPEATED = [*_SAME, "model_args", "settings", "is_baseline"]  # what runs have in common of which the newest counts
_AVERAGED = [column for column in _REPEATED if column != "seed"]  # what runs have in common that are averaged
_BACKEND = "backend"  # of runs: the attention backend where others like it have another one
_SAMPLE = ["filter", "metric", "doc_id"]
_HASHES = {"doc_hash": "documents", "prompt_hash": "prompts", "target_hash": "targets"}
_DOCUMENTS_SHOWN = 5
_ROUNDING = 1e-9  # of sums in another order

_Metric = tuple[str, str]  # metric and filter

Patterns = Mapping[str, str | Sequence[str]]
"""By a column, a pattern that its values match, or several, of which they match one, see `matches`."""


def matches(text: str, patterns: str | Sequence[str]) -> bool:
    """Whether a text matches a shell-style pattern such as `mmlu_*`, or one of several; case matters."""
    return any(fnmatchcase(text, pattern) for pattern in as_several(patterns))


def as_several(patterns: str | Sequence[str]) -> Sequence[str]:
    """One pattern or several, as several."""
    return [patterns] if isinstance(patterns, str) else patterns


@dataclass(frozen=True)
class Pairing:
    """Runs side by side.

    Attributes:
        values: a row for each document, seed, filter and metric that both runs of a pair scored (`VALUE_COLUMNS`): the values
            of baseline and calibrated run, the run and line that each comes from, and the function (`aggregation`, see
            `aggregation.aggregate`) that makes a score of values and `weight`. `baseline_backend` is the attention backend of
            the baseline where there are baselines that differ in it alone, and empty elsewhere.
        unpaired: a row for each metric that cannot be paired, since one of the runs has no samples or they do not hold a number
            for each document, with the scores that lm-eval computed (`UNPAIRED_COLUMNS`).
        noise: like `values`, for the two newest runs of a baseline, where there are two: how much runs differ that should
            not. The older one stands as `baseline`, the newer one as `calibrated`.
        notes: what was not compared, and why, a sentence each.
        unpaired_notes: why rows are in `unpaired`, a sentence each.
        lower_is_better: task and metric, where lm-eval says so.
        waiting: tasks with runs that have nothing to be compared with, since a planned run of the task is missing.
        documents: a row for each document and seed of a pair of whole runs (`DOCUMENT_COLUMNS`), whatever its metrics are.
        left_out: like `values`, those that `select` left out. Tests are corrected for them too: which of the rows are shown is
            often chosen after all were seen.
    """

    values: pd.DataFrame
    unpaired: pd.DataFrame
    noise: pd.DataFrame
    notes: tuple[str, ...]
    unpaired_notes: tuple[str, ...] = ()
    lower_is_better: frozenset[tuple[str, str]] = frozenset()
    waiting: tuple[str, ...] = ()
    documents: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(DOCUMENT_COLUMNS)))
    left_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(VALUE_COLUMNS)))

    def with_values(self, values: pd.DataFrame, left_out: pd.DataFrame | None = None) -> Pairing:
        """Other values, in rows of `VALUE_COLUMNS`, and nothing that is unpaired, nor noise; by default nothing is left out."""
        left_out = self.left_out.iloc[:0] if left_out is None else left_out
        return replace(self, values=values, unpaired=self.unpaired.iloc[:0], noise=self.noise.iloc[:0], left_out=left_out)

    def select(self, metrics: Sequence[str] = (), patterns: Patterns | None = None) -> Pairing:
        """Only some metrics (all by default), and rows whose columns match patterns; documents of tasks that have such rows.

        Args:
            metrics: names of metrics.
            patterns: by a column of `PAIR_COLUMNS`, see `matches`.

        Raises:
            SettingError: there is no such metric or column.
            ReportError: nothing is left.
        """
        patterns = patterns or {}
        for column in patterns:
            if column not in PAIR_COLUMNS:
                raise SettingError("filter", f"{column}=...: there is no such column; choose one of {', '.join(PAIR_COLUMNS)}.")
        parts = {"values": self.values, "unpaired": self.unpaired, "noise": self.noise}
        there = sorted({str(metric) for table in (self.values, self.unpaired) for metric in table["metric"].unique()})
        for metric in metrics:
            if metric not in there:
                raise SettingError("metric", f"{metric}: no run has it; there are {', '.join(there)}.")
        for name, table in parts.items():
            kept = table["metric"].isin(metrics or there)
            not_there = ("settings", "num_heads") if name == "noise" else ()
            parts[name] = table[kept & _matching(table, patterns, not_there)]
        if parts["values"].empty and parts["unpaired"].empty:
            names = sorted({*map(str, self.values["task"]), *map(str, self.unpaired["task"])})
            asked = [f"{column}={pattern}" for column, several in patterns.items() for pattern in as_several(several)]
            asked += [f"metric {metric}" for metric in metrics]
            raise ReportError(f"no result is left by {', '.join(asked)}: choose others; the tasks are {', '.join(names)}.")
        tasks = {*parts["values"]["task"], *parts["unpaired"]["task"]}
        of_documents = _matching(self.documents, patterns, ("filter", "metric"))
        documents = self.documents[self.documents["task"].isin(tasks) & of_documents]
        others = self.values[~self.values.index.isin(parts["values"].index)]
        left_out = pd.concat([self.left_out, others]) if len(self.left_out) else others
        selected = replace(self, values=parts["values"], unpaired=parts["unpaired"], noise=parts["noise"])
        return replace(selected, documents=documents, left_out=left_out)


def pair(results: Results) -> Pairing:
    """Find the baseline of each calibrated run: same model and model arguments, task, few-shot count, seed and limit.

    Of runs that have these and their settings in common, the newest complete one counts; older and incomplete ones are noted.
    Of baselines on several attention backends each counts, for calibrated runs on its own. What they ran with must agree, see
    `conditions.difference`. Documents are matched by id, and the hashes of document, prompt and target must agree.

    Raises:
        ReportError: nothing can be compared; says why.
    """
    samples = dict(iter(results.samples.groupby("run")))
    scores = dict(iter(results.scores.groupby("run")))
    runs = results.runs[~results.runs["predict_only"]]
    notes = [
        f"{_name(run)}: the run of {run['date']} was made with --predict_only and has no scores: run it without."
        for _, run in results.runs[results.runs["predict_only"]].iterrows()
    ]
    if runs.empty:
        raise ReportError(notes[0] if len(notes) == 1 else "nothing can be compared:\n" + "\n".join(notes))
    runs = runs.assign(scored=[samples[run]["doc_id"].nunique() if run in samples else 0 for run in runs.index])
    runs["complete"] = (runs["scored"] > 0) & (runs["scored"] == runs["documents"].fillna(runs["scored"]))
    conditions = dict(zip(results.runs.index, results.conditions, strict=True))
    runs = _with_backends(runs, conditions)
    repeated = [same.sort_values(["complete", "date"]) for _, same in runs.groupby([*_REPEATED, _BACKEND], dropna=False)]
    notes += [_left_out(run, same.iloc[-1]) for same in repeated for _, run in same.iloc[:-1].iterrows()]
    newest = pd.DataFrame([same.iloc[-1] for same in repeated]).convert_dtypes(convert_floating=False)
    baselines = newest[newest["is_baseline"]]
    used: set[Any] = set()
    values, unpaired, unpaired_notes, documents = [], [], [], []
    newest_of_all_seeds: dict[Any, pd.Series] = {}
    newest_of_all_tasks: dict[Any, pd.Series] = {}
    unfinished = results.unfinished
    waiting: set[str] = set()
    for _, calibrated in newest[~newest["is_baseline"]].sort_values("date", ascending=False, kind="stable").iterrows():
        try:
            try:
                baseline = _baseline_of(calibrated, baselines, conditions[calibrated.name].backend)
            except ReportError:
                if unfinished is None or not unfinished.lacks(calibrated["task"]):
                    raise
                waiting.add(calibrated["task"])
                continue
            used.add(baseline.name)
            _check_same(baseline, calibrated, conditions, "baseline and ACT")
            averaged = tuple(map(_text, calibrated[_AVERAGED]))
            _check_averaged(newest_of_all_seeds.setdefault(averaged, calibrated), calibrated, conditions)
            _check_one_model(newest_of_all_tasks.setdefault(calibrated["model"], calibrated), calibrated, conditions)
            if calibrated["complete"] and baseline["complete"]:
                of_metrics, of_documents, reasons = _paired(baseline, calibrated, samples, scores)
                if reasons:
                    unpaired.append(_unpaired(baseline, calibrated, scores, reasons))
                if len(of_metrics):
                    values.append(of_metrics)
                documents.append(of_documents)
                unpaired_notes += [f"{_name(calibrated)}: {reason}." for reason in _by_reason(reasons)]
            else:
                unpaired.append(_unpaired(baseline, calibrated, scores))
                unpaired_notes.append(f"{_name(calibrated)}: not paired by document, for {_incomplete(baseline, calibrated)}.")
        except ReportError as refusal:
            notes.append(str(refusal))
    for _, run in baselines.loc[[index for index in baselines.index if index not in used]].iterrows():
        if unfinished is not None and unfinished.lacks(run["task"]):
            waiting.add(run["task"])
        else:
            notes.append(f"{_name(run)}: no calibrated run goes with it.")
    if not values and not unpaired:
        if unfinished is not None:
            raise ReportError(
                "\n".join([f"nothing can be compared yet, for {unfinished.headline}: report again later.", *notes])
            )
        raise ReportError(notes[0] if len(notes) == 1 else "nothing can be compared:\n" + "\n".join(notes))
    noise = []
    for same in repeated:
        whole = same[same["complete"] & same["is_baseline"]]
        if len(whole) > 1 and whole.index[-1] in used:
            try:
                _check_same(whole.iloc[-2], whole.iloc[-1], conditions, "two runs of the baseline")
                noise.append(_paired(whole.iloc[-2], whole.iloc[-1], samples, scores)[0])
            except ReportError as refusal:
                notes.append(f"noise: {refusal}")
    return Pairing(
        _concatenated(values, VALUE_COLUMNS),
        _concatenated(unpaired, UNPAIRED_COLUMNS),
        _concatenated(noise, VALUE_COLUMNS),
        tuple(notes),
        tuple(unpaired_notes),
        results.lower_is_better,
        tuple(sorted(waiting)),
        _concatenated(documents, DOCUMENT_COLUMNS),
    )


def _with_backends(runs: pd.DataFrame, conditions: Mapping[Any, Conditions]) -> pd.DataFrame:
    """Runs with the attention backend, where it is known, of those baselines that differ in it from others like them."""
    backends = pd.Series([conditions[run].backend or "" for run in runs.index], index=runs.index, dtype=object)
    known = backends.where(runs["is_baseline"] & (backends != ""))
    differ = known.groupby([runs[column] for column in _REPEATED], dropna=False).transform("nunique") > 1
    return runs.assign(**{_BACKEND: backends.where(differ, "")})


def _baseline_of(calibrated: pd.Series, baselines: pd.DataFrame, backend: str | None) -> pd.Series:
    """The baseline of a calibrated run, on the same attention backend if there is one, among the newest ones.

    Raises ReportError where there is none.
    """
    same, name = baselines, _name(calibrated)
    for column in _SAME:
        value = calibrated[column]
        same = same[same[column].isna() if pd.isna(value) else same[column].eq(value).fillna(False).astype(bool)]
        if same.empty:
            raise ReportError(
                f"{name}: no baseline of the same model, task, few-shot count, seed and limit (the first to differ is "
                f"{column}, here {value}): run it, for example with act-eval compare."
            )
    equal = same[same["model_args"] == calibrated["model_args"]]
    if equal.empty:
        raise ReportError(
            f"{name}: the model arguments of baseline and ACT differ ({same.iloc[-1]['model_args'] or 'none'}; "
            f"{calibrated['model_args'] or 'none'}): run both in the same way."
        )
    own, unknown = (equal[equal[_BACKEND] == known] for known in (backend or "", ""))
    return next(found for found in (own, unknown, equal) if len(found)).sort_values("date", kind="stable").iloc[-1]


def _check_same(one: pd.Series, other: pd.Series, conditions: Mapping[Any, Conditions], both: str) -> None:
    """Raise ReportError where two runs, which `both` names, differ in more than documents and ACT's settings."""
    if one["version"] != other["version"]:
        raise ReportError(
            f"{_name(other)}: the task changed from version {one['version']} to {other['version']} between the two runs: "
            "run both again."
        )
    differing = difference(conditions[one.name], conditions[other.name])
    if differing is not None:
        raise ReportError(f"{_name(other)}: {both} ran with different {differing}: run both again.")


def _check_averaged(newest: pd.Series, run: pd.Series, conditions: Mapping[Any, Conditions]) -> None:
    """Raise ReportError where runs of two seeds, which are averaged, differ in more than the seeds."""
    differing = difference(conditions[newest.name], replace(conditions[run.name], seeds={}))
    if differing is not None:
        raise ReportError(
            f"{_name(run)}: the runs of seeds {run['seed']} and {newest['seed']} ran with different {differing}, and the older "
            "ones were left out: run them again."
        )


def _check_one_model(newest: pd.Series, run: pd.Series, conditions: Mapping[Any, Conditions]) -> None:
    """Raise ReportError where runs of two tasks, which stand in one table and in one average, are of different models."""
    differing = difference_of_models(conditions[newest.name], conditions[run.name])
    if differing is not None:
        raise ReportError(
            f"{_name(run)}: its model is not the one that ran {newest['task']} later, but has different {differing}: run it "
            "again."
        )


def _paired(
    baseline: pd.Series, calibrated: pd.Series, samples: Mapping[Any, pd.DataFrame], scores: Mapping[Any, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[_Metric, str]]:
    """`VALUE_COLUMNS` and `DOCUMENT_COLUMNS` of two runs, and why metrics that have scores are not among the first.

    Raises ReportError when the runs must not be compared.
    """
    name = _name(calibrated)
    sides = [samples[run.name] for run in (baseline, calibrated)]
    for side in sides:
        if side.duplicated(_SAMPLE).any():
            raise ReportError(f"{name}: there are several samples of one document, which cannot be paired.")
    metrics = [sorted(set(zip(side["metric"], side["filter"], strict=True))) for side in sides]
    if metrics[0] != metrics[1]:
        there = [", ".join(f"{metric} ({filter_name})" for metric, filter_name in side) or "none" for side in metrics]
        raise ReportError(f"{name}: baseline and ACT have different metrics ({there[0]}; {there[1]}): run both again.")
    merged = sides[0].merge(sides[1], on=_SAMPLE, how="outer", suffixes=("_baseline", "_calibrated"), indicator=True)
    missing = [_documents(merged.loc[merged["_merge"] == side, "doc_id"]) for side in ("left_only", "right_only")]
    if any(missing):
        alone = "; ".join(f"{side} alone: {ids}" for side, ids in zip(("baseline", "ACT"), missing, strict=True) if ids)
        raise ReportError(f"{name}: baseline and ACT saw different documents ({alone}): run both with the same --limit.")
    for column, what in _HASHES.items():
        if (merged[f"{column}_baseline"] != merged[f"{column}_calibrated"]).any():
            raise ReportError(f"{name}: baseline and ACT saw different {what}: run both in the same way.")
    own = [_by_metric(scores.get(run.name)) for run in (baseline, calibrated)]
    by_metric = dict(iter(merged.groupby(["metric", "filter"], observed=True)))
    reasons = {metric: _why_unpaired(rows, *(side.get(metric) for side in own)) for metric, rows in by_metric.items()}
    pairable = [metric for metric, reason in reasons.items() if reason is None]
    has_scores = {metric: why for metric, why in reasons.items() if why is not None and all(metric in side for side in own)}
    if not pairable and not has_scores:
        raise ReportError(f"{name}: baseline and ACT have no metric in common.")
    of_both = {"cluster": "cluster", "aggregation": "aggregation", "weight": "weight", "value": "calibrated"}
    named = {**{f"{column}_calibrated": kept for column, kept in of_both.items()}, "value_baseline": "baseline"}
    of_the_run = {column: calibrated[column] for column in (*PAIR_COLUMNS, "cluster_field") if column not in merged}
    of_the_run["baseline_backend"] = baseline[_BACKEND]
    merged = merged.rename(columns=named).assign(**of_the_run)
    kept = [metric in pairable for metric in zip(merged["metric"], merged["filter"], strict=True)]
    return merged.loc[kept, list(VALUE_COLUMNS)], merged.drop_duplicates("doc_id")[list(DOCUMENT_COLUMNS)], has_scores


def _why_unpaired(rows: pd.DataFrame, *scores: float | None) -> str | None:
    """Why a metric cannot be paired, from its samples and from lm-eval's scores of baseline and ACT; None where it can."""
    if rows[["value_baseline", "value_calibrated"]].isna().to_numpy().any():
        return "lm-eval computes them from all documents at once, and samples do not hold a number for each"
    if (rows["weight_baseline"] != rows["weight_calibrated"]).any():
        return "the same documents have other weights in baseline and ACT"
    function = rows["aggregation_calibrated"].iloc[0]
    for side, score in zip(("baseline", "calibrated"), scores, strict=True):
        made = float(aggregate(rows[f"value_{side}"].to_numpy(), rows[f"weight_{side}"].to_numpy(), function))
        if score is not None and not math.isclose(made, score, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            return f"lm-eval's scores are not the {function.replace('_', ' ')} of the numbers in the samples"
    return None


def _by_metric(scores: pd.DataFrame | None) -> dict[_Metric, float]:
    """The scores of a run, by metric and filter."""
    if scores is None:
        return {}
    return dict(zip(zip(scores["metric"], scores["filter"], strict=True), scores["value"], strict=True))


def _by_reason(reasons: Mapping[_Metric, str]) -> Iterator[str]:
    """Which metrics are not paired, for one reason after the other."""
    for reason in dict.fromkeys(reasons.values()):
        metrics = [f"{metric} ({filter_name})" for (metric, filter_name), why in reasons.items() if why == reason]
        yield f"{', '.join(metrics)} not paired by document, for {reason}"


def _unpaired(
    baseline: pd.Series, calibrated: pd.Series, scores: Mapping[Any, pd.DataFrame], only: Collection[_Metric] | None = None
) -> pd.DataFrame:
    """`UNPAIRED_COLUMNS` of two runs, of all metrics by default. Raises ReportError when there is nothing to compare."""
    name = _name(calibrated)
    nothing = pd.DataFrame(columns=list(SCORE_COLUMNS))
    sides = [scores.get(run.name, nothing).drop(columns=["run", "standard_error"]) for run in (baseline, calibrated)]
    merged = (
        sides[0]
        .rename(columns={"value": "baseline"})
        .merge(sides[1].rename(columns={"value": "calibrated"}), on=["filter", "metric"])
    )
    if only is not None:
        merged = merged[[metric in only for metric in zip(merged["metric"], merged["filter"], strict=True)]]
    if merged.empty:
        raise ReportError(f"{name}: baseline and ACT have no metric in common.")
    if not np.isfinite(merged[["baseline", "calibrated"]].to_numpy(float)).all():
        raise ReportError(f"{name}: a score in {baseline['file']} or {calibrated['file']} is not a number: run both again.")
    of_the_run = {column: calibrated[column] for column in PAIR_COLUMNS if column not in merged}
    of_the_run["baseline_backend"] = baseline[_BACKEND]
    return merged.assign(n=calibrated["documents"], **of_the_run)[list(UNPAIRED_COLUMNS)]


def _matching(table: pd.DataFrame, patterns: Patterns, without: Collection[str] = ()) -> pd.Series:
    """Which rows match the patterns of their columns, but for columns that the patterns do not hold for."""
    kept = pd.Series(True, index=table.index)
    for column, pattern in patterns.items():
        if column not in without:
            of_values = {value: matches(_text(value), pattern) for value in table[column].unique()}
            kept &= table[column].map(of_values).astype(bool)
    return kept


def _documents(ids: pd.Series) -> str:
    """Some ids of documents and how many there are; empty for none."""
    unique = sorted(set(ids))
    shown = ", ".join(map(str, unique[:_DOCUMENTS_SHOWN]))
    return shown if len(unique) <= _DOCUMENTS_SHOWN else f"{shown}, ... ({len(unique)} documents)"


def _name(run: pd.Series) -> str:
    """What notes call a run."""
    shots = "" if pd.isna(run["num_fewshot"]) or not run["num_fewshot"] else f", {run['num_fewshot']} shots"
    base = f", base {run[_BACKEND]}" if run.get(_BACKEND) else ""
    return f"{run['task']}{shots} ({run['model']}, {run['settings']}{base})"


def _left_out(run: pd.Series, newest: pd.Series) -> str:
    """Why a run does not count beside the one that does."""
    newer = "it is there twice" if newest["date"] == run["date"] else f"there is a newer one of {newest['date']}"
    reason = newer if run["complete"] or not newest["complete"] else _what_is_missing(run)
    return f"{_name(run)}: the run of {run['date']} was left out, for {reason}."


def _incomplete(*runs: pd.Series) -> str:
    return " and ".join(f"{_what_is_missing(run)} ({run['settings']})" for run in runs if not run["complete"])


def _what_is_missing(run: pd.Series) -> str:
    return f"it has samples of {run['scored']} of {run['documents']} documents" if run["scored"] else "it has no samples"


def _concatenated(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def _text(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
