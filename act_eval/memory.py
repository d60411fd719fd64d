"""Going on with smaller batches when a batch does not fit into memory."""

from __future__ import annotations

import logging

from accelerate.utils.memory import should_reduce_batch_size

logger = logging.getLogger(__name__)


def halved(error: RuntimeError, batch_size: int) -> int:
    """Half of a batch size, rounded up, after a batch of that size ran out of memory; says so in a warning.

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
