"""Accuracy after a model's preference for some labels is taken out, and how often each label is predicted and right.

A calibration that helps may do no more than shift which label a model prefers, whatever the text. Batch calibration (Zhou et
al., "Batch Calibration", ICLR 2024) takes such a preference out of the scores that are there: it subtracts from the
log-probability of each label the logarithm of the label's mean probability over other documents. No forward pass is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp, softmax

from act_eval.report.aggregation import MEAN
from act_eval.report.answers import NO_GOLD, Answers, possible_lengths
from act_eval.report.intervals import PairedDocuments
from act_eval.report.pairing import VALUE_COLUMNS, Pairing
from act_eval.report.statistics import (
    COMPARISON_COLUMNS,
    GROUP_COLUMNS,
    ROW,
    compare,
    in_order_of,
    macro_averages,
    paired_statistics,
    public_table,
)
from act_eval.task_groups import TaskGroup

ACCURACIES = ("acc", "acc_norm")  # lm-eval's names: of the likeliest choice, and of the likeliest one per character
SEED = 0  # of the halves

_NUMBERS_BEFORE = ("baseline", "act", "delta", "low", "high")
_BEFORE = tuple(f"{name}_before" for name in _NUMBERS_BEFORE)
LABEL_PRIOR_COLUMNS = (*COMPARISON_COLUMNS, "labels", *_BEFORE)
LABEL_PRIOR_GROUP_COLUMNS = (*GROUP_COLUMNS, *_BEFORE)

_ROW_OF_AVERAGES = [column if column != "task" else "group" for column in ROW]
_PAIR = ["run_baseline", "run_calibrated", "filter", "metric"]
_SIDES = {"baseline": "baseline", "calibrated": "act"}  # of a pairing, and what they are called in tables
_COUNTS = ("probability", "predicted_before", "right_before", "predicted_after", "right_after")
LABEL_COLUMNS = (*ROW, "label", "n", *(f"{side}_{count}" for side in _SIDES.values() for count in _COUNTS))

_NO_ACCURACY = "there is neither acc nor acc_norm"
_UNPAIRED = "not paired by document"


@dataclass(frozen=True)
class LabelPriors:
    """Tasks whose documents all have the same choices, after the priors of these labels are corrected.

    Attributes:
        tasks: a row per model, settings, task, few-shot count, limit, filter and metric (`LABEL_PRIOR_COLUMNS`): what
            `statistics.compare` says of the corrected accuracies, the number of `labels`, and in columns that end in `_before`
            the same runs without correction.
        groups: averages over those tasks of each group that have priors (`LABEL_PRIOR_GROUP_COLUMNS`): what
            `statistics.macro_averages` says of the corrected accuracies, and of the same tasks without correction.
        labels: a row for each label, in the task's order (`LABEL_COLUMNS`): `n` documents have it, the model gives it that mean
            `probability`, and so often it is `predicted` and, of these, `right`, before and after the correction. Counts are
            means over seeds.
        notes: which tasks have no label priors, and why, a sentence for each reason.
        before, after: rows of `Pairing.values` of these tasks, without correction and with it.
    """

    tasks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LABEL_PRIOR_COLUMNS)))
    groups: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LABEL_PRIOR_GROUP_COLUMNS)))
    labels: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LABEL_COLUMNS)))
    notes: tuple[str, ...] = ()
    before: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(VALUE_COLUMNS)))
    after: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(VALUE_COLUMNS)))


class _NoPriorsError(Exception):
    """Says why two runs have no label priors."""


def correct_label_priors(pairing: Pairing, answers: Mapping[int, Answers], groups: Mapping[str, TaskGroup]) -> LabelPriors:
    """Correct `acc` and `acc_norm` of every pair of runs of a task with the same choices in every document.

    Baseline and ACT are each corrected with their own priors. For `acc`, probabilities are the softmax of the choices'
    log-probabilities; for `acc_norm`, of these per character, as lm-eval ranks them. Priors are cross-fitted: documents are
    split into two halves at random, the same for all runs, and each half is corrected with the priors of the other. Intervals
    and tests take the priors as given.

    Args:
        pairing: what `pairing.pair` returned.
        answers: of runs, by their index in `load.Results.runs`.
        groups: what is averaged, by name.
    """
    accuracies = _accuracies(pairing.values)
    before, after, labels = [], [], []
    refused: list[tuple[str, str, str]] = []  # task, settings and reason
    for values in _by_pair(accuracies):
        try:
            corrected = _Corrected.of(values, answers)
        except _NoPriorsError as reason:
            refused.append((values["task"].iloc[0], values["settings"].iloc[0], str(reason)))
            continue
        before.append(values.assign(labels=len(corrected.labels)))
        after.append(values.assign(**corrected.right_after))
        labels += [{**values.iloc[0][ROW], **counts} for counts in corrected.counts()]
    tasks = {str(values["task"].iloc[0]) for values in after}
    notes = tuple(_notes(tasks, [*refused, *_without_accuracies(pairing, accuracies)]))
    if not after:
        return LabelPriors(notes=notes)
    left_out = []
    for values in _by_pair(_accuracies(pairing.left_out)):
        with suppress(_NoPriorsError):
            left_out.append(values.assign(**_Corrected.of(values, answers).right_after))
    all_before = pairing.with_values(pd.concat(before, ignore_index=True))
    all_after = pairing.with_values(
        pd.concat(after, ignore_index=True), pd.concat(left_out, ignore_index=True) if left_out else None
    )
    return LabelPriors(
        _with_numbers_before(compare(all_after), _before_and_labels(all_before.values), ROW),
        _with_numbers_before(macro_averages(all_after, groups), macro_averages(all_before, groups), _ROW_OF_AVERAGES),
        _means_over_seeds(labels),
        notes,
        all_before.values,
        all_after.values,
    )


def _accuracies(values: pd.DataFrame) -> pd.DataFrame:
    return values[values["metric"].isin(ACCURACIES) & (values["aggregation"] == MEAN)]


def _by_pair(accuracies: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The values of each pair of runs and metric, in the order of documents."""
    return (values.sort_values("doc_id") for _, values in accuracies.groupby(_PAIR, observed=True))


