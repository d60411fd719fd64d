"""Going on with smaller batches when a batch does not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from accelerate.utils.memory import should_reduce_batch_size

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Halved(Protocol):
    """Which lists of items had to be halved, for work that goes on after it was stopped; a set of ranges is one."""

    def __contains__(self, items: Any, /) -> bool:
        """Whether these items did not fit into memory together."""

    def add(self, items: Any, /) -> None:
        """Note that these items do not fit into memory together."""


def halved(error: RuntimeError, batch_size: int) -> int:
    """Halve a batch size, rounded up, after a batch of that size ran out of memory, and say so in a warning.

    Args:
        error: what running the batch raised.
        batch_size: rows of that batch.

    Raises:
        RuntimeError: the error itself, when it is not about memory, or there is nothing to halve.
    """
    if batch_size == 1 or not should_reduce_batch_size(error):
        raise error
    half = (batch_size + 1) // 2
    logger.warning("A batch of %d does not fit into memory: going on with %d.", batch_size, half)
    return half


def run_in_parts(run: Callable[[Sequence[Item]], Result], items: Sequence[Item], known: Halved | None = None) -> list[Result]:
    """Run some items together; in halves, and in halves of these, where they do not fit into memory.

    Args:
        run: gives one result for the items that it gets.
        items: at least one.
        known: which items are known not to fit, and where that is noted; nothing is known, and nothing noted, without.

    Returns:
        The results of the parts, in order.

    Raises:
        RuntimeError: see `halved`.
    """
    if known is None or items not in known:
        try:
            return [run(items)]
        except RuntimeError as error:
            halved(error, len(items))
        # Not inside the handler, where the error would keep alive what the failed run holds.
        if known is not None:
            known.add(items)
    half = (len(items) + 1) // 2
    return [result for part in (items[:half], items[half:]) for result in run_in_parts(run, part, known)]
