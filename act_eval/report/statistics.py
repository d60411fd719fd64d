"""Paired statistics: every difference is taken document by document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from act_eval.report.pairing import Pairing

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
    "standard_error",
    "clusters",
    "clustered_standard_error",
    "both",
    "only_baseline",
    "only_act",
    "neither",
    "p",
    "p_holm",
    "noise",
    "noise_changed",
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
    "n",
    "baseline",
    "act",
    "delta",
    "low",
    "high",
)
_OF_SUBJECTS = ("model", "settings", "num_heads", "num_fewshot", "limit", "filter", "metric", "subject")
SUBJECT_COLUMNS = (*_OF_SUBJECTS, "n", "baseline", "act", "delta", "low", "high")
BOOTSTRAP_RESAMPLES = 10_000
SEED = 0

ALL_TASKS = "all tasks"
SIGNIFICANCE_LEVEL = 0.05

# What these columns are called in tables of results, which are files that others read:
_PUBLIC_NAMES = {"calibrated": "act", "calibrated_sd": "act_sd", "only_calibrated": "only_act"}
_SIDES = ["baseline", "calibrated"]
_ROW = ["model", "settings", "num_heads", "task", "num_fewshot", "limit", "filter", "metric"]
_ROW_OF_AVERAGES = [column for column in _ROW if column != "task"]
_ROW_OF_NOISE = [column for column in _ROW if column not in ("settings", "num_heads")]
_FAMILY = ["model", "settings"]
_FEW_VALUES = 50


def compare(pairing: Pairing) -> pd.DataFrame:
    """Compare calibrated runs with their baselines.

    Runs that differ in the seed of the few-shot sampler alone are averaged per document.

    Args:
        pairing: what `pairing.pair` returned.

    Returns:
        A row per model, settings, task, few-shot count, limit, filter and metric (`COMPARISON_COLUMNS`), sorted by these:
        means, the difference `delta` with its paired bootstrap 95% interval `low` to `high`, and for metrics that are 0 or 1
        per document the 2 x 2 counts and the exact McNemar `p`, with `p_holm` corrected over the rows of the same model and
        settings. `standard_error` is that of the difference; `clustered_standard_error` is robust to documents of one cluster
        (MMLU's subjects, SQuAD's articles, `clusters` of them) depending on each other. `seeds` is the number of seeds
        averaged; `baseline_sd`, `act_sd` and `delta_sd` are the standard deviations over seeds (sample; missing for one seed).
        `noise` is the absolute difference of two baseline runs, where there are two, and `noise_changed` the number of
        documents whose score differs between them. `higher_is_better` is what lm-eval says
        of the metric. Where `paired` is False, one of the runs has no samples, and all but means and difference is missing.
    """
    rows = []
    for key, values in pairing.values.groupby(_ROW, dropna=False, observed=True):
        documents = _mean_over_seeds(values)
        statistics = {
            **seed_spread(values),
            **paired_statistics(documents["baseline"].to_numpy(), documents["calibrated"].to_numpy()),
            **standard_errors(values),
        }
        rows.append({**dict(zip(_ROW, key, strict=True)), "paired": True, **statistics})
    for key, scores in pairing.unpaired.groupby(_ROW, dropna=False, observed=True):
        means = scores[_SIDES].mean()
        means["delta"] = means["calibrated"] - means["baseline"]
        rows.append({**dict(zip(_ROW, key, strict=True)), "paired": False, **_spread(scores), "n": scores["n"].max(), **means})
    table = public_table(rows, COMPARISON_COLUMNS).sort_values(_ROW, ignore_index=True)
    names = zip(table["task"], table["metric"], strict=True)
    table["higher_is_better"] = [name not in pairing.lower_is_better for name in names]
    for _, family in table[table["p"].notna()].groupby(_FAMILY):
        table.loc[family.index, "p_holm"] = multipletests(family["p"], method="holm")[1]
    return _with_noise(table, pairing.noise)


def _with_noise(table: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """The comparison with `noise` and `noise_changed`, from the values of two baseline runs."""
    if values.empty:
        return table
    differences = (values["calibrated"] - values["baseline"]).astype(float)
    changes = values.assign(noise=differences, noise_changed=differences != 0)
    noise = changes.groupby(_ROW_OF_NOISE, dropna=False, observed=True).agg({"noise": "mean", "noise_changed": "sum"})
    noise = noise.reset_index()
    noise = noise.assign(noise=noise["noise"].abs(), noise_changed=noise["noise_changed"].astype("Int64"))
    return table.drop(columns=["noise", "noise_changed"]).merge(noise, on=_ROW_OF_NOISE, how="left")


def macro_averages(pairing: Pairing, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Average over the tasks of each group, every task with the same weight.

    Args:
        pairing: what `pairing.pair` returned.
        groups: names of tasks by name of group.

    Returns:
        A row per model, settings, group, few-shot count, limit, filter and metric (`GROUP_COLUMNS`): how many of the group's
        `tasks` there are (of `of_tasks`), `n` documents in all, means over tasks, and the 95% interval of the difference, a
        percentile bootstrap over documents within each task. Unpaired tasks are not counted, and there is no row for one
        task, nor for tasks that an earlier group has averaged.
    """
    rows = []
    for key, values in pairing.values.groupby(_ROW_OF_AVERAGES, dropna=False, observed=True):
        tasks = {task: _mean_over_seeds(of_task) for task, of_task in values.groupby("task")}
        resampled = {
            task: bootstrap_means((documents["calibrated"] - documents["baseline"]).to_numpy(), (SEED, number))
            for number, (task, documents) in enumerate(tasks.items())
        }
        averaged: list[set[str]] = []
        for group, members in groups.items():
            there = [task for task in members if task in tasks]
            if len(there) > 1 and set(there) not in averaged:
                averaged.append(set(there))
                means = pd.DataFrame([tasks[task].mean() for task in there]).mean()
                low, high = _interval(np.mean([resampled[task] for task in there], axis=0))
                counts = {"tasks": len(there), "of_tasks": len(members), "n": sum(len(tasks[task]) for task in there)}
                delta = means["calibrated"] - means["baseline"]
                numbers = {**counts, **means, "delta": delta, "low": low, "high": high}
                lower = all((task, key[-1]) in pairing.lower_is_better for task in there)
                names = {**dict(zip(_ROW_OF_AVERAGES, key, strict=True)), "group": group}
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
    key_columns = [*_ROW_OF_AVERAGES, "cluster"]
    rows = []
    for key, of_subject in values.groupby(key_columns, dropna=False, observed=True):
        documents = _mean_over_seeds(of_subject, ["task", "doc_id"])
        statistics = paired_statistics(documents["baseline"].to_numpy(), documents["calibrated"].to_numpy())
        rows.append({**dict(zip(key_columns, key, strict=True)), "subject": key[-1], **statistics})
    return public_table(rows, SUBJECT_COLUMNS)


