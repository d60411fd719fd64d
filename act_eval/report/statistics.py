"""Paired statistics: every difference is taken document by document."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from act_eval.report.load import ReportError

COMPARISON_COLUMNS = (
    "model",
    "settings",
    "task",
    "metric",
    "num_fewshot",
    "seeds",
    "n",
    "baseline",
    "act",
    "delta",
    "baseline_sd",
    "act_sd",
    "delta_sd",
    "low",
    "high",
    "both",
    "only_baseline",
    "only_act",
    "neither",
    "p",
)
BOOTSTRAP_RESAMPLES = 10_000
SEED = 0

_CELL = ["model", "settings", "is_baseline", "task", "num_fewshot", "seed", "limit"]
_HASHES = {"doc_hash": "documents", "prompt_hash": "prompts", "target_hash": "targets"}


def compare(runs: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Compare each calibrated run with the baseline of the same model, task, few-shot count, seed and limit.

    The newest run of a cell counts. Documents are matched by id, and their hashes must agree. Runs that differ in the seed of
    the few-shot sampler alone are averaged per document.

    Args:
        runs, samples: what `load` returned.

    Returns:
        A row per model, settings, task, few-shot count and metric (`COMPARISON_COLUMNS`): means, the difference `delta` with
        its paired bootstrap 95% interval `low` to `high`, and for metrics that are 0 or 1 per document the 2 x 2 counts and the
        exact McNemar p (NaN otherwise). `seeds` is the number of seeds averaged; `baseline_sd`, `act_sd` and `delta_sd` are
        the standard deviations over seeds (sample; NaN for one seed).

    Raises:
        ReportError: there is nothing to compare, or two runs that should be compared saw different documents, prompts,
            targets or task versions.
    """
    newest = runs.sort_values("date").groupby(_CELL, dropna=False).tail(1)
    baselines = newest[newest["is_baseline"]]
    calibrated = newest[~newest["is_baseline"]]
    keys = ["model", "task", "num_fewshot", "seed", "limit"]
    pairs = calibrated.merge(baselines, on=keys, suffixes=("", "_baseline"), how="inner")
    if pairs.empty:
        raise ReportError(
            "no calibrated run has a baseline of the same model, task, few-shot count, seed and limit: "
            "run both, for example with act-eval compare."
        )
    rows = []
    cell = ["model", "settings", "task", "num_fewshot"]
    for _, seeds in pairs.groupby([*cell, "limit"], dropna=False):
        values = pd.concat([_paired_values(pair, samples) for _, pair in seeds.iterrows()], ignore_index=True)
        for metric, metric_values in values.groupby("metric", sort=False):
            statistics = {**seed_spread(metric_values), **paired_statistics(*_mean_over_seeds(metric_values))}
            rows.append({**seeds.iloc[0][cell], "metric": metric, **statistics})
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    return table.sort_values(["model", "settings", "task", "metric"], ignore_index=True)


def _paired_values(pair: pd.Series, samples: pd.DataFrame) -> pd.DataFrame:
    """The two values of each document and metric: columns metric, doc_id, seed, baseline, act."""
    if pair["version"] != pair["version_baseline"]:
        raise ReportError(
            f"{pair['task']} changed from version {pair['version_baseline']} to {pair['version']} between the two runs: "
            "run both again."
        )
    sides = []
    for column in ("run_baseline", "run"):
        side = samples[(samples["run"] == pair[column]) & (samples["task"] == pair["task"])]
        if side.duplicated(["metric", "doc_id"]).any():
            raise ReportError(f"{pair['task']} has several samples per document (filters), which this report cannot pair yet.")
        sides.append(side)
    merged = sides[0].merge(sides[1], on=["metric", "doc_id"], how="outer", suffixes=("_baseline", "_act"), indicator=True)
    if (merged["_merge"] != "both").any():
        raise ReportError(f"baseline and ACT saw different documents of {pair['task']}: run both with the same --limit.")
    for column, name in _HASHES.items():
        if (merged[f"{column}_baseline"] != merged[f"{column}_act"]).any():
            raise ReportError(f"baseline and ACT saw different {name} of {pair['task']}: run both in the same way.")
    values = merged.rename(columns={"value_baseline": "baseline", "value_act": "act"}).assign(seed=pair["seed"])
    return values[["metric", "doc_id", "seed", "baseline", "act"]]


def _mean_over_seeds(values: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and ACT of each document."""
    means = values.groupby("doc_id")[["baseline", "act"]].mean()
    return means["baseline"].to_numpy(), means["act"].to_numpy()


def seed_spread(values: pd.DataFrame) -> dict[str, float]:
    """How much the means of one metric vary from seed to seed.

    Args:
        values: a row per document and seed, with columns seed, baseline, act.

    Returns:
        `seeds` (how many) and the sample standard deviations of `COMPARISON_COLUMNS`, NaN for one seed.
    """
    means = values.groupby("seed", dropna=False)[["baseline", "act"]].mean()
    return {
        "seeds": len(means),
        "baseline_sd": float(means["baseline"].std()),
        "act_sd": float(means["act"].std()),
        "delta_sd": float((means["act"] - means["baseline"]).std()),
    }


def paired_statistics(baseline: np.ndarray, act: np.ndarray) -> dict[str, float]:
    """Compare two values per document.

    Args:
        baseline, act: float `[documents]`, in the same order.

    Returns:
        The columns of `COMPARISON_COLUMNS` from `n` on. The interval is the percentile bootstrap of the mean difference over
        documents (10,000 resamples, fixed seed).
    """
    difference = act - baseline
    low, high = bootstrap_interval(difference)
    result: dict[str, float] = {
        "n": len(difference),
        "baseline": float(baseline.mean()),
        "act": float(act.mean()),
        "delta": float(difference.mean()),
        "low": low,
        "high": high,
    }
    if not np.isin(np.concatenate([baseline, act]), (0, 1)).all():
        return result
    only_baseline = int(((baseline == 1) & (act == 0)).sum())
    only_act = int(((baseline == 0) & (act == 1)).sum())
    both = int(((baseline == 1) & (act == 1)).sum())
    return {
        **result,
        "both": both,
        "only_baseline": only_baseline,
        "only_act": only_act,
        "neither": len(difference) - both - only_baseline - only_act,
        "p": exact_mcnemar(only_baseline, only_act),
    }


def bootstrap_interval(difference: np.ndarray) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean; the mean itself where all values are equal."""
    if len(np.unique(difference)) == 1:
        return float(difference[0]), float(difference[0])
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", batch=100, rng=np.random.default_rng(SEED)
    ).confidence_interval
    return float(interval.low), float(interval.high)


def exact_mcnemar(only_baseline: int, only_act: int) -> float:
    """Two-sided exact McNemar test: are the documents that changed as likely to change one way as the other?"""
    changed = only_baseline + only_act
    return 1.0 if changed == 0 else float(stats.binomtest(only_act, changed, 0.5).pvalue)
