"""How many requests run in one batch, as `batch_size` says: a number, or what fits into memory (`auto`, `auto:N`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate import find_executable_batch_size
from lm_eval.models.huggingface import HFLM

from act_eval.harness.memory import halved
from act_eval.harness.scoring import Answer, Context

logger = logging.getLogger(__name__)


class ContextBatches:
    """Contexts that are scored batch by batch.

    Args:
        lm: says what was asked for, by `batch_size`, `max_batch_size` and `batch_schedule`, and which processes there are.
        contexts: those that this process scores, in order.
        score: scores the contexts of a batch, with a number of continuations at once, and gives the answers by the index of
            their request; with `shares_beginnings=False` also where contexts begin alike as if they did not.
    """

    def __init__(self, lm: HFLM, contexts: Sequence[Context], score: Callable[..., dict[int, Answer]]) -> None:
        self._lm, self._contexts, self._score = lm, contexts, score
        self._measured: dict[int, int] = {}

    def answers(self, batch_size: int | None = None) -> Iterator[dict[int, Answer]]:
        """Score all contexts, in smaller batches from where one does not fit into memory; gives the answers of each batch.

        Args:
            batch_size: contexts of a batch, in place of what was asked for.

        Raises:
            RuntimeError: see `halved`.
        """
        self._agree()
        position, most = 0, len(self._contexts)
        while position < len(self._contexts):
            size = min(most, batch_size or self._size_at(position))
            try:
                answers = self._score(self._contexts[position : position + size], size)
            except RuntimeError as error:
                most = halved(error, size)
                continue
            yield answers
            position += size

    def _agree(self) -> None:
        """Measure the batch size once for several processes, which may have different numbers of contexts, or none."""
        if self._lm.world_size > 1 and self._lm.batch_size == "auto":
            own = self._largest_for(self._contexts[0]) if self._contexts else self._lm.max_batch_size
            self._measured[0] = int(self._lm.all_gather(torch.tensor([own], device=self._lm.device)).min())

    def _size_at(self, position: int) -> int:
        """Choose the batch size for the contexts from a position on; with `auto:N` it is measured anew N times on the way."""
        if self._lm.batch_size != "auto":
            return int(self._lm.batch_size)
        part = 0 if self._lm.world_size > 1 else int(position * self._lm.batch_schedule / len(self._contexts))
        if part not in self._measured:
            if self._measured.get(part - 1) == self._lm.max_batch_size:
                self._measured[part] = self._lm.max_batch_size
            else:
                self._measured[part] = self._largest_for(self._contexts[position])
        return self._measured[part]

    def _largest_for(self, context: Context) -> int:
        """Measure how many contexts of this size can be scored at once, on the path that really runs.

        Those of a batch may begin alike, or not: it is measured as if they did not.
        """

        @find_executable_batch_size(starting_batch_size=self._lm.max_batch_size)
        def probe(batch_size: int) -> int:
            self._score([context] * batch_size, batch_size, shares_beginnings=False)
            return batch_size

        batch_size = probe()
        logger.info("Largest batch size: %d", batch_size)
        return batch_size


def batch_size_for_longest(lm: HFLM, waiting: Sequence[int]) -> int:
    """Choose the batch size for requests as long as the model's window; with `auto`, as `hf` measures it.

    Args:
        lm: says what was asked for; where there are several processes, all must call this.
        waiting: the requests that this process runs.
    """
    if lm.batch_size != "auto":
        return int(lm.batch_size)
    return lm._detect_batch_size() if waiting or lm.world_size > 1 else 1
