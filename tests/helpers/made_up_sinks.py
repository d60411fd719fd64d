"""Statistics of sinks and scores of heads, made up, for models of any shape."""

from __future__ import annotations

import numpy as np
import pandas as pd

from act_eval.sinks.statistics import MEAN_EDGES, SinkStatistics

SHAPES = ((4, 4), (18, 4), (30, 9), (80, 64))  # layers and heads: a tiny model, Gemma 3 270M, SmolLM2-135M and Llama 2 70B
BINS, VOCABULARY, DOCUMENTS = 64, 100, 20


def made_up_statistics(layers: int, heads: int, seed: int = 0) -> SinkStatistics:
    """Statistics of 20 documents; later layers have more sinks, and most lie at the start and the end of a document."""
    generator = np.random.default_rng(seed)
    sinks = generator.poisson(DOCUMENTS * np.linspace(0.5, 4, layers)[:, None] * generator.uniform(0, 2, (layers, heads)))
    middles = (np.arange(BINS) + 0.5) / BINS
    places = np.exp(-10 * middles) + np.exp(20 * (middles - 1)) + generator.uniform(0, 0.05, BINS)
    maps = np.tril(generator.gamma(0.5, size=(layers, BINS, BINS)))
    maps[:, :, 0] += 2 * generator.uniform(size=(layers, 1))
    after = maps * np.where(places > 0.5, 0.7, 1)
    of_kinds = [_histogram(generator, (layers, heads), *kind) for kind in ((20, -0.4), (60, -0.9), (1200, -2.5))]
    token_sinks = generator.permutation(sinks.sum() * 0.7 ** np.arange(VOCABULARY)).astype(int)
    return SinkStatistics(
        layers=tuple(range(layers)),
        documents=DOCUMENTS,
        tokens=64 * DOCUMENTS,
        sinks=sinks,
        documents_with_sinks=np.minimum(sinks, DOCUMENTS),
        received=DOCUMENTS * generator.dirichlet((4, 2, 4), (layers, heads)),
        mean_histogram=np.stack(of_kinds, axis=2),
        positions=sinks[..., None] * places / places.sum(),
        token_sinks=token_sinks,
        token_occurrences=token_sinks * 3 // sinks.size + 1,
        before=DOCUMENTS * maps / maps.sum(-1, keepdims=True),
        after=DOCUMENTS * after / after.sum(-1, keepdims=True),
    )


def _histogram(generator: np.random.Generator, shape: tuple[int, int], keys: int, peak: float) -> np.ndarray:
    """Counts of keys whose mean attention is log-normal around 10 ** peak: int64 `[*shape, intervals]`."""
    share = np.exp(-0.5 * ((np.log10(MEAN_EDGES[1:]) - peak) / 0.6) ** 2)
    return generator.multinomial(keys, share / share.sum(), shape)


def made_up_head_scores(layers: int, heads: int) -> pd.DataFrame:
    """What a search writes that left out the first layer and scored all but every sixth head."""
    generator = np.random.default_rng(layers * heads)
    table = pd.DataFrame(list(np.ndindex(layers, heads))[heads:], columns=["layer", "head"])
    table["documents"] = np.where(table.index % 6 == 5, 0, 60)
    for column, spread in (("accuracy_change", 0.01), ("margin_change", 0.04)):
        table[column] = np.where(table["documents"] > 0, generator.normal(0, spread, len(table)), np.nan)
    return table
