"""How much is computed at once, and when a shorter way to the same numbers is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ComputeLimits:
    """Bounds on memory and loss of precision. They decide how calibrated outputs are computed, not what they are.

    Outputs agree up to rounding whatever the limits, but for a safe factor that is too large. So they are no setting of ACT,
    and belong to no result.

    Attributes:
        block_elements_on_cpu: how many scores (queries times keys, of all heads in a block) are worked on at once on a CPU;
            2**20 in float32 are 4 MiB, which stay in its caches.
        block_elements: as many on any other device, where larger blocks keep it busy.
        map_elements: prefills are computed from whole maps (`whole_maps`) where those of the query heads of a key/value head
            have at most so many weights, and fit into a block; 0 for never.
        rows_of_block: queries that a block has room for in each head, where the sequence has so many; bounds how many heads
            are worked on together.
        mask_elements: how many entries of an attention mask are compared at once when it is read.
        safe_factor: a row of attention whose keys outside the sinks are scaled by at most this is computed from the base
            backend's output, in models of float32 and float64; above it, that would lose digits.
        safe_factor_in_half_precision: the same in models of other dtypes, whose base backend rounds its output more.
        share_of_heads_to_pick: decode steps pick the heads with sinks out of the cache where they are less than this share of
            all heads and rows, and else compute all heads anew (above 1 they always pick); so do prefills from whole maps with
            the heads that are calibrated.
    """

    block_elements_on_cpu: int = 2**20
    block_elements: int = 2**26
    map_elements: int = 2**20
    rows_of_block: int = 64
    mask_elements: int = 2**22
    safe_factor: float = 10.0
    safe_factor_in_half_precision: float = 2.0
    share_of_heads_to_pick: float = 0.1

    def elements(self, device: torch.device) -> int:
        """How many scores are worked on at once on a device."""
        return self.block_elements_on_cpu if device.type == "cpu" else self.block_elements

    def row_blocks(self, n: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
        """Split `n` rows into blocks that hold a bounded number of elements, or one row each."""
        size = max(1, self.elements(device) // max(1, elements_per_row))
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def largest_safe_factor(self, dtype: torch.dtype) -> float:
        """Up to which factor on its other keys a row may be computed from the base output, in a model of that dtype."""
        return self.safe_factor if dtype in (torch.float32, torch.float64) else self.safe_factor_in_half_precision


DEFAULT_LIMITS = ComputeLimits()
