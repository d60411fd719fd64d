"""Which runs are compared: baseline and ACT document by document, or not at all and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from act_eval.report.load import ReportError, Results

PAIR_COLUMNS = ("model", "settings", "num_heads", "task", "num_fewshot", "limit", "seed", "filter", "metric")
VALUE_COLUMNS = (
    *PAIR_COLUMNS,
    "doc_id",
    "cluster_field",
    "cluster",
    "baseline",
    "act",
    "run_baseline",
    "run_act",
    "line_baseline",
    "line_act",
)
UNPAIRED_COLUMNS = (*PAIR_COLUMNS, "n", "baseline", "act")

_SAME = ["model", "task", "num_fewshot", "limit", "seed"]
_CELL = [*_SAME, "model_args", "settings", "is_baseline"]
_SAMPLE = ["filter", "metric", "doc_id"]
_HASHES = {"doc_hash": "documents", "prompt_hash": "prompts", "target_hash": "targets"}
_DOCUMENTS_SHOWN = 5


@dataclass(frozen=True)
class Pairing:
    """Runs side by side.

    Attributes:
        values: a row for each document, seed, filter and metric that both runs of a pair scored (`VALUE_COLUMNS`): the two
            values, and the run and line that each comes from.
        unpaired: a row for each metric of runs of which one has no samples, with the scores that lm-eval computed
            (`UNPAIRED_COLUMNS`).
        noise: like `values`, for the two newest baselines of a cell, where there are two: how much runs differ that should
            not; the older one stands as `baseline`.
        notes: what was not compared, and why, a sentence each.
        lower_is_better: task and metric, where lm-eval says so.
    """

    values: pd.DataFrame
    unpaired: pd.DataFrame
    noise: pd.DataFrame
    notes: tuple[str, ...]
    lower_is_better: frozenset[tuple[str, str]] = frozenset()

    def select(self, metrics: Sequence[str] = (), patterns: Mapping[str, str] | None = None) -> Pairing:
        """Only some metrics (all by default), and rows whose columns match patterns.

        Args:
            metrics: names of metrics.
            patterns: by a column of `PAIR_COLUMNS`, a shell-style pattern such as `mmlu_*`; case matters.

        Raises:
            ReportError: there is no such column, or nothing is left.
        """
        for column in patterns or {}:
            if column not in PAIR_COLUMNS:
                raise ReportError(f"--filter {column}=...: there is no such column; choose one of {', '.join(PAIR_COLUMNS)}.")
        parts = {"values": self.values, "unpaired": self.unpaired, "noise": self.noise}
        there = sorted({str(metric) for table in (self.values, self.unpaired) for metric in table["metric"].unique()})
        for metric in metrics:
            if metric not in there:
                raise ReportError(f"--metric {metric}: no run has it; there are {', '.join(there)}.")
        for name, table in parts.items():
            kept = table["metric"].isin(metrics or there)
            for column, pattern in (patterns or {}).items():
                if name != "noise" or column not in ("settings", "num_heads"):
                    matches = {value: fnmatchcase(_text(value), pattern) for value in table[column].unique()}
                    kept &= table[column].map(matches).astype(bool)
            parts[name] = table[kept]
        if parts["values"].empty and parts["unpaired"].empty:
            raise ReportError(
                f"nothing is left of the results with --filter {dict(patterns or {})} and --metric {list(metrics)}."
            )
        return replace(self, values=parts["values"], unpaired=parts["unpaired"], noise=parts["noise"])


def pair(results: Results) -> Pairing:
    """Find the baseline of each calibrated run: same model and model arguments, task, few-shot count, seed and limit.

    The newest complete run of a cell counts; older and incomplete ones are noted. Documents are matched by id, and the
    hashes of document, prompt and target must agree.

    Raises:
        ReportError: nothing can be compared; says why.
    """
    samples = dict(iter(results.samples.groupby("run")))
    runs = results.runs.assign(scored=[samples[run]["doc_id"].nunique() if run in samples else 0 for run in results.runs.index])
    runs["complete"] = (runs["scored"] > 0) & (runs["scored"] == runs["documents"].fillna(runs["scored"]))
    cells = [cell.sort_values(["complete", "date"]) for _, cell in runs.groupby(_CELL, dropna=False)]
    notes = [_left_out(run, cell.iloc[-1]) for cell in cells for _, run in cell.iloc[:-1].iterrows()]
    newest = pd.DataFrame([cell.iloc[-1] for cell in cells]).convert_dtypes(convert_floating=False)
    baselines = newest[newest["is_baseline"]]
    used: set[Any] = set()
    values, unpaired = [], []
    for _, act in newest[~newest["is_baseline"]].iterrows():
        try:
            baseline = _baseline_of(act, baselines)
            used.add(baseline.name)
            if act["complete"] and baseline["complete"]:
                values.append(_paired(baseline, act, samples))
            else:
                unpaired.append(_unpaired(baseline, act, results.scores))
                notes.append(f"{_name(act)}: paired by nothing but the task, for {_incomplete(baseline, act)}.")
        except ReportError as refusal:
            notes.append(str(refusal))
    notes += [f"{_name(run)}: no calibrated run goes with it." for index, run in baselines.iterrows() if index not in used]
    if not values and not unpaired:
        raise ReportError(notes[0] if len(notes) == 1 else "nothing can be compared:\n" + "\n".join(notes))
    noise = []
    for cell in cells:
        whole = cell[cell["complete"] & cell["is_baseline"]]
        if len(whole) > 1:
            try:
                noise.append(_paired(whole.iloc[-2], whole.iloc[-1], samples))
            except ReportError as refusal:
                notes.append(f"noise: {refusal}")
    return Pairing(
        _concatenated(values, VALUE_COLUMNS),
        _concatenated(unpaired, UNPAIRED_COLUMNS),
        _concatenated(noise, VALUE_COLUMNS),
        tuple(notes),
        results.lower_is_better,
    )


def _baseline_of(act: pd.Series, baselines: pd.DataFrame) -> pd.Series:
    same = baselines
    for column in _SAME:
        missing = pd.isna(act[column])
        same = same[same[column].isna() if missing else same[column].eq(act[column]).fillna(False).astype(bool)]
        if same.empty:
            raise ReportError(
                f"{_name(act)}: no baseline of the same model, task, few-shot count, seed and limit (the first to differ is "
                f"{column}, here {act[column]}): run it, for example with act-eval compare."
            )
    equal = same[same["model_args"] == act["model_args"]]
    if equal.empty:
        raise ReportError(
            f"{_name(act)}: the model arguments of baseline and ACT differ ({same.iloc[-1]['model_args'] or 'none'}; "
            f"{act['model_args'] or 'none'}): run both in the same way."
        )
    baseline = equal.iloc[-1]
    if baseline["version"] != act["version"]:
        raise ReportError(
            f"{_name(act)}: the task changed from version {baseline['version']} to {act['version']} between the two runs: "
            "run both again."
        )
    return baseline


def _paired(baseline: pd.Series, act: pd.Series, samples: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
    """`VALUE_COLUMNS` of two runs. Raises ReportError when they must not be compared."""
    sides = [samples[run.name] for run in (baseline, act)]
    for side in sides:
        if side.duplicated(_SAMPLE).any():
            raise ReportError(f"{_name(act)}: there are several samples of one document, which cannot be paired.")
    metrics = [sorted(set(zip(side["metric"], side["filter"], strict=True))) for side in sides]
    if metrics[0] != metrics[1]:
        names = [", ".join(f"{metric} ({name})" for metric, name in side) or "none" for side in metrics]
        raise ReportError(f"{_name(act)}: baseline and ACT have different metrics ({names[0]}; {names[1]}): run both again.")
    merged = sides[0].merge(sides[1], on=_SAMPLE, how="outer", suffixes=("_baseline", "_act"), indicator=True)
    missing = [_documents(merged.loc[merged["_merge"] == side, "doc_id"]) for side in ("left_only", "right_only")]
    if any(missing):
        alone = "; ".join(f"{side} alone: {ids}" for side, ids in zip(("baseline", "ACT"), missing, strict=True) if ids)
        raise ReportError(f"{_name(act)}: baseline and ACT saw different documents ({alone}): run both with the same --limit.")
    for column, name in _HASHES.items():
        if (merged[f"{column}_baseline"] != merged[f"{column}_act"]).any():
            raise ReportError(f"{_name(act)}: baseline and ACT saw different {name}: run both in the same way.")
    merged = merged.rename(columns={"value_baseline": "baseline", "value_act": "act", "cluster_act": "cluster"})
    of_the_run = {column: act[column] for column in (*PAIR_COLUMNS, "cluster_field") if column not in merged}
    return merged.assign(**of_the_run)[list(VALUE_COLUMNS)]


def _unpaired(baseline: pd.Series, act: pd.Series, scores: pd.DataFrame) -> pd.DataFrame:
    sides = [scores[scores["run"] == run.name].drop(columns=["run", "standard_error"]) for run in (baseline, act)]
    merged = sides[0].merge(sides[1], on=["filter", "metric"], suffixes=("_baseline", "_act"))
    if merged.empty:
        raise ReportError(f"{_name(act)}: baseline and ACT have no metric in common.")
    if not np.isfinite(merged[["value_baseline", "value_act"]].to_numpy(float)).all():
        raise ReportError(f"{_name(act)}: a score in {baseline['file']} or {act['file']} is not a number: run both again.")
    merged = merged.rename(columns={"value_baseline": "baseline", "value_act": "act"}).assign(n=act["documents"])
    return merged.assign(**{column: act[column] for column in PAIR_COLUMNS if column not in merged})[list(UNPAIRED_COLUMNS)]


def _documents(ids: pd.Series) -> str:
    """Some ids of documents and how many there are; empty for none."""
    unique = sorted(set(ids))
    shown = ", ".join(map(str, unique[:_DOCUMENTS_SHOWN]))
    return shown if len(unique) <= _DOCUMENTS_SHOWN else f"{shown}, ... ({len(unique)} documents)"


def _name(run: pd.Series) -> str:
    shots = "" if pd.isna(run["num_fewshot"]) or not run["num_fewshot"] else f", {run['num_fewshot']} shots"
    return f"{run['task']}{shots} ({run['model']}, {run['settings']})"


def _left_out(run: pd.Series, newest: pd.Series) -> str:
    reason = f"there is a newer one of {newest['date']}" if run["complete"] or not newest["complete"] else _what_is_missing(run)
    return f"{_name(run)}: the run of {run['date']} was left out, for {reason}."


def _incomplete(*runs: pd.Series) -> str:
    return " and ".join(f"{_what_is_missing(run)} ({run['settings']})" for run in runs if not run["complete"])


def _what_is_missing(run: pd.Series) -> str:
    return f"it has samples of {run['scored']} of {run['documents']} documents" if run["scored"] else "it has no samples"


def _concatenated(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def _text(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
