"""How lm-eval makes a score of what samples hold, where that is a mean, or follows from one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

MEAN = "mean"
NANMEAN = "nanmean"

# By lm-eval's name of the aggregation, what is made of the mean of all values, or of their sum over that of all weights:
_OF_THE_MEAN: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        MEAN: lambda mean: mean,
        "perplexity": lambda mean: np.exp(-mean),
        "weighted_perplexity": lambda mean: np.exp(-mean),
        "bits_per_byte": lambda mean: -mean / np.log(2),
    }
)
_WEIGHTED = ("weighted_perplexity", "bits_per_byte")  # a sample holds a value and a weight

# What lm-eval takes for metrics where the task's config names no aggregation:
_OF_METRICS = MappingProxyType(
    {
        "perplexity": "perplexity",
        "word_perplexity": "weighted_perplexity",
        "byte_perplexity": "weighted_perplexity",
        "bits_per_byte": "bits_per_byte",
    }
)


METRICS_OF_LIKELIHOOD = tuple(_OF_METRICS)


def aggregations(metric_list: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The aggregation of each metric of a task, by name.

    Args:
        metric_list: of the task's config; a function there stands as its text.
    """
    named = {str(entry["metric"]): entry.get("aggregation") for entry in metric_list}
    return {metric: str(name) if name else aggregation_of(metric) for metric, name in named.items()}


def aggregation_of(metric: str) -> str:
    """The aggregation of a metric for which no config names one."""
    return _OF_METRICS.get(metric, MEAN)


def has_weights(aggregation: str) -> bool:
    """Whether samples hold a value and a weight for each document."""
    return aggregation in _WEIGHTED


def known(aggregation: str) -> str:
    """The aggregation itself where it is known here, else the mean, which most functions of tasks are."""
    return aggregation if aggregation in _OF_THE_MEAN else MEAN


def aggregate(values: np.ndarray, weights: np.ndarray, aggregation: str, axis: int = -1) -> np.ndarray:
    """The score of documents, as lm-eval computes it.

    Args:
        values: float `[..., documents]`.
        weights: the same shape; ones where the aggregation has no weights.
        aggregation: a name of lm-eval's that is `known`.
        axis: that of the documents.
    """
    return _OF_THE_MEAN[aggregation](values.sum(axis=axis) / weights.sum(axis=axis))
