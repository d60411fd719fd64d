"""What a search will cost, known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from act_eval.search.batches import padded_tokens
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import SearchSpace
from act_eval.search.passes import PASSES_OF_ESTIMATES
from act_eval.search.settings import Mode, SearchSettings
from act_eval.search.validation_plan import ValidationPlan

ESTIMATE_STAGES = 2
MOST_PASSES = 13.0
"""What a search by estimates costs at most, in full passes, for any number of heads."""


def estimate_stages(parts: int) -> int:
    """How often all heads are estimated with each of a method's parts; a search with several keeps to the same passes."""
    return ESTIMATE_STAGES if parts == 1 else 1


def documents_to_tune(documents: int, mode: Mode) -> int:
    """How many of the documents that heads are scored on parameters are chosen on: a quarter where passes are few."""
    return max(1, documents // 4) if mode == "estimated" else documents


@dataclass(frozen=True)
class PlannedCosts:
    """What the parts of a search cost, at most, in full passes over the documents that heads are scored on.

    Attributes:
        documents: how many heads are scored on.
        heads: how many are searched.
        full_pass: layer passes of a full pass.
        estimates: of all heads, by a pass forwards and one backwards, which counts twice.
        baseline: scores without calibration.
        exact: exact scores of single heads, and those by which parameters of methods are chosen.
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
        mode: Mode,
        has_priors: bool,
    ) -> PlannedCosts:
        """Find what a search can cost at most.

        Args:
            settings: of the search.
            space: the heads that are searched.
            to_search: documents that heads are scored on.
            to_validate: documents that head sets are validated on.
            mode: which is not "auto".
            has_priors: whether label priors are subtracted, which takes a pass more before estimates.
        """
        batch_size, heads = settings.model.whole_batch_size(), len(space.heads)
        full_pass = float(space.num_layers * padded_tokens(to_search, batch_size))
        every_head = sum(1 - layer / space.num_layers for layer, _ in space.heads)
        estimate, parts = PASSES_OF_ESTIMATES + has_priors, len(settings.act.of_groups)
        estimates = {"exact": 0.0, "screened": parts * estimate, "estimated": parts * estimate_stages(parts) * estimate}[mode]
        exact = {"exact": every_head, "screened": min(every_head, max(1.0, settings.budget * heads / parts)), "estimated": 0.0}[
            mode
        ]
        to_tune = to_search[: documents_to_tune(len(to_search), mode)]
        tuned = space.num_layers * padded_tokens(to_tune, batch_size) / full_pass * sum(map(len, settings.tuned.values()))
        budget = max(0.0, MOST_PASSES - estimates - tuned) * full_pass if mode == "estimated" else None
        return cls(
            len(to_search),
            heads,
            full_pass,
            estimates=estimates,
            baseline=float(parts * (mode != "estimated")),
            exact=parts * exact + tuned,
            validation=_most_validation(heads, to_validate, batch_size, space.num_layers, budget) / full_pass,
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


def _most_validation(
    heads: int, documents: Sequence[CalibrationDocument], batch_size: int, num_layers: int, budget: float | None
) -> float:
    """What validation costs at most, in layer passes, however many of the heads turn out to be candidates."""
    if not documents:
        return 0.0
    numbers = {heads, *(2**power for power in range(heads.bit_length()))}
    return max(ValidationPlan.of_candidates(number, documents, batch_size, num_layers, budget).cost for number in numbers)
