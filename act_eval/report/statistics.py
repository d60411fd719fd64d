"""Paired statistics: every difference is taken document by document."""

from __future__ import annotations

import numpy as np
import pandas as pd
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
    "both",
    "only_baseline",
    "only_act",
    "neither",
    "p",
    "p_holm",
    "noise",
)
BOOTSTRAP_RESAMPLES = 10_000
SEED = 0

_CELL = ["model", "settings", "num_heads", "task", "num_fewshot", "limit", "filter", "metric"]
_NOISE_CELL = [column for column in _CELL if column not in ("settings", "num_heads")]
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
        settings. `seeds` is the number of seeds averaged; `baseline_sd`, `act_sd` and `delta_sd` are the standard deviations
        over seeds (sample; missing for one seed). `noise` is the absolute difference of two baseline runs, where there are two.
        Where `paired` is False, one of the runs has no samples, and all but means and difference is missing.
    """
    rows = []
    for key, values in pairing.values.groupby(_CELL, dropna=False, observed=True):
        statistics = {**seed_spread(values), **paired_statistics(*_mean_over_seeds(values))}
        rows.append({**dict(zip(_CELL, key, strict=True)), "paired": True, **statistics})
    for key, scores in pairing.unpaired.groupby(_CELL, dropna=False, observed=True):
        means = scores[["baseline", "act"]].mean()
        means["delta"] = means["act"] - means["baseline"]
        rows.append({**dict(zip(_CELL, key, strict=True)), "paired": False, **_spread(scores), "n": scores["n"].max(), **means})
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS)).sort_values(_CELL, ignore_index=True)
    for _, family in table[table["p"].notna()].groupby(_FAMILY):
        table.loc[family.index, "p_holm"] = multipletests(family["p"], method="holm")[1]
    noise = pairing.noise.groupby(_NOISE_CELL, dropna=False, observed=True)[["baseline", "act"]].mean()
    noise = (noise["act"] - noise["baseline"]).abs().rename("noise").reset_index()
    return table.drop(columns="noise").merge(noise, on=_NOISE_CELL, how="left") if len(noise) else table


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
    return _spread(values.groupby("seed", dropna=False)[["baseline", "act"]].mean())


def _spread(means: pd.DataFrame) -> dict[str, float]:
    """`seed_spread`, from a row for each seed."""
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
        The columns of `COMPARISON_COLUMNS` from `n` to `p` that are not about seeds. The interval is the percentile bootstrap
        of the mean difference over documents (10,000 resamples, fixed seed).
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
    rng, n = np.random.default_rng(SEED), len(difference)
    values, counts = np.unique(difference, return_counts=True)
    if len(values) == 1:
        return float(values[0]), float(values[0])
    if len(values) <= _FEW_VALUES:  # how often each value is drawn is multinomial, which is far quicker than drawing documents
        means = rng.multinomial(n, counts / n, size=BOOTSTRAP_RESAMPLES) @ values / n
        low, high = np.quantile(means, (0.025, 0.975))
        return float(low), float(high)
    interval = stats.bootstrap(
        (difference,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", batch=100, rng=rng
    ).confidence_interval
    return float(interval.low), float(interval.high)


def exact_mcnemar(only_baseline: int, only_act: int) -> float:
    """Two-sided exact McNemar test: are the documents that changed as likely to change one way as the other?"""
    changed = only_baseline + only_act
    return 1.0 if changed == 0 else float(stats.binomtest(only_act, changed, 0.5).pvalue)
