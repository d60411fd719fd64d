"""Paired statistics: every difference is taken document by document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from act_eval.report.aggregation import MEAN
from act_eval.report.intervals import (
    SEED,
    SIDES,
    UNSEEN,
    DrawnDifferences,
    PairedDocuments,
    average_deltas,
    interval_of,
    kind_of_average,
    p_of,
    unseen_of_tasks,
)
from act_eval.report.load import ReportError
from act_eval.report.pairing import Pairing
from act_eval.report.power import (
    ONE_POINT,
    TaskDocuments,
    detectable_average,
    detectable_difference,
    expected_discordance,
    needed_documents,
    needed_documents_of_average,
)
from act_eval.task_groups import TaskGroup

COMPARISON_COLUMNS = (
    "model",
    "settings",
    "num_heads",
    "task",
    "num_fewshot",
    "limit",
    "filter",
    "metric",
    "higher_is_better",
    "seeds",
    "paired",
    "n",
    "baseline",
    "act",
    "delta",
    "baseline_sd",
    "act_sd",
    "delta_sd",
    "low",
    "high",
    "interval",
    "standard_error",
    "clusters",
    "clustered_standard_error",
    "both",
    "only_baseline",
    "only_act",
    "neither",
    "p",
    "p_holm",
    "detectable",
    "n_for_one_point",
    "noise",
    "noise_changed",
    "baseline_id",
)
GROUP_COLUMNS = (
    "model",
    "settings",
    "num_heads",
    "group",
    "num_fewshot",
    "limit",
    "filter",
    "metric",
    "higher_is_better",
    "tasks",
    "of_tasks",
    "weighted_by_size",
    "n",
    "baseline",
    "act",
    "delta",
    "low",
    "high",
    "interval",
    "detectable",
    "n_for_one_point",
    "baseline_id",
)
_OF_SUBJECTS = ("model", "settings", "num_heads", "num_fewshot", "limit", "filter", "metric", "subject")
SUBJECT_COLUMNS = (*_OF_SUBJECTS, "higher_is_better", "n", "baseline", "act", "delta", "low", "high", "interval")

ALL_TASKS = "all tasks"
SIGNIFICANCE_LEVEL = 0.05

# What these columns are called in tables of results, which are files that others read:
_PUBLIC_NAMES = {"calibrated": "act", "calibrated_sd": "act_sd", "only_calibrated": "only_act"}
ROW = ["model", "settings", "num_heads", "task", "num_fewshot", "limit", "filter", "metric"]
"""What tells rows of a comparison apart."""

_ROW_OF_AVERAGES = [column for column in ROW if column != "task"]
_ROW_OF_NOISE = [column for column in ROW if column not in ("settings", "num_heads")]
_FAMILY = ["model", "settings"]


def compare(pairing: Pairing) -> pd.DataFrame:
    """Compare calibrated runs with their baselines.

    Runs that differ in the seed alone, of few-shot examples or of replies that are drawn, are averaged per document.

    Args:
        pairing: what `pairing.pair` returned.

    Returns:
        A row per model, settings, task, few-shot count, limit, filter and metric (`COMPARISON_COLUMNS`), sorted by these:
        scores as lm-eval computes them (means, perplexities, bits per byte), the difference `delta` with its paired 95%
        interval `low` to `high`, of the kind `interval` (see `intervals`), and a two-sided `p`: where scores are 0 or 1 for
        every document, that of the exact McNemar test, beside the 2 x 2 counts, elsewhere, as on average over several seeds,
        the one that agrees with the interval (see `intervals.p_of`). `p_holm` is corrected over all paired rows of the same
        model and settings, whatever their task, few-shot count, filter and metric, those that were not selected (see
        `Pairing.select`) among them. `detectable` is the smallest difference that so many documents would show with a
        probability of 80%, and `n_for_one_point` how many documents a difference of 0.01 needs for that (see `power`), where
        the score is a mean of values between 0 and 1. `standard_error` is that of the difference (of other scores than means,
        the standard deviation of the draws of what it may be); `clustered_standard_error` is robust to documents of one cluster
        (MMLU's subjects, SQuAD's articles, `clusters` of them) depending on each other. `seeds` is the number of seeds
        averaged; `baseline_sd`, `act_sd` and `delta_sd` are the standard deviations over seeds (sample; missing for one seed).
        `noise` is the absolute difference of two baseline runs, where there are two, and `noise_changed` the number of
        documents whose score differs between them. `higher_is_better` is what lm-eval says of the metric. Where `paired` is
        False, a run has no samples, or they hold no number for each document, and all but scores and difference is missing.
        `baseline_id` is the same in rows that are compared with the same runs of the baseline, those of the same tasks,
        seeds and attention backend.

    Raises:
        ReportError: a row has several pairs of one document and seed, which are of different runs.
    """
    _check_one_pair(pairing.values)
    rows = []
    for key, values in pairing.values.groupby(ROW, dropna=False, observed=True):
        drawn = PairedDocuments.of(values).draw()
        statistics = {**seed_spread(values), **_statistics(drawn), **standard_errors(values), **_power([drawn], np.ones(1))}
        rows.append({**dict(zip(ROW, key, strict=True)), "paired": True, "baseline_id": _baseline_id(values), **statistics})
    for key, scores in pairing.unpaired.groupby(ROW, dropna=False, observed=True):
        means = scores[list(SIDES)].mean()
        means["delta"] = means["calibrated"] - means["baseline"]
        same = {"paired": False, "baseline_id": _baseline_id(scores), "n": scores["n"].max()}
        rows.append({**dict(zip(ROW, key, strict=True)), **same, **_spread(scores), **means})
    corrected = zip(rows, _corrected(rows, pairing.left_out), strict=True)
    table = public_table([{**row, "p_holm": p} for row, p in corrected], COMPARISON_COLUMNS).sort_values(ROW, ignore_index=True)
    names = zip(table["task"], table["metric"], strict=True)
    table["higher_is_better"] = [name not in pairing.lower_is_better for name in names]
    return _with_noise(table, pairing.noise)


def _corrected(rows: Sequence[Mapping[str, Any]], left_out: pd.DataFrame) -> list[float]:
    """The p of rows of a comparison after Holm's correction, over these rows and those of values that were left out."""
    others = []
    for key, values in left_out.groupby(ROW, dropna=False, observed=True):
        others.append({**dict(zip(ROW, key, strict=True)), "p": _p(PairedDocuments.of(values).draw())})
    tested = pd.DataFrame([*rows, *others], columns=[*ROW, "p"])
    tested = tested.drop_duplicates(ROW).dropna(subset="p")  # of one row some seeds may be left out, and others not
    corrected = pd.Series(np.nan, index=range(len(rows) + len(others)))
    for _, family in tested.groupby(_FAMILY):
        corrected[family.index] = holm(family["p"].to_numpy(float))
    return corrected[: len(rows)].tolist()


