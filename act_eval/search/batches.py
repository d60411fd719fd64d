"""Batches of calibration documents: which run together, and what of them runs once for several requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from act_eval.harness.scoring import Tokens
from act_eval.search.documents import CalibrationDocument
from act_eval.search.scores import Scores


@dataclass(frozen=True)
class DocumentBatch:
    """Documents side by side: their contexts are rows, and each request names its row.

    Attributes:
        documents: the documents.
        contexts: token ids of each context; choices of one document share theirs where it is the same.
        document_of_context: int64 `[contexts]`.
        context_of_request: int64 `[requests]`.
        continuations: token ids of each request's continuation.
        requests_of_document: the numbers of each document's requests, int64 `[requests of the document]` each.
    """

    documents: Sequence[CalibrationDocument]
    contexts: list[Tokens]
    document_of_context: np.ndarray
    context_of_request: np.ndarray
    continuations: list[Tokens]
    requests_of_document: list[np.ndarray]

    @classmethod
    def from_documents(cls, documents: Sequence[CalibrationDocument]) -> DocumentBatch:
        """Put documents side by side."""
        contexts: dict[tuple[int, Tokens], int] = {}
        context_of_request, continuations, requests_of_document = [], [], []
        for number, document in enumerate(documents):
            for context, continuation in document.requests:
                context_of_request.append(contexts.setdefault((number, context), len(contexts)))
                continuations.append(continuation)
            requests_of_document.append(np.arange(len(continuations) - len(document.requests), len(continuations)))
        return cls(
            documents,
            [context for _, context in contexts],
            np.array([number for number, _ in contexts]),
            np.array(context_of_request),
            continuations,
            requests_of_document,
        )

    @cached_property
    def longer_requests(self) -> np.ndarray:
        """The requests whose continuation has more than one token, int64 `[longer requests]`."""
        return np.array([number for number, tokens in enumerate(self.continuations) if len(tokens) > 1], dtype=int)

    @property
    def padded_tokens(self) -> int:
        """How many tokens one pass over the batch has, padding included."""
        remaining = [len(self.continuations[request]) - 1 for request in self.longer_requests]
        return len(self.contexts) * max(map(len, self.contexts)) + len(remaining) * max(remaining, default=0)

    def scores(self, log_probs: np.ndarray, greedy: np.ndarray) -> Scores:
        """Turn scores of requests into scores of documents.

        Args:
            log_probs: float64 `[..., requests]`, log-probability of each continuation.
            greedy: bool of the same shape, whether greedy decoding gives it.
        """
        correct = np.empty((*log_probs.shape[:-1], len(self.documents)), dtype=bool)
        margin = np.empty(correct.shape)
        choices = max(map(len, self.requests_of_document))
        of_choices = np.full((*log_probs.shape[:-1], choices, len(self.documents)), np.nan)
        for number, (document, requests) in enumerate(zip(self.documents, self.requests_of_document, strict=True)):
            values = log_probs[..., requests]
            of_choices[..., : len(requests), number] = values
            if not document.gold:
                correct[..., number], margin[..., number] = greedy[..., requests[0]], values[..., 0]
                continue
            gold = np.isin(np.arange(len(requests)), document.gold)
            correct[..., number] = gold[values.argmax(-1)]
            margin[..., number] = values[..., gold].max(-1) - values[..., ~gold].max(-1) if not gold.all() else 0.0
        return Scores(correct, margin, of_choices)


def batches_by_length(documents: Sequence[CalibrationDocument], batch_size: int) -> list[list[int]]:
    """Group documents of similar length, longest first, so that trouble with memory comes at once.

    Args:
        documents: in any order.
        batch_size: contexts of a batch; a document that has more is a batch of its own.

    Returns:
        The documents of each batch, by their numbers in `documents`.
    """
    batches: list[list[int]] = []
    room = 0
    for number in sorted(range(len(documents)), key=lambda number: -documents[number].length):
        contexts = len({context for context, _ in documents[number].requests})
        if contexts > room:
            batches.append([])
            room = batch_size
        batches[-1].append(number)
        room -= contexts
    return batches


def padded_tokens(documents: Sequence[CalibrationDocument], batch_size: int) -> int:
    """How many tokens one pass over some documents has, padding included."""
    return sum(
        DocumentBatch.from_documents([documents[number] for number in batch]).padded_tokens
        for batch in batches_by_length(documents, batch_size)
    )
