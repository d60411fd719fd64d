"""Collect the statistics of one task, batch by batch, and keep on disk how far that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import run_in_parts
from act_eval.harness.processes import is_first_process, same_for_all
from act_eval.harness.scoring import Tokens
from act_eval.progress import StageProgress
from act_eval.sinks.collect import collect
from act_eval.sinks.statistics import SinkStatistics
from act_eval.sinks.store import BegunTask, StatisticsStore


class TaskCollection:
    """Looks at a task's documents, or goes on where an earlier run stopped.

    A sum over documents is kept, and how many of them it holds, so that what is on disk does not grow. Documents of similar
    length run together, longest first, so that a batch that does not fit into memory comes at once; it is halved then.

    Args:
        lm: the model.
        task: its name.
        prompts: the task's documents.
        layers: indices of the layers to look at.
        batch_size: documents that run at once.
        store: keeps what has been looked at.
        progress: is told of the tokens that have been looked at.
    """

    def __init__(
        self,
        lm: ACTLM,
        task: str,
        prompts: Sequence[Tokens],
        layers: Sequence[int],
        batch_size: int,
        store: StatisticsStore,
        progress: StageProgress,
    ) -> None:
        self._lm, self._task, self._layers, self._batch_size = lm, task, layers, batch_size
        self._store, self._progress = store, progress
        self._prompts = sorted(prompts, key=lambda prompt: -len(prompt))
        self._done = 0
        self._sum: SinkStatistics | None = None
        self._halved: set[Sequence[int]] = set()

    def run(self) -> SinkStatistics:
        """The statistics of all documents, from the disk where they are finished there.

        Raises:
            NonFiniteLogitsError: attention weights of a document are not numbers.
        """
        finished = same_for_all(self._store.load(self._task))
        if finished is not None:
            self._progress.skip(finished.tokens)
            return finished
        self._go_on()
        for start in range(0, len(self._prompts), self._batch_size):
            batch = range(start, min(start + self._batch_size, len(self._prompts)))
            run_in_parts(self._look_at, batch, self._halved)
        assert self._sum is not None
        if is_first_process():
            self._store.save(self._task, self._sum)
        return self._sum

    def _go_on(self) -> None:
        begun = same_for_all(self._store.load_begun(self._task))
        if begun is not None:
            self._done, self._sum = begun.done, begun.statistics
            self._halved = {range(*ends) for ends in begun.halved.tolist()}
            self._progress.skip(begun.statistics.tokens)

    def _look_at(self, batch: Sequence[int]) -> None:
        """Look at those documents of a batch that have not been looked at, together."""
        left = range(max(batch[0], self._done), batch[-1] + 1)
        if not left:
            return
        some = [self._prompts[number] for number in left]
        inputs = self._lm.tokenizer.pad({"input_ids": list(map(list, some))}, padding_side="left", return_tensors="pt")
        with self._lm.autocast():
            found = collect(self._lm.model, [inputs], self._lm.act, layers=self._layers)
        if np.isfinite(found.received).all():
            self._add(found, left.stop)
        elif len(left) > 1:
            self._halved.add(left)
            run_in_parts(self._look_at, left, self._halved)
        else:
            where = f"a document of {self._task} that begins with {self._lm.tokenizer.decode(some[0])[:60]!r}"
            raise self._lm.non_finite(some[0], where)

    def _add(self, found: SinkStatistics, done: int) -> None:
        """Add the statistics of documents to those before them, and keep how far that is."""
        self._done, self._sum = done, found if self._sum is None else self._sum + found
        if done < len(self._prompts) and is_first_process():
            halved = np.array([(part[0], part[-1] + 1) for part in self._halved], dtype=np.int64).reshape(-1, 2)
            self._store.save_begun(self._task, BegunTask(done, halved, self._sum))
        self._progress.advance(found.tokens)