def halves(documents: int) -> np.ndarray:
    """Split documents into two halves at random; the same number is split in the same way.

    Args:
        documents: how many there are, in the order of their ids.

    Returns:
        bool `[documents]`, which are in the second half; it is larger by one where the number is odd.
    """
    return np.random.default_rng(SEED).permutation(documents) >= documents // 2


def subtract_label_priors(scores: np.ndarray, in_second_half: np.ndarray) -> np.ndarray:
    """Subtract from each label's log-probability the logarithm of its mean probability over the other half of the documents.

    Args:
        scores: finite float `[documents, labels]`, log-probabilities up to a constant of each document.
        in_second_half: bool `[documents]`, with documents in both halves.

    Returns:
        float `[documents, labels]`; the greatest of a row is the label that is predicted.
    """
    log_probabilities = log_softmax(scores, axis=1)
    corrected = np.empty_like(log_probabilities)
    for half in (in_second_half, ~in_second_half):
        others = log_probabilities[~half]
        corrected[half] = log_probabilities[half] - (logsumexp(others, axis=0) - np.log(len(others)))
    return corrected


@dataclass(frozen=True)
class _Corrected:
    """What two runs of one task predict for each document, before and after correction.

    Attributes:
        labels: texts of the choices.
        gold: int `[documents]`, index of the right label.
        before, after: by side, int `[documents]`, index of the predicted label.
        probabilities: by side, float `[labels]`, mean over all documents.
    """

    labels: tuple[str, ...]
    gold: np.ndarray
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, values: pd.DataFrame, answers: Mapping[int, Answers]) -> _Corrected:
        """Correct one metric of two runs.

        Args:
            values: rows of `Pairing.values` of one of `ACCURACIES`, one for each document, sorted by their ids.
            answers: of runs.

        Raises:
            _NoPriorsError: there are no label priors.
        """
        metric, baseline, calibrated = values.iloc[0][["metric", "run_baseline", "run_calibrated"]]
        baseline, calibrated = answers[baseline], answers[calibrated]
        sides = dict(zip(_SIDES, (baseline, calibrated), strict=True))
        for of_side in sides.values():
            if of_side.why_no_choices:
                raise _NoPriorsError(of_side.why_no_choices)
        if baseline.choices != calibrated.choices:
            raise _NoPriorsError("baseline and ACT were asked different choices")
        if len(values) < 2:
            raise _NoPriorsError("two documents are needed at least")
        gold = baseline.gold.loc[values["line_baseline"]].to_numpy()
        if (gold == NO_GOLD).any():
            raise _NoPriorsError(f"document {values['doc_id'][gold == NO_GOLD].iloc[0]} has none or several right choices")
        scores = {}
        for side, of_side in sides.items():
            scores[side] = of_side.log_probabilities.loc[values[f"line_{side}"]].to_numpy()
            infinite = ~np.isfinite(scores[side]).all(axis=1)
            if infinite.any():
                document = values["doc_id"][infinite].iloc[0]
                raise _NoPriorsError(f"log-probabilities of document {document} are not finite ({_SIDES[side]})")
        lengths = _lengths(values, metric, baseline.choices, gold, scores)
        scores = {side: of_side / lengths for side, of_side in scores.items()}
        in_second_half = halves(len(values))
        stripped = tuple(choice.strip() for choice in baseline.choices)
        return cls(
            stripped if len(set(stripped)) == len(stripped) else baseline.choices,
            gold,
            {side: of_side.argmax(axis=1) for side, of_side in scores.items()},
            {side: subtract_label_priors(of_side, in_second_half).argmax(axis=1) for side, of_side in scores.items()},
            {side: softmax(of_side, axis=1).mean(axis=0) for side, of_side in scores.items()},
        )

    @property
    def right_after(self) -> dict[str, np.ndarray]:
        """By side, float `[documents]`: 1 where the label that is predicted after correction is right, else 0."""
        return {side: (predicted == self.gold).astype(float) for side, predicted in self.after.items()}

    def counts(self) -> Iterator[dict[str, Any]]:
        """What `LABEL_COLUMNS` say of each label, with its number as `choice`."""
        for choice, label in enumerate(self.labels):
            is_gold = self.gold == choice
            row: dict[str, Any] = {"choice": choice, "label": label, "n": int(is_gold.sum())}
            for side, name in _SIDES.items():
                row[f"{name}_probability"] = self.probabilities[side][choice]
                for when, predicted in (("before", self.before[side]), ("after", self.after[side])):
                    row[f"{name}_predicted_{when}"] = float((predicted == choice).sum())
                    row[f"{name}_right_{when}"] = float(((predicted == choice) & is_gold).sum())
            yield row


