"""The documents whose outcome calibration changed, with what both runs answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from act_eval.report.aggregation import MEAN
from act_eval.report.answers import (
    MUTUAL_INFORMATION,
    conditional_requests,
    gold_choice,
    is_multiple_choice,
    log_probabilities,
    possible_lengths,
)
from act_eval.report.load import ReportError, read_samples
from act_eval.report.pairing import Pairing

FLIP_COLUMNS = (
    "model",
    "settings",
    "task",
    "num_fewshot",
    "seed",
    "filter",
    "metric",
    "doc_id",
    "change",
    "prompt",
    "gold",
    "answer_baseline",
    "answer_act",
    "margin_baseline",
    "margin_act",
)
_ROW_OF_COMPARISON = ["model", "settings", "task", "num_fewshot", "limit", "filter", "metric"]
_COLUMN_ENDS = {"baseline": "baseline", "calibrated": "act"}  # of the two sides in `FLIP_COLUMNS`


@dataclass(frozen=True)
class Flips:
    """Documents that one run had right and the other had wrong.

    Attributes:
        documents: a row for each (`FLIP_COLUMNS`). `change` is `gained` where ACT is right and `lost` where the baseline is;
            `margin_*`, for multiple choice, is how far the gold choice is ahead of the best other in what the metric ranks
            choices by: log-probabilities in nats, for `acc_norm` per character, for `acc_bytes` per byte, and for
            `acc_mutual_info` minus those without context. Where the logged outcomes do not follow from these, `answer_*` of
            multiple choice is empty, and `margin_*` missing.
        total: how many there are in all; more than rows where some were left out.
    """

    documents: pd.DataFrame
    total: int


def find_flips(pairing: Pairing, runs: pd.DataFrame, most: int) -> Flips:
    """Read the documents whose outcome, 0 or 1, differs between baseline and ACT.

    Args:
        pairing: what `pairing.pair` returned.
        runs: `load.Results.runs`, which says where the samples are.
        most: how many documents are read at most, the first of each row of the comparison.

    Raises:
        ReportError: a sample does not hold what lm-eval writes.
    """
    values = pairing.values
    outcomes = (values["aggregation"] == MEAN) & values["baseline"].isin((0, 1)) & values["calibrated"].isin((0, 1))
    changed = values[outcomes & (values["baseline"] != values["calibrated"])]
    by_row = changed.sort_values([*_ROW_OF_COMPARISON, "doc_id", "seed"]).groupby(
        _ROW_OF_COMPARISON, dropna=False, observed=True, sort=False
    )
    kept = by_row.head(max(1, most // max(1, by_row.ngroups))).head(most)
    samples = {side: _samples(kept, side, runs) for side in _COLUMN_ENDS}
    rows = []
    for _, flip in kept.iterrows():
        of_flip = {side: samples[side][flip[f"run_{side}"], flip[f"line_{side}"]] for side in _COLUMN_ENDS}
        try:
            contents = _contents(of_flip, flip["metric"], {side: flip[side] == 1 for side in _COLUMN_ENDS})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            file = runs.loc[flip["run_calibrated"], "samples_file"]
            reason = (
                f"document {flip['doc_id']} of {flip['task']} has no requests and answers as lm-eval writes them ({error!r})"
            )
            raise ReportError(f"{reason}, in {file} or in its baseline: run both again.") from error
        change = "gained" if flip["calibrated"] > flip["baseline"] else "lost"
        rows.append({**flip[[column for column in FLIP_COLUMNS if column in flip]], "change": change, **contents})
    return Flips(pd.DataFrame(rows, columns=list(FLIP_COLUMNS)), len(changed))


def _samples(flips: pd.DataFrame, side: str, runs: pd.DataFrame) -> dict[tuple[int, int], dict[str, Any]]:
    """Samples by run and line."""
    samples: dict[tuple[int, int], dict[str, Any]] = {}
    for run in sorted(set(flips[f"run_{side}"])):
        lines = flips.loc[flips[f"run_{side}"] == run, f"line_{side}"]
        of_run = read_samples(Path(str(runs.loc[run, "samples_file"])), lines)
        samples |= {(run, line): sample for line, sample in of_run.items()}
    return samples


def _contents(samples: Mapping[str, Mapping[str, Any]], metric: str, is_right: Mapping[str, bool]) -> dict[str, Any]:
    """Prompt, gold, answers and margins, as far as the samples of baseline and calibrated run tell.

    Args:
        samples: by side.
        metric: a name of lm-eval's.
        is_right: the logged outcomes by it, by side.
    """
    baseline = samples["baseline"]
    arguments = conditional_requests(baseline)
    prompts = [str(request[0]) for request in arguments]
    if not is_multiple_choice(baseline):
        answers = {f"answer_{_COLUMN_ENDS[side]}": _text(sample["filtered_resps"]) for side, sample in samples.items()}
        margins = {f"margin_{_COLUMN_ENDS[side]}": math.nan for side in samples}
        return {"prompt": prompts[0], "gold": _text(baseline["target"]), **answers, **margins}
    endings = [str(request[1]) for request in arguments]
    texts = endings if len(set(prompts)) == 1 else prompts
    choices = [text.strip() for text in texts]
    gold = gold_choice(baseline["target"], choices)
    contents: dict[str, Any] = {"prompt": prompts[0] if len(set(prompts)) == 1 else f"... {endings[0].strip()}"}
    contents["gold"] = _text(baseline["target"]) if gold is None else choices[gold]
    scores = _scores_of_choices(samples, metric, texts, gold, is_right)
    for side in samples:
        of_side = scores.get(side, [])
        contents[f"answer_{_COLUMN_ENDS[side]}"] = choices[int(np.argmax(of_side))] if of_side else ""
        others = [score for choice, score in enumerate(of_side) if choice != gold]
        contents[f"margin_{_COLUMN_ENDS[side]}"] = of_side[gold] - max(others) if gold is not None and others else math.nan
    return contents


def _scores_of_choices(
    samples: Mapping[str, Mapping[str, Any]],
    metric: str,
    choices: Sequence[str],
    gold: int | None,
    is_right: Mapping[str, bool],
) -> dict[str, list[float]]:
    """What a metric ranks choices by, by side; nothing where the logged outcomes do not follow from it.

    Args:
        samples, metric, is_right: see `_contents`.
        choices: with white space.
        gold: the right choice; where it is not known, outcomes say nothing.
    """
    of_sides = {side: log_probabilities(sample, len(choices)) for side, sample in samples.items()}
    if metric == MUTUAL_INFORMATION:
        for side, sample in samples.items():
            alone = [float(response[0]) for response in sample["filtered_resps"][len(choices) :]]
            if len(alone) != len(choices):
                return {}
            of_sides[side] = [score - of_choice for score, of_choice in zip(of_sides[side], alone, strict=True)]
    for lengths in possible_lengths(metric, choices):
        scores = {side: [score / length for score, length in zip(of_sides[side], lengths, strict=True)] for side in of_sides}
        if gold is None or all((int(np.argmax(scores[side])) == gold) == is_right[side] for side in scores):
            return scores
    return {}


def _text(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return " | ".join(_text(each) if isinstance(each, list) else str(each) for each in values)
