"""A search for a method that does something else in each group of heads: which head belongs where, and with which parameters.

Each head is measured with each part of the method, as in a search for that part alone, and belongs to the part with which it
does best. Parameters that are not given are then chosen one after the other, on the documents of the search: the value with
which all candidates together do best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from act_eval.attention.act import ACT
from act_eval.head_scores import ESTIMATE_TOGETHER
from act_eval.methods.base import Method
from act_eval.profiles import HeadGroup, HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import Head, profile_from_heads
from act_eval.search.scores import Scores
from act_eval.search.selection import value_columns
from act_eval.search.settings import Objective
from act_eval.search.stages import Stages

StagesOf = Callable[[ACT, str], Stages]
"""Makes the stages of an ACT, with a prefix for the names of their units."""


@dataclass(frozen=True)
class Division:
    """Which head belongs to which part of a method.

    Attributes:
        method: with its parts.
        part_of: by head, the number of its part.
    """

    method: Method
    part_of: Mapping[Head, int]

    def profile(self, heads: Sequence[Head]) -> HeadProfile:
        """Make a profile of some heads, which says what is done in each group; without groups where the method has no parts."""
        parts = self.method.parts
        if len(parts) == 1:
            return profile_from_heads(heads)
        return HeadProfile.of_groups(
            HeadGroup(
                profile_from_heads([head for head in heads if self.part_of[head] == number]).heads,
                part.name,
                part.parameters,
            )
            for number, part in enumerate(parts)
        )


def acts_of_parts(act: ACT) -> list[ACT]:
    """ACT with each part of its method alone."""
    return [act.with_settings(settings) for settings in act.calibration.of_groups]


def divide(tables: Sequence[pd.DataFrame], objective: Objective) -> tuple[pd.DataFrame, dict[Head, int]]:
    """Give each head to the part of a method with which it does best; with equal ones, to the first.

    Args:
        tables: of each part, see `results.head_table`, with the same heads in the same order.
        objective: of the search.

    Returns:
        A table with the rows of the best parts and a column `group`, the number of the part; and the same number by head.
    """
    by = [ESTIMATE_TOGETHER] if ESTIMATE_TOGETHER in tables[0] else value_columns(objective)
    values = np.stack([table[by].to_numpy(float) for table in tables])  # parts, heads, columns
    # Heads that were not scored on all documents are not comparable, and come last.
    values[:, :, 0][np.isnan(values[:, :, 0])] = -np.inf
    if ESTIMATE_TOGETHER not in tables[0]:
        documents = np.stack([table["documents"].to_numpy() for table in tables])
        values[:, :, 0][documents < documents.max()] = -np.inf
    best = [max(range(len(tables)), key=lambda part: (*values[part, head].tolist(), -part)) for head in range(values.shape[1])]
    rows = [tables[part].iloc[[head]].assign(group=part) for head, part in enumerate(best)]
    table = pd.concat(rows, ignore_index=True)
    heads = [(int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True)]
    return table, dict(zip(heads, best, strict=True))


def tune(
    act: ACT,
    division: Division,
    candidates: Sequence[Head],
    tuned: Mapping[str, Sequence[float]],
    documents: Sequence[CalibrationDocument],
    stages_of: StagesOf,
    objective: Objective,
) -> tuple[ACT, float]:
    """Choose parameters of a method, one after the other.

    Args:
        act: with the method as it was asked for.
        division: of the heads.
        candidates: heads that are calibrated together meanwhile; without any, nothing is chosen.
        tuned: by name of a parameter, the values that are tried; the first one is taken where others are no better.
        documents: at least one.
        stages_of: see there.
        objective: of the search.

    Returns:
        ACT with the parameters, and what it cost in layer passes.
    """
    cost = 0.0
    found: dict[Method, tuple[float, ...]] = {}
    for name, values in tuned.items() if candidates else ():
        methods = [replace(act.method, **{name: value}) for value in values]
        for method in methods:
            if method not in found:
                profile = replace(division, method=method).profile(candidates)
                stages = stages_of(act.with_method(method), "")
                scores, of_one = stages.score_to_tune(documents, profile, method.parameters)
                found[method], cost = _value(scores, objective), cost + of_one
        act = act.with_method(max(methods, key=lambda method: found[method]))
    return act, cost


def _value(scores: Scores, objective: Objective) -> tuple[float, ...]:
    """What a search wants to rise, over all documents; where the first one is equal, the next counts."""
    margin = float(scores.margin.mean())
    return (float(scores.correct.mean()), margin) if objective == "accuracy" else (margin,)