def public_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of results with its public columns, from rows that may lack some and have more."""
    named = [{_PUBLIC_NAMES.get(name, name): value for name, value in row.items()} for row in rows]
    return pd.DataFrame(named, columns=list(columns))


def differs(rows: pd.DataFrame) -> pd.Series:
    """Which differences are significant: where Holm's p is below 0.05, or, without one, where the interval excludes zero.

    Args:
        rows: with columns `low` and `high`, and `p_holm` where there are tests; its index is that of the result.
    """
    interval = (rows["low"] > 0) | (rows["high"] < 0)
    if "p_holm" not in rows:
        return interval
    p = rows["p_holm"].astype(float)
    return (p < SIGNIFICANCE_LEVEL).where(p.notna(), interval)


def _mean_over_seeds(values: pd.DataFrame, document: Sequence[str] = ("doc_id",)) -> pd.DataFrame:
    """Baseline and calibrated value of each document, in these columns."""
    return values.groupby(list(document))[_SIDES].mean()


def standard_errors(values: pd.DataFrame) -> dict[str, float]:
    """Compute standard errors of the mean difference of one task and metric.

    Args:
        values: a row per document and seed, with columns doc_id, cluster, baseline, calibrated.

    Returns:
        `standard_error` (NaN for one document); where documents fall into several clusters, also their number `clusters`
        and `clustered_standard_error`, which allows documents of one cluster to depend on each other.
    """
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
        values: a row per document and seed, with columns seed, baseline, calibrated.

    Returns:
        `seeds` (how many) and the sample standard deviations `baseline_sd`, `calibrated_sd` and `delta_sd`, NaN for one seed.
    """
    return _spread(values.groupby("seed", dropna=False)[_SIDES].mean())