def _lengths(
    values: pd.DataFrame, metric: str, choices: Sequence[str], gold: np.ndarray, scores: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the metric divides log-probabilities by, float `[choices]`. Raises _NoPriorsError where that is not found."""
    for lengths in map(np.array, possible_lengths(metric, choices)):
        if all(np.array_equal((scores[side] / lengths).argmax(axis=1) == gold, values[side].to_numpy()) for side in _SIDES):
            return lengths
    raise _NoPriorsError(f"{metric} does not follow from the likeliest choice")


def _with_numbers_before(after: pd.DataFrame, before: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A table of corrected results with `_BEFORE`, and `labels` where there are, from that of the same rows without correction.

    Args:
        after, before: both tables.
        columns: what tells their rows apart.
    """
    same = in_order_of(before, after, columns)
    labels = {"labels": same["labels"]} if "labels" in same else {}
    return after.assign(**labels, **{f"{name}_before": same[name] for name in _NUMBERS_BEFORE})


def _before_and_labels(values: pd.DataFrame) -> pd.DataFrame:
    """Scores, their difference, and the number of labels, for each row of a comparison of `values`."""
    rows = []
    for key, of_row in values.groupby(ROW, dropna=False, observed=True):
        documents = PairedDocuments.of(of_row)
        numbers = {"labels": of_row["labels"].iloc[0], **paired_statistics(documents.baseline, documents.calibrated)}
        rows.append({**dict(zip(ROW, key, strict=True)), **numbers})
    return public_table(rows, (*ROW, "labels", *_NUMBERS_BEFORE))


def _means_over_seeds(labels: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(labels)
    rows = []
    for key, of_label in table.groupby([*ROW, "choice"], dropna=False):
        counts = of_label[[column for column in LABEL_COLUMNS if column not in (*ROW, "label", "n")]].mean()
        names = {**dict(zip([*ROW, "choice"], key, strict=True)), **of_label[["label", "n"]].iloc[0]}
        rows.append({**names, **counts})
    return pd.DataFrame(rows).sort_values([*ROW, "choice"], ignore_index=True)[list(LABEL_COLUMNS)]


def _without_accuracies(pairing: Pairing, accuracies: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Task, settings and reason of what has no accuracies that could be corrected; nothing where no task has accuracies."""
    is_accuracy = pairing.unpaired["metric"].isin(ACCURACIES)
    if accuracies.empty and not is_accuracy.any():
        return
    there = {*accuracies["task"], *pairing.unpaired.loc[is_accuracy, "task"]}
    for table in (pairing.values, pairing.unpaired):
        for task, settings in table.loc[~table["task"].isin(there), ["task", "settings"]].drop_duplicates().to_numpy():
            yield task, settings, _NO_ACCURACY
    for task, settings in pairing.unpaired.loc[is_accuracy, ["task", "settings"]].drop_duplicates().to_numpy():
        yield task, settings, _UNPAIRED


def _notes(corrected: set[str], refused: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A sentence for each reason, which names tasks, with their settings where the same task has others that are corrected."""
    for reason in dict.fromkeys(why for *_, why in refused):
        names = {f"{task} ({settings})" if task in corrected else task for task, settings, why in refused if why == reason}
        yield f"No label priors of {', '.join(sorted(names))}: {reason}."
