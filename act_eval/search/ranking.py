"""Heads ranked by first-order estimates alone, in stages.

The first stage estimates all heads from the baseline. Then the best of them are calibrated, and all are estimated anew: the
slope at the end of the way, where what heads do to each other counts. A head that is calibrated is worth the mean of its slope
at both ends (the trapezoid rule for what it contributes on the way), any other what it adds to those that are calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from act_eval.head_scores import ESTIMATE_TOGETHER
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import Head, SearchSpace, profile_from_heads
from act_eval.search.planned_costs import ESTIMATE_STAGES
from act_eval.search.results import Costs, MeasuredHeads
from act_eval.search.stages import Stages

_CALIBRATED_SHARE = 0.25  # of the heads that are worth something by the first stage


def rank_heads(
    stages: Stages, space: SearchSpace, documents: Sequence[CalibrationDocument], times: int = ESTIMATE_STAGES
) -> MeasuredHeads:
    """Measure the heads of a search space by estimates on some documents.

    Args:
        stages: run what is asked of the model.
        space: the heads.
        documents: at least one.
        times: how often all heads are estimated.
    """
    heads = space.heads
    first = stages.estimate_heads(documents)
    value, cost = first.mean_changes, first.cost
    for _ in range(times - 1):
        promising = _descending(value)
        calibrated = promising[: int(np.ceil(_CALIBRATED_SHARE * len(promising)))]
        if not calibrated:
            break
        again = stages.estimate_heads(documents, profile_from_heads([heads[number] for number in calibrated]))
        cost += again.cost
        alone, value = value, again.mean_changes.copy()
        value[calibrated] = (alone[calibrated] + value[calibrated]) / 2
    estimates, worth_together, affected_shares = (
        dict(zip(heads, values.tolist(), strict=True)) for values in (first.mean_changes, value, first.affected_shares)
    )
    return MeasuredHeads({}, Costs(first.full_pass, cost), estimates, affected_shares, worth_together)


def ranked_by_estimates(table: pd.DataFrame) -> list[Head]:
    """List the heads of a table that are worth something by estimates, the best first; see `results.head_table`."""
    heads = list(zip(table["layer"].tolist(), table["head"].tolist(), strict=True))
    return [heads[number] for number in _descending(table[ESTIMATE_TOGETHER].to_numpy())]


def _descending(value: np.ndarray) -> list[int]:
    """The places of values above 0, the greatest first."""
    return [int(number) for number in np.argsort(-value, kind="stable") if value[number] > 0]
