"""Which head sets are validated on which documents, so that it keeps to a budget.

Successive halving: all sets are scored on a first share of the documents, and the promising ones on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from act_eval.search.batches import padded_tokens
from act_eval.search.documents import CalibrationDocument
from act_eval.search.selection import head_set_sizes

_FIRST_SHARE = 0.25


@dataclass(frozen=True)
class ValidationPlan:
    """Head sets that are scored in one round, or in two.

    Attributes:
        sizes: how many of the best heads are tried together, ascending from 0.
        first: how many documents the first round has; all of them where there is no second.
        kept: how many sets go on to the second round, no heads among them.
        cost: layer passes, at most.
    """

    sizes: tuple[int, ...]
    first: int
    kept: int
    cost: float

    @classmethod
    def of_candidates(
        cls,
        candidates: int,
        documents: Sequence[CalibrationDocument],
        batch_size: int,
        num_layers: int,
        budget: float | None = None,
    ) -> ValidationPlan:
        """Plan to try the best of some candidates together: 0, 1, 2, 4, ... and all.

        Args:
            candidates: how many there are.
            documents: of the validation, in an order in which every stretch holds its share of each task.
            batch_size: contexts of a batch.
            num_layers: decoder layers of the model.
            budget: layer passes; without one, all sets are scored on all documents. Where it does not suffice for all sets on
                the first share and for one with no heads on the rest, the smallest sets are left out, but never the last.
        """
        sizes = tuple(head_set_sizes(candidates))
        whole = num_layers * padded_tokens(documents, batch_size)
        first = max(1, round(_FIRST_SHARE * len(documents)))
        if budget is None or len(sizes) * whole <= budget or first >= len(documents):
            return cls(sizes, len(documents), len(sizes), len(sizes) * whole)
        of_first, of_rest = (num_layers * padded_tokens(part, batch_size) for part in (documents[:first], documents[first:]))
        while len(sizes) > 2 and len(sizes) * of_first + 2 * of_rest > budget:
            sizes = (sizes[0], *sizes[2:])
        kept = min(len(sizes), max(2, int((budget - len(sizes) * of_first) // of_rest)))
        return cls(sizes, first, kept, len(sizes) * of_first + kept * of_rest)