def _spread(means: pd.DataFrame) -> dict[str, float]:
    """`seed_spread`, from a row for each seed."""
    return {
        "seeds": len(means),
        "baseline_sd": float(means["baseline"].std()),
        "calibrated_sd": float(means["calibrated"].std()),
        "delta_sd": float((means["calibrated"] - means["baseline"]).std()),
    }


def paired_statistics(baseline: np.ndarray, calibrated: np.ndarray) -> dict[str, float]:
    """Compare two values per document.

    Args:
        baseline, calibrated: float `[documents]`, in the same order.

    Returns:
        `n`, the means `baseline` and `calibrated`, `delta`, and its interval from `low` to `high`, the percentile bootstrap of
        the mean difference over documents (10,000 resamples, fixed seed). Where all values are 0 or 1, also the counts `both`,
        `only_baseline`, `only_calibrated` and `neither`, and the exact McNemar `p`.
    """
    difference = calibrated - baseline
    low, high = bootstrap_interval(difference)
    result: dict[str, float] = {
        "n": len(difference),
        "baseline": float(baseline.mean()),
        "calibrated": float(calibrated.mean()),
        "delta": float(difference.mean()),
        "low": low,
        "high": high,
    }
    if not np.isin(np.concatenate([baseline, calibrated]), (0, 1)).all():
        return result
    only_baseline = int(((baseline == 1) & (calibrated == 0)).sum())
    only_calibrated = int(((baseline == 0) & (calibrated == 1)).sum())
    both = int(((baseline == 1) & (calibrated == 1)).sum())
    return {
        **result,
        "both": both,
        "only_baseline": only_baseline,
        "only_calibrated": only_calibrated,
        "neither": len(difference) - both - only_baseline - only_calibrated,
        "p": exact_mcnemar(only_baseline, only_calibrated),
    }


def bootstrap_interval(difference: np.ndarray) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean; the mean itself where all values are equal."""
    return _interval(bootstrap_means(difference, SEED))


def bootstrap_means(difference: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """The means of 10,000 samples drawn with replacement, float `[resamples]`."""
    rng, n = np.random.default_rng(seed), len(difference)
    values, counts = np.unique(difference, return_counts=True)
    if len(values) == 1:
        return np.full(BOOTSTRAP_RESAMPLES, values[0])
    if len(values) <= _FEW_VALUES:  # how often each value is drawn is multinomial, which is far quicker than drawing documents
        return rng.multinomial(n, counts / n, size=BOOTSTRAP_RESAMPLES) @ values / n
    resampled = stats.bootstrap(
        (difference,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", batch=100, rng=rng
    )
    return resampled.bootstrap_distribution


def _interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def exact_mcnemar(only_baseline: int, only_act: int) -> float:
    """Two-sided exact McNemar test: are the documents that changed as likely to change one way as the other?"""
    changed = only_baseline + only_act
    return 1.0 if changed == 0 else float(stats.binomtest(only_act, changed, 0.5).pvalue)
