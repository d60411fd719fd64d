"""What a search will cost, known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from act_eval.search.batches import DocumentBatch, batches_by_length
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import SearchSpace
from act_eval.search.selection import head_set_sizes
from act_eval.search.settings import SearchSettings


@dataclass(frozen=True)
class PlannedCosts:
    """What the parts of a search cost, at most, in full passes over the documents that heads are scored on.

    Attributes:
        documents: how many heads are scored on.
        heads: how many are searched.
        full_pass: layer passes of a full pass.
        estimates: of all heads, by a pass forwards and one backwards, which counts twice.
        baseline: scores without calibration.
        exact: exact scores of single heads.
        validation: scores of head sets.
    """

    documents: int
    heads: int
    full_pass: float
    estimates: float
    baseline: float
    exact: float
    validation: float

    @classmethod
    def of_search(
        cls,
        settings: SearchSettings,
        space: SearchSpace,
        to_search: Sequence[CalibrationDocument],
        to_validate: Sequence[CalibrationDocument],
        is_screened: bool,
    ) -> PlannedCosts:
        """Find what a search can cost at most.

        Args:
            settings: of the search.
            space: the heads that are searched.
            to_search: documents that heads are scored on.
            to_validate: documents that head sets are validated on.
            is_screened: whether heads are estimated first.
        """
        batch_size, heads = settings.model.whole_batch_size(), len(space.heads)
        full_pass, validation_pass = (
            space.num_layers * padded_tokens(documents, batch_size) for documents in (to_search, to_validate)
        )
        every_head = sum(1 - layer / space.num_layers for layer, _ in space.heads)
        return cls(
            len(to_search),
            heads,
            full_pass,
            estimates=3.0 if is_screened else 0.0,
            baseline=1.0,
            exact=min(every_head, max(1.0, settings.budget * heads)) if is_screened else every_head,
            validation=len(head_set_sizes(heads)) * validation_pass / full_pass,
        )

    @property
    def total(self) -> float:
        """All parts together."""
        return self.estimates + self.baseline + self.exact + self.validation

    def summary(self) -> str:
        """What to tell the user, in a line."""
        names = {"estimates": "estimates", "baseline": "baseline", "exact": "exact scores", "validation": "validation"}
        parts = ", ".join(f"{text} {cost:.1f}" for name, text in names.items() if (cost := getattr(self, name)))
        return (
            f"The search costs at most {self.total:.1f} full passes over {self.documents} documents ({parts}); one for each "
            f"head would cost {self.heads}."
        )


def padded_tokens(documents: Sequence[CalibrationDocument], batch_size: int) -> int:
    """How many tokens one pass over some documents has, padding included."""
    return sum(
        DocumentBatch.from_documents([documents[number] for number in batch]).padded_tokens
        for batch in batches_by_length(documents, batch_size)
    )
