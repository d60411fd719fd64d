"""Variations: contexts of a batch that run again, each with a head profile of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from act_eval.harness.scoring import Tokens
from act_eval.profiles import HeadProfile
from act_eval.search.batches import DocumentBatch
from act_eval.search.heads import Head, profile_from_heads


@dataclass(frozen=True)
class Variation:
    """A context of a batch that runs with a head profile of its own.

    Attributes:
        context: its number in the batch.
        profile: the heads that are calibrated in it.
        scored_head: the number of its head among those that are scored, which is where its scores belong.
    """

    context: int
    profile: HeadProfile
    scored_head: int


class VariedRequest(NamedTuple):
    """A request of a variation.

    Attributes:
        row: the number of the variation among those that run side by side.
        number: of the request in the batch of documents.
        continuation: token ids.
    """

    row: int
    number: int
    continuation: Tokens


@dataclass(frozen=True)
class VariedBatch:
    """Variations that run side by side.

    Attributes:
        batch: the documents.
        variations: a row each.
        start_layer: the first decoder layer that runs; no profile names one below it.
    """

    batch: DocumentBatch
    variations: Sequence[Variation]
    start_layer: int

    @property
    def contexts(self) -> list[Tokens]:
        """Token ids of each row's context."""
        return [self.batch.contexts[variation.context] for variation in self.variations]

    @property
    def profiles(self) -> list[HeadProfile]:
        """The head profile of each row."""
        return [variation.profile for variation in self.variations]

    @cached_property
    def requests(self) -> list[VariedRequest]:
        """The requests of all rows."""
        return [
            VariedRequest(row, number, self.batch.continuations[number])
            for row, variation in enumerate(self.variations)
            for number in np.flatnonzero(self.batch.context_of_request == variation.context).tolist()
        ]

    @cached_property
    def longer(self) -> list[int]:
        """Which of the requests have a continuation of more than one token."""
        return [place for place, request in enumerate(self.requests) if len(request.continuation) > 1]

    @property
    def longer_requests(self) -> list[VariedRequest]:
        """The requests whose continuation has more than one token."""
        return [self.requests[place] for place in self.longer]

    @property
    def context_width(self) -> int:
        """Tokens of the longest context."""
        return max(map(len, self.contexts))

    @property
    def continuation_width(self) -> int:
        """How many tokens of the longest continuation are fed to the model, all but its last one, or 0."""
        return max((len(request.continuation) - 1 for request in self.longer_requests), default=0)

    @property
    def padded_tokens(self) -> int:
        """How many tokens run, padding included."""
        return len(self.variations) * self.context_width + len(self.longer) * self.continuation_width


def single_head_variations(batch: DocumentBatch, heads: Sequence[Head], layer: int, affected: np.ndarray) -> list[Variation]:
    """List the variations by heads of one layer, shortest contexts first, so that contexts of similar length run together.

    Args:
        batch: the documents.
        heads: all heads that are scored.
        layer: whose heads are taken.
        affected: bool `[contexts, heads of the layer]`, which contexts a head changes.
    """
    of_layer = [number for number, head in enumerate(heads) if head[0] == layer]
    return [
        Variation(context, profile_from_heads([heads[number]]), number)
        for context in np.argsort([len(tokens) for tokens in batch.contexts], kind="stable").tolist()
        for number in of_layer
        if affected[context, heads[number][1]]
    ]
