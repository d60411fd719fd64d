"""What calibration does to generated text: how many replies are empty, and how long replies are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from act_eval.report.aggregation import MEAN
from act_eval.report.answers import REPLY_MEASURES, Answers
from act_eval.report.intervals import SIDES, PairedDocuments
from act_eval.report.pairing import Pairing
from act_eval.report.statistics import ROW, compare, in_order_of

REPLY_COLUMNS = (
    "model",
    "settings",
    "num_heads",
    "task",
    "num_fewshot",
    "limit",
    "measure",
    "seeds",
    "n",
    "baseline",
    "act",
    "delta",
    "low",
    "high",
    "baseline_median",
    "act_median",
    "only_baseline",
    "only_act",
    "p",
)


def compare_replies(pairing: Pairing, answers: Mapping[int, Answers]) -> pd.DataFrame:
    """Compare the replies of baseline and ACT on tasks that generate text, as the model wrote them, before lm-eval's filters.

    Several replies to one document, and runs of several few-shot seeds, are averaged per document.

    Args:
        pairing: what `pairing.pair` returned.
        answers: of runs, by their index in `load.Results.runs`.

    Returns:
        Two rows per model, settings, task, few-shot count and limit (`REPLY_COLUMNS`), sorted by these. Where `measure` is
        `empty`, numbers are shares of replies that hold nothing but white space; where it is `characters`, lengths without
        white space at both ends (samples do not hold tokens). `delta` has a paired interval as in `statistics.compare`;
        medians are over documents; `p` is as in `statistics.compare`, not corrected; `only_baseline` and `only_act` are
        documents with an empty reply, and missing where several replies are averaged.
    """
    tables = []
    for _, documents in pairing.documents.groupby([f"run_{side}" for side in SIDES]):
        runs = {side: answers[documents[f"run_{side}"].iloc[0]] for side in SIDES}
        sides = {side: of_run.replies.reindex(documents[f"line_{side}"]) for side, of_run in runs.items()}
        if any(of_side.isna().to_numpy().any() for of_side in sides.values()):
            continue
        for measure in REPLY_MEASURES:
            of_measure = {side: of_side[measure].to_numpy() for side, of_side in sides.items()}
            documents = documents.assign(filter="none", metric=measure, aggregation=MEAN, weight=1.0)
            tables.append(documents.assign(**of_measure))
    if not tables:
        return pd.DataFrame(columns=list(REPLY_COLUMNS))
    values = pd.concat(tables, ignore_index=True)
    compared = compare(pairing.with_values(values))
    compared = compared.join(in_order_of(_medians(values), compared, ROW)[["baseline_median", "act_median"]])
    compared = compared.rename(columns={"metric": "measure"})
    compared.loc[compared["measure"] != "empty", ["only_baseline", "only_act"]] = None  # of very short replies
    return compared[list(REPLY_COLUMNS)]


def _medians(values: pd.DataFrame) -> pd.DataFrame:
    """The medians over documents, for each row of a comparison of `values`."""
    rows = []
    for key, of_row in values.groupby(ROW, dropna=False):
        of_documents = PairedDocuments.of(of_row)
        medians = {"baseline_median": np.median(of_documents.baseline), "act_median": np.median(of_documents.calibrated)}
        rows.append({**dict(zip(ROW, key, strict=True)), **medians})
    return pd.DataFrame(rows)
