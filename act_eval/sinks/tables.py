"""Tables behind the figures, from statistics by name (of tasks, or of task families)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from act_eval.sinks.statistics import KINDS, MEAN_EDGES, SinkStatistics

_POSITION_BINS = 16


def received(statistics: Mapping[str, SinkStatistics]) -> pd.DataFrame:
    """What the first token, sinks and other tokens receive, over all layers and heads.

    Columns: `name`, `kind`, `keys` (how many, in all documents, layers and heads), `share` (of all attention), `low` and `high`
    (borders of a bin of mean attention), `share_of_keys` (keys of this kind that lie in the bin).
    """
    rows = []
    for name, of_name in statistics.items():
        shares, histogram = of_name.received_shares.mean((0, 1)), of_name.mean_histogram.sum((0, 1))
        for kind, share, counts in zip(KINDS, shares, histogram, strict=True):
            keys = int(counts.sum())
            for low, high, count in zip(MEAN_EDGES, MEAN_EDGES[1:], counts, strict=False):
                rows.append((name, kind, keys, share, low, high, count / keys if keys else 0.0))
    return pd.DataFrame(rows, columns=["name", "kind", "keys", "share", "low", "high", "share_of_keys"])


def positions(statistics: Mapping[str, SinkStatistics]) -> pd.DataFrame:
    """Where in their documents sinks are, over all layers and heads.

    Columns: `name`, `low` and `high` (borders of a bin of relative position), `sinks` (a sink is shared among the bins that its
    token overlaps), `share` (of the name's sinks).
    """
    rows = []
    for name, of_name in statistics.items():
        counts = of_name.positions.sum((0, 1))
        bins = _POSITION_BINS if len(counts) % _POSITION_BINS == 0 else len(counts)
        counts = counts.reshape(bins, -1).sum(-1)
        shares = counts / max(counts.sum(), 1)
        rows += [
            (name, place / bins, (place + 1) / bins, count, share)
            for place, (count, share) in enumerate(zip(counts, shares, strict=True))
        ]
    return pd.DataFrame(rows, columns=["name", "low", "high", "sinks", "share"])


def heads(statistics: SinkStatistics) -> pd.DataFrame:
    """A row for each head: `layer`, `head`, `sinks_per_document`, `documents_with_sinks` (a share), and the share of attention
    that each kind of key receives (`first_token`, `other_sinks`, `other_tokens`)."""
    layers, num_heads = statistics.sinks.shape
    shares = statistics.received_shares.reshape(-1, len(KINDS))
    return pd.DataFrame(
        {
            "layer": np.repeat(statistics.layers, num_heads),
            "head": np.tile(range(num_heads), layers),
            "sinks_per_document": statistics.sinks_per_document.ravel(),
            "documents_with_sinks": statistics.documents_with_sinks.ravel() / statistics.documents,
            **{kind.replace(" ", "_"): shares[:, place] for place, kind in enumerate(KINDS)},
        }
    )


def tokens(statistics: SinkStatistics, text: Callable[[int], str], top: int | None = None) -> pd.DataFrame:
    """The tokens that are sinks, most frequent first.

    Columns: `id`, `token` (readable), `sinks` (how often, over documents, layers and heads), `share` (of all sinks),
    `occurrences` (in the documents, other than as the first token), `rate` (how often an occurrence is a sink, over layers and
    heads).

    Args:
        statistics: over all documents.
        text: a token's text by its id.
        top: at most so many rows; all by default.
    """
    order = np.argsort(-statistics.token_sinks, kind="stable")[: np.count_nonzero(statistics.token_sinks)][:top]
    counts, occurrences = statistics.token_sinks[order], statistics.token_occurrences[order]
    return pd.DataFrame(
        {
            "id": order,
            "token": [readable(text(int(token))) for token in order],
            "sinks": counts,
            "share": counts / max(statistics.token_sinks.sum(), 1),
            "occurrences": occurrences,
            "rate": counts / (occurrences * statistics.sinks.size),
        }
    )


def document(statistics: SinkStatistics, texts: Sequence[str]) -> pd.DataFrame:
    """The tokens of one document: `position`, `token` (readable), `heads` (in how many heads of all layers it is a sink).

    Args:
        statistics: of this document alone, with a bin for each token.
        texts: of its tokens.
    """
    heads = statistics.positions.sum((0, 1)).round().astype(int)
    return pd.DataFrame({"position": range(len(texts)), "token": [readable(text) for text in texts], "heads": heads})


def readable(text: str) -> str:
    """A token's text with spaces, line breaks and tabs made visible."""
    for character, shown in ((" ", "␣"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(character, shown)
    return text