def _baseline_id(values: pd.DataFrame) -> str:
    """Eight hexadecimal digits of the tasks and seeds of values, and of attention backends where baselines differ in them."""
    runs = values[["task", "seed", "baseline_backend"]].drop_duplicates().itertuples(index=False, name=None)
    of_runs = sorted(str((task, seed, *filter(None, [backend]))) for task, seed, backend in runs)
    return hashlib.sha256("\n".join(of_runs).encode()).hexdigest()[:8]


def _check_one_pair(values: pd.DataFrame) -> None:
    """Raise ReportError where a row has several pairs of one document and seed."""
    repeated = values[values.duplicated([*ROW, "seed", "doc_id"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ReportError(
            f"{row['task']} ({row['model']}, {row['settings']}): document {row['doc_id']} has several pairs of runs with seed "
            f"{row['seed']}, which must not be averaged: report on their folders one by one."
        )


def _with_noise(table: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """The comparison with `noise` and `noise_changed`, from the values of two baseline runs."""
    if values.empty:
        return table
    rows = []
    for key, of_row in values.groupby(_ROW_OF_NOISE, dropna=False, observed=True):
        changed = int((of_row["calibrated"] != of_row["baseline"]).sum())
        difference = abs(PairedDocuments.of(of_row, ("doc_id", "seed")).delta)
        rows.append({**dict(zip(_ROW_OF_NOISE, key, strict=True)), "noise": difference, "noise_changed": changed})
    noise = pd.DataFrame(rows).astype({column: table[column].dtype for column in _ROW_OF_NOISE} | {"noise_changed": "Int64"})
    return table.drop(columns=["noise", "noise_changed"]).merge(noise, on=_ROW_OF_NOISE, how="left")


def macro_averages(pairing: Pairing, groups: Mapping[str, TaskGroup]) -> pd.DataFrame:
    """Average over the tasks of each group, as lm-eval does: every task with the same weight, or with its number of documents.

    Args:
        pairing: what `pairing.pair` returned.
        groups: by name.

    Returns:
        A row per model, settings, group, few-shot count, limit, filter and metric (`GROUP_COLUMNS`): how many of the group's
        `tasks` there are (of `of_tasks`), whether they are `weighted_by_size`, `n` documents in all, means over tasks, and the
        95% interval of the difference, from draws within each task, and power and `baseline_id`, as `compare` has them.
        Unpaired tasks are not counted, and there is no row for one task, nor for tasks that an earlier group has averaged.
    """
    rows = []
    for key, values in pairing.values.groupby(_ROW_OF_AVERAGES, dropna=False, observed=True):
        tasks = {task: PairedDocuments.of(of_task) for task, of_task in values.groupby("task")}
        draws = {task: documents.draw((SEED, number)) for number, (task, documents) in enumerate(tasks.items())}
        averaged: list[set[str]] = []
        for group, members in groups.items():
            there = [task for task in members.tasks if task in tasks]
            if len(there) > 1 and set(there) not in averaged:
                averaged.append(set(there))
                sizes = [len(tasks[task].weights) for task in there]
                by_size = key[-1] in members.weighted_by_size
                weights = np.array(sizes if by_size else [1] * len(there)) / (sum(sizes) if by_size else len(there))
                means = {side: float(weights @ [tasks[task].scores[side] for task in there]) for side in SIDES}
                drawn = [draws[task] for task in there]
                counts = {"tasks": len(there), "of_tasks": len(members.tasks), "weighted_by_size": by_size, "n": sum(sizes)}
                delta = means["calibrated"] - means["baseline"]
                low, high = interval_of(average_deltas(drawn, weights), delta)
                kind = kind_of_average(tasks[task].interval_kind for task in there)
                numbers = {**counts, **means, "delta": delta, "low": low, "high": high, "interval": kind}
                numbers |= _power(drawn, weights)
                lower = all((task, key[-1]) in pairing.lower_is_better for task in there)
                names = {**dict(zip(_ROW_OF_AVERAGES, key, strict=True)), "group": group}
                names["baseline_id"] = _baseline_id(values[values["task"].isin(there)])
                rows.append({**names, "higher_is_better": not lower, **numbers})
    order = [column for column in GROUP_COLUMNS if column in (*_ROW_OF_AVERAGES, "group")]
    return public_table(rows, GROUP_COLUMNS).sort_values(order, ignore_index=True)


def by_subject(pairing: Pairing) -> pd.DataFrame:
    """Compare per subject, for tasks whose documents have one (MMLU), over all of these tasks.

    Returns:
        A row per model, settings, few-shot count, limit, filter, metric and subject (`SUBJECT_COLUMNS`), with the numbers that
        `compare` gives for tasks.
    """
    values = pairing.values[pairing.values["cluster_field"] == "subject"]
    key_columns = [*_ROW_OF_AVERAGES, "aggregation", "cluster"]
    rows = []
    for key, of_subject in values.groupby(key_columns, dropna=False, observed=True):
        names = dict(zip(key_columns, key, strict=True))
        lower = all((task, names["metric"]) in pairing.lower_is_better for task in of_subject["task"].unique())
        statistics = _statistics(PairedDocuments.of(of_subject, ("task", "doc_id")).draw())
        rows.append({**names, "subject": names["cluster"], "higher_is_better": not lower, **statistics})
    return public_table(rows, SUBJECT_COLUMNS)


def public_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of results with its public columns, from rows that may lack some and have more."""
    named = [{_PUBLIC_NAMES.get(name, name): value for name, value in row.items()} for row in rows]
    table = pd.DataFrame(named, columns=list(columns))
    return table.astype({"n_for_one_point": "Int64"}) if "n_for_one_point" in table else table


def in_order_of(table: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a table in the order of others, with their index.

    Args:
        table: has one row for each of `rows`.
        rows: in the wanted order.
        columns: what tells rows apart, in both; what is missing there is alike.
    """
    keys = rows[list(columns)]
    return keys.merge(table.astype(keys.dtypes.to_dict()), on=list(columns), validate="one_to_one").set_index(rows.index)


def differs(rows: pd.DataFrame) -> pd.Series:
    """Which differences are significant: where Holm's p is below 0.05, or, as in averages, without one, where the interval
    excludes zero.

    Args:
        rows: with columns `low` and `high`, and `p_holm` where there are tests; its index is that of the result.
    """
    interval = (rows["low"] > 0) | (rows["high"] < 0)
    if "p_holm" not in rows:
        return interval
    p = rows["p_holm"].astype(float)
    return (p < SIGNIFICANCE_LEVEL).where(p.notna(), interval)


def standard_errors(values: pd.DataFrame) -> dict[str, float]:
    """Compute standard errors of the mean difference of one task and metric.

    Args:
        values: a row per document and seed, with columns doc_id, cluster, aggregation, baseline, calibrated.

    Returns:
        `standard_error` (NaN for one document); where documents fall into several clusters, also their number `clusters`
        and `clustered_standard_error`, which allows documents of one cluster to depend on each other. Nothing where the score
        is no mean.
    """
    if values["aggregation"].iloc[0] != MEAN:
        return {}
    documents = values.groupby("doc_id").agg({"baseline": "mean", "calibrated": "mean", "cluster": "first"})
    difference = documents["calibrated"] - documents["baseline"]
    clusters = documents["cluster"].nunique()
    result = {
        "standard_error": float(np.std(difference, ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else float("nan")
    }
    if documents["cluster"].isna().any() or clusters < 2:
        return result
    codes = documents["cluster"].astype("category").cat.codes.to_numpy()
    fit = sm.OLS(difference.to_numpy(), np.ones(len(difference))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    return {**result, "clusters": clusters, "clustered_standard_error": float(fit.bse[0])}


def seed_spread(values: pd.DataFrame) -> dict[str, float]:
    """Compute how much the means of one metric vary from seed to seed.

    Args:
        values: a row per document and seed, as in `Pairing.values`.

    Returns:
        `seeds` (how many) and the sample standard deviations `baseline_sd`, `calibrated_sd` and `delta_sd`, NaN for one seed.
    """
    return _spread(pd.DataFrame([PairedDocuments.of(rows).scores for _, rows in values.groupby("seed", dropna=False)]))


def _spread(means: pd.DataFrame) -> dict[str, float]:
    """`seed_spread`, from a row for each seed."""
    return {
        "seeds": len(means),
        "baseline_sd": float(means["baseline"].std()),
        "calibrated_sd": float(means["calibrated"].std()),
        "delta_sd": float((means["calibrated"] - means["baseline"]).std()),
    }


def paired_statistics(
    baseline: np.ndarray, calibrated: np.ndarray, largest_change: float | None = None
) -> dict[str, float | str]:
    """Compare two values per document.

    Args:
        baseline, calibrated: float `[documents]`, in the same order.
        largest_change: see `PairedDocuments`.

    Returns:
        `n`, the means `baseline` and `calibrated`, `delta`, and its 95% interval from `low` to `high`, of the kind `interval`
        (see `intervals`; 10,000 draws, fixed seed), and a two-sided `p`, which agrees with the interval. Where all values are 0
        or 1, also the counts `both`, `only_baseline`, `only_calibrated` and `neither`, and `p` is that of the exact McNemar
        test.
    """
    ones = np.ones(len(baseline))
    return _statistics(PairedDocuments(baseline, calibrated, ones, largest_change=largest_change).draw())


def _statistics(drawn: DrawnDifferences) -> dict[str, float | str]:
    """Compare the scores of documents.

    Returns:
        What `paired_statistics` returns, for the scores of both sides instead of their means; where these are no means, without
        counts, and with the `standard_error` of `delta`, the standard deviation of the draws.
    """
    documents, deltas = drawn.documents, drawn.deltas()
    low, high = interval_of(deltas, documents.delta)
    result: dict[str, float | str] = {"n": len(documents), **documents.scores, "delta": documents.delta}
    result |= {"low": low, "high": high, "interval": documents.interval_kind, "p": _p(drawn)}
    if documents.aggregation != MEAN:
        return {**result, "standard_error": float(drawn.weighed_deltas().std(ddof=1)) if len(documents) > 1 else float("nan")}
    if not documents.are_outcomes:
        return result
    baseline, calibrated = (side == 1 for side in (documents.baseline, documents.calibrated))
    counts = {
        "both": int((baseline & calibrated).sum()),
        "only_baseline": int((baseline & ~calibrated).sum()),
        "only_calibrated": int((~baseline & calibrated).sum()),
        "neither": int((~baseline & ~calibrated).sum()),
    }
    return {**result, **counts}


def _p(drawn: DrawnDifferences) -> float:
    """The two-sided p of one task and metric."""
    documents = drawn.documents
    if not documents.are_outcomes:
        return p_of(drawn.deltas())
    changes = documents.calibrated - documents.baseline
    return exact_mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))


def _power(tasks: Sequence[DrawnDifferences], weights: np.ndarray) -> dict[str, float]:
    """`detectable` and `n_for_one_point` of a task, or of an average over tasks with these weights."""
    unseen = unseen_of_tasks([len(task.documents) for task in tasks], weights)
    asked = [_for_power(task, of_task) for task, of_task in zip(tasks, unseen, strict=True)]
    if len(tasks) == 1 and tasks[0].documents.are_outcomes:
        n, discordance = asked[0].n, asked[0].discordance
        return {
            "detectable": detectable_difference(n, discordance),
            "n_for_one_point": needed_documents(ONE_POINT, discordance),
        }
    return _power_of_average(tuple(asked), tuple(weights), all(task.documents.are_shares for task in tasks))


def power_of_interval(values: pd.DataFrame) -> dict[str, float]:
    """`detectable` and `n_for_one_point` of one task where its interval decides, as it does of averages.

    Args:
        values: rows of `Pairing.values` of one task and metric.
    """
    drawn = PairedDocuments.of(values).draw()
    return _power_of_average((_for_power(drawn, UNSEEN),), (1.0,), drawn.documents.are_shares)


@cache  # averages are asked about again beside those after label priors are corrected
def _power_of_average(tasks: tuple[TaskDocuments, ...], weights: tuple[float, ...], are_shares: bool) -> dict[str, float]:
    """`_power` of an average, or of a task whose scores are not all 0 or 1."""
    result = {"detectable": detectable_average(tasks, weights)}
    if are_shares:
        result["n_for_one_point"] = needed_documents_of_average(ONE_POINT, tasks, weights)
    return result


def _for_power(drawn: DrawnDifferences, unseen: float) -> TaskDocuments:
    """What power depends on, of documents of which `unseen` were not seen each way."""
    documents, n = drawn.documents, len(drawn.documents)
    if documents.are_outcomes:
        changed = int((documents.baseline != documents.calibrated).sum())
        return TaskDocuments(n, discordance=expected_discordance(changed, n, unseen))
    return TaskDocuments(n, variance=n * float(drawn.weighed_deltas(unseen).var()))


def holm(p: np.ndarray) -> np.ndarray:
    """Correct the p of several tests for their number (Holm 1979).

    What statsmodels' `multipletests` gives, which collects garbage each time: in a program that has a model loaded, that takes
    longer than all else in a report.

    Args:
        p: float `[tests]`.
    """
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def exact_mcnemar(only_baseline: int, only_act: int) -> float:
    """Two-sided exact McNemar test: are the documents that changed as likely to change one way as the other?"""
    changed = only_baseline + only_act
    return 1.0 if changed == 0 else float(stats.binomtest(only_act, changed, 0.5).pvalue)
