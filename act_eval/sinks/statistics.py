"""What is known about the attention sinks of a model on some documents, as sums that do not grow with their number.

Terms, for one document of `n` tokens and one head: the *mean attention* `a[j]` that key `j` receives from the queries that see
it (`act_eval.column_means`); the *first token*, `j = 0`; a *sink*, any other key with `a[j]` above the threshold
(`alpha / n`, or absolute), the spared one included; *other tokens*, the rest. The key of token `j` lies at `[j, j + 1) / n` of
its input.

Maps of documents of different lengths are brought to one size by *relative position*: both axes are cut into equal bins. The
row of a bin is the mean over the queries that overlap it, weighted by the overlap, and a key's weight is shared among the bins
that the key overlaps. Rows keep their sum, 1; with as many bins as tokens the map stays as it is. The paper does not say how it
averages maps of different lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from act_eval.files import atomic_file

KINDS = ("first token", "other sinks", "other tokens")
FIRST_TOKEN, SINK, OTHER = range(len(KINDS))

DECADES, BINS_PER_DECADE = 6, 8
MEAN_EDGES = np.logspace(-DECADES, 0, DECADES * BINS_PER_DECADE + 1)


@dataclass(frozen=True)
class SinkStatistics:
    """Sums over documents. Statistics of the same model, with the same layers and bins, can be added.

    Attributes:
        layers: indices of the layers that were looked at, ascending.
        documents: how many.
        tokens: of all documents together.
        sinks: int64 `[layers, heads]`, number of sinks.
        documents_with_sinks: int64 `[layers, heads]`, number of documents with at least one sink.
        received: float64 `[layers, heads, kinds]`, the share of all attention that keys of each kind receive, summed over
            documents. Kinds: first token, sinks, other tokens.
        mean_histogram: int64 `[layers, heads, kinds, len(MEAN_EDGES) - 1]`, number of keys whose mean attention lies
            between two neighbouring `MEAN_EDGES`; smaller means count in the first interval.
        positions: float64 `[layers, heads, bins]`, number of sinks by relative position; a sink is shared among the bins that
            its token overlaps.
        token_sinks: int64 `[vocabulary]`, how often each token is a sink, over layers, heads and places.
        token_occurrences: int64 `[vocabulary]`, how often each token occurs, other than as the first token.
        before: float64 `[layers, bins, bins]`, attention maps by relative position, averaged over heads, summed over documents;
            None when no maps were asked for.
        after: the same of these very maps, calibrated.
    """

    layers: tuple[int, ...]
    documents: int
    tokens: int
    sinks: np.ndarray
    documents_with_sinks: np.ndarray
    received: np.ndarray
    mean_histogram: np.ndarray
    positions: np.ndarray
    token_sinks: np.ndarray
    token_occurrences: np.ndarray
    before: np.ndarray | None = None
    after: np.ndarray | None = None

    def __add__(self, other: SinkStatistics) -> SinkStatistics:
        """The statistics of both together. Raises ValueError when their layers or shapes differ."""
        names = [field.name for field in fields(self) if field.name != "layers"]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        if self.layers != other.layers or any(np.shape(one) != np.shape(two) for one, two in pairs.values()):
            raise ValueError("only statistics of the same model, layers and number of bins can be added.")
        sums: dict[str, Any] = {name: None if one is None else one + two for name, (one, two) in pairs.items()}
        return replace(self, **sums)

    @classmethod
    def total(cls, statistics: Iterable[SinkStatistics]) -> SinkStatistics:
        """The sum of some statistics, at least one."""
        return reduce(add, statistics)

    @property
    def bins(self) -> int:
        """Number of bins of relative position."""
        return int(self.positions.shape[-1])

    @property
    def sinks_per_document(self) -> np.ndarray:
        """Mean number of sinks in a document: float64 `[layers, heads]`."""
        return self.sinks / self.documents

    @property
    def received_shares(self) -> np.ndarray:
        """Mean share of attention that each kind of key receives: float64 `[layers, heads, kinds]`; kinds sum to 1."""
        return self.received / self.documents

    @property
    def map_before(self) -> np.ndarray:
        """The average attention map of each layer: float64 `[layers, bins, bins]`. Raises ValueError without maps."""
        return self._average(self.before)

    @property
    def map_after(self) -> np.ndarray:
        """The average of each layer's calibrated maps: float64 `[layers, bins, bins]`. Raises ValueError without maps."""
        return self._average(self.after)

    def _average(self, maps: np.ndarray | None) -> np.ndarray:
        if maps is None:
            raise ValueError("these statistics were collected without maps: collect them with maps=True.")
        return maps / self.documents

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All sums by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SinkStatistics:
        """Read what `arrays` gave."""
        values: dict[str, Any] = {"before": None, "after": None, **arrays}
        layers = tuple(values.pop("layers").tolist())
        return cls(layers, int(values.pop("documents")), int(values.pop("tokens")), **values)

    def save(self, path: Path) -> None:
        """Write all sums to an npz file."""
        with atomic_file(path) as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SinkStatistics:
        """Read the file that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls.from_arrays(dict(file))
