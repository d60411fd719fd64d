"""Validation: the best heads together, as few as cannot be told from the best number, on documents of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import Head, profile_from_heads
from act_eval.search.scores import PairedScores
from act_eval.search.selection import choose_head_set, head_set_sizes
from act_eval.search.stages import Stages


def validate_head_sets(
    stages: Stages, ranked: Sequence[Head], documents: Sequence[CalibrationDocument]
) -> tuple[list[Head], pd.DataFrame, float]:
    """Calibrate the best heads together, in several numbers, and choose a number.

    Args:
        stages: run what is asked of the model.
        ranked: candidates, the best first.
        documents: on which none of them was chosen.

    Returns:
        The chosen heads; a table with a row for each number of heads, with the columns `heads`, `chosen` (True in one row) and
        those of `PairedScores.changes`; and the cost in layer passes.
    """
    sizes = head_set_sizes(len(ranked))
    found = [stages.score_head_set(documents, profile_from_heads(ranked[:size])) for size in sizes]
    of_sets = [scores for _, scores, _ in found]
    order = found[0][0]
    tasks = np.array([documents[number].task for number in order])
    best = choose_head_set(np.stack([scores.correct for scores in of_sets]), np.stack([scores.margin for scores in of_sets]))
    rows = [
        {"heads": size, "chosen": place == best, **PairedScores(tasks, of_sets[0], scores).changes}
        for place, (size, scores) in enumerate(zip(sizes, of_sets, strict=True))
    ]
    return list(ranked[: sizes[best]]), pd.DataFrame(rows), sum(cost for _, _, cost in found)
