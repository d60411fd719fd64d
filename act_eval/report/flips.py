"""The documents whose outcome calibration changed, with what both runs answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from act_eval.report.aggregation import MEAN
from act_eval.report.answers import conditional_requests, gold_choice, is_multiple_choice, log_probabilities
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
            `margin_*`, for multiple choice, is the log-probability of the gold choice minus that of the best other, in nats.
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
            contents = _contents(of_flip, flip["metric"])
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


def _contents(samples: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Prompt, gold, answers and margins, as far as the samples of baseline and calibrated run tell."""
    baseline = samples["baseline"]
    arguments = conditional_requests(baseline)
    prompts = [str(request[0]) for request in arguments]
    if not is_multiple_choice(baseline):
        answers = {f"answer_{_COLUMN_ENDS[side]}": _text(sample["filtered_resps"]) for side, sample in samples.items()}
        margins = {f"margin_{_COLUMN_ENDS[side]}": math.nan for side in samples}
        return {"prompt": prompts[0], "gold": _text(baseline["target"]), **answers, **margins}
    endings = [str(request[1]) for request in arguments]
    choices = [ending.strip() for ending in (endings if len(set(prompts)) == 1 else prompts)]
    gold = gold_choice(baseline["target"], choices)
    contents: dict[str, Any] = {"prompt": prompts[0] if len(set(prompts)) == 1 else f"... {endings[0].strip()}"}
    contents["gold"] = _text(baseline["target"]) if gold is None else choices[gold]
    for side, sample in samples.items():
        scores = log_probabilities(sample, len(choices))
        lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
        answer = max(range(len(choices)), key=lambda choice: scores[choice] / lengths[choice])
        contents[f"answer_{_COLUMN_ENDS[side]}"] = choices[answer]
        others = [score for choice, score in enumerate(scores) if choice != gold]
        contents[f"margin_{_COLUMN_ENDS[side]}"] = scores[gold] - max(others) if gold is not None and others else math.nan
    return contents


def _text(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return " | ".join(_text(each) if isinstance(each, list) else str(each) for each in values)
