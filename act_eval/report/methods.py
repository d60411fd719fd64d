"""What a comparison of several methods found: all of them against one baseline, and whether the data can tell which is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from act_eval.report.intervals import SEED, PairedDocuments, average_deltas, interval_of, p_of
from act_eval.report.label_priors import LabelPriors
from act_eval.report.load import ReportError, Results
from act_eval.report.loaded_studies import LoadedStudy
from act_eval.report.pairing import Pairing
from act_eval.report.statistics import ALL_TASKS, SIGNIFICANCE_LEVEL, holm
from act_eval.report.verdict import Difference, points
from act_eval.study_record import MethodsRecord, Score

METHOD_COLUMNS = (
    "method",
    "settings",
    "heads",
    "full_passes",
    "task",
    "metric",
    "n",
    "baseline",
    "score",
    "delta",
    "low",
    "high",
    "p",
    "p_holm",
    "corrected_delta",
    "corrected_low",
    "corrected_high",
    "differs",
    "best",
)


@dataclass(frozen=True)
class MethodFindings:
    """What a comparison of methods found.

    Attributes:
        record: what it is about.
        model: its name in the tables.
        settings: by method, and for the baseline, the settings of ACT in one line.
        table: a row for each method and task, and for the average over tasks where there are several (`task` is
            `report.statistics.ALL_TASKS`): score, paired difference from the baseline with its 95% interval, `p`, and in the
            row that counts, the average or the one task, `p_holm` over the methods and whether it `differs`. `corrected_` says
            what is left of the difference when label priors are corrected in both; in averages, tasks without label priors
            count as they are. A method without heads is the baseline, without intervals and p. `best` is True in the row of the
            method that the data say is best.
        best: its name; None where the data cannot tell.
        correction: what correcting label priors alone changes in the baseline, in the rows that count; None where no task has
            label priors, or no method has heads.
    """

    record: MethodsRecord
    model: str
    settings: Mapping[str, str]
    table: pd.DataFrame
    best: str | None
    correction: Difference | None = None

    def holds(self, model: str, settings: str) -> bool:
        """Whether some settings of a model are among those that are compared."""
        return model == self.model and settings in self.settings.values()

    @property
    def counting(self) -> pd.DataFrame:
        """The rows that count: a row for each method."""
        name = ALL_TASKS if self.table["task"].eq(ALL_TASKS).any() else self.table["task"].iloc[0]
        return self.table[self.table["task"] == name]

    @property
    def headline(self) -> str:
        """What the comparison comes to, as a sentence."""
        rows = self.counting
        if rows["p"].isna().all():
            return "No head was chosen for any method, so there is nothing to compare with the baseline."
        if self.best is not None:
            row = rows[rows["method"] == self.best].iloc[0]
            if rows["p"].notna().sum() == 1:
                over = Difference(row["delta"], row["low"], row["high"])
                return f"{self.best} is better than the baseline, by {over.text}; for no other method were heads found."
            gain = f"{points(row['delta'])} points over the baseline"
            return f"{self.best} is best: {gain}, and better than every other method with heads."
        better = _better(rows)["method"].tolist()
        if not better:
            return "No method is better than the baseline as far as these documents can tell."
        are = "is" if len(better) == 1 else "are"
        return f"{', '.join(better)} {are} better than the baseline; which method is best, these documents cannot tell."

    @property
    def sentences(self) -> tuple[str, ...]:
        """What correcting label priors gains alone, and what methods that are better add to that; none without label priors."""
        if self.correction is None:
            return ()
        tasks, corrected = self.record.tasks, set(self.table.dropna(subset="corrected_delta")["task"])
        with_priors = len(corrected.intersection(tasks))
        have = "has" if with_priors == 1 else "have"
        are_some = with_priors < len(tasks)
        over = f", on average over all {len(tasks)} tasks, of which {with_priors} {have} them," if are_some else ""
        alone = f"Correcting label priors alone changes the baseline{over} by {self.correction.text}"
        better = _better(self.counting).to_dict("records")
        if not better:
            return (f"{alone}.",)
        left = [
            (row["method"], Difference(row["corrected_delta"], row["corrected_low"], row["corrected_high"])) for row in better
        ]
        adds = (f"{name} adds {of.text}{'' if of.is_gain or of.is_loss else ', which may be nothing'}" for name, of in left)
        return (f"{alone}; after that {'; '.join(adds)}.",)


def method_findings(comparison: LoadedStudy[MethodsRecord], pairing: Pairing, priors: LabelPriors) -> MethodFindings | None:
    """Compare methods with the baseline and with each other.

    Args:
        comparison: what it is about, and which settings stand for which method.
        pairing: of all runs.
        priors: of all runs.

    Returns:
        What was found; None where it is not finished, or where some of its scores are not in the report or cannot be paired by
        document.
    """
    with_heads, of_methods = comparison.record.with_heads, comparison.by_variant(pairing.values)
    if not comparison.is_finished or not with_heads or not comparison.is_whole(of_methods, with_heads):
        return None
    values, after = (
        {method: _documents(rows, comparison.record.scores) for method, rows in by_method.items()}
        for by_method in (of_methods, comparison.by_variant(priors.after))
    )
    baselines = {task: replace(found, calibrated=found.baseline) for task, found in next(iter(values.values())).items()}
    return compare_documents(comparison, values, baselines, after)


def findings_without_heads(comparison: LoadedStudy[MethodsRecord], results: Results) -> MethodFindings:
    """Say what the baseline scores, where no heads were found for any method, so that there are no pairs.

    Raises:
        ReportError: the baseline has no score for each document.
    """
    scores = comparison.record.scores
    return compare_documents(comparison, {}, {task: _baseline(results, task, score) for task, score in scores.items()})


def check_paired_scores(record: MethodsRecord, comparison: pd.DataFrame) -> None:
    """Raise ReportError where a score that counts is not paired by document; `comparison` is that of `statistics.compare`."""
    unpaired = comparison[~comparison["paired"]]
    there = set(zip(unpaired["task"], unpaired["metric"], unpaired["filter"], strict=True))
    for task, score in record.scores.items():
        if (task, score.metric, score.filter) in there:
            raise _not_paired(task, score)


def compare_documents(
    comparison: LoadedStudy[MethodsRecord],
    values: Mapping[str, Mapping[str, PairedDocuments]],
    baselines: Mapping[str, PairedDocuments],
    after: Mapping[str, Mapping[str, PairedDocuments]] | None = None,
) -> MethodFindings:
    """Compare methods by their documents.

    Args:
        comparison: what it is about; all searches have ended.
        values: by method and task, baseline and method document by document; of the methods that have heads.
        baselines: by task, the baseline in place of the method, too.
        after: as `values`, both with label priors corrected, of the tasks that have any.
    """
    record = comparison.record
    tasks, after = list(record.scores), after or {}
    rows: list[dict[str, Any]] = []
    for method, found in (record.searched or {}).items():
        of_method: dict[str, Any] = {"method": method, **asdict(found)}
        for name in (*tasks, *([ALL_TASKS] if len(tasks) > 1 else [])):
            metric = record.scores[name].metric if name in record.scores else "each task's own"
            averaged = sorted(tasks) if name == ALL_TASKS else [name]
            numbers = difference([values.get(method, baselines)[task] for task in averaged])
            if method not in values:
                numbers = {column: numbers[column] for column in ("n", "baseline", "score", "delta")}
            elif any(task in after.get(method, {}) for task in averaged):
                left = difference([after[method].get(task, values[method][task]) for task in averaged])
                numbers |= {f"corrected_{column}": left[column] for column in ("delta", "low", "high")}
            rows.append({**of_method, "task": name, "metric": metric, **numbers})
    table = pd.DataFrame(rows, columns=list(METHOD_COLUMNS))
    table["differs"] = table["best"] = False
    counts = table["task"].eq(ALL_TASKS if len(tasks) > 1 else tasks[0])
    tested = counts & table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
        table.loc[tested, "differs"] = table.loc[tested, "p_holm"] < SIGNIFICANCE_LEVEL
    best = best_method(table[counts], {method: [of_method[task] for task in tasks] for method, of_method in values.items()})
    table["best"] = counts & (table["method"] == best)
    correction = _correction(values, after, tasks)
    return MethodFindings(record, comparison.model, comparison.settings, table, best, correction)


def _correction(
    values: Mapping[str, Mapping[str, PairedDocuments]],
    after: Mapping[str, Mapping[str, PairedDocuments]],
    tasks: Sequence[str],
) -> Difference | None:
    """What correcting label priors alone changes in the baseline, on average over tasks; see `compare_documents`."""
    method = next((method for method, of_tasks in after.items() if of_tasks), None)
    if method is None:
        return None
    of_tasks = [(values[method][task], after[method].get(task, values[method][task])) for task in sorted(tasks)]
    changed = difference([replace(before, calibrated=corrected.baseline) for before, corrected in of_tasks])
    return Difference(changed["delta"], changed["low"], changed["high"])


def best_method(rows: pd.DataFrame, values: Mapping[str, Sequence[PairedDocuments]]) -> str | None:
    """The method that is better than the baseline and than every other one, as far as documents can tell; or None.

    Args:
        rows: those that count, a row for each method.
        values: by method, of each task; of the methods that have heads.
    """
    gains = _better(rows)
    if gains.empty:
        return None
    best = str(gains["method"].iloc[int(gains["delta"].argmax())])
    pairs = list(combinations(values, 2))
    if not pairs:
        return best
    p = [
        difference(
            [replace(of_one, baseline=of_other.calibrated) for of_one, of_other in zip(values[one], values[other], strict=True)]
        )["p"]
        for one, other in pairs
    ]
    corrected = dict(zip(pairs, holm(np.array(p)), strict=True))
    rivals = [p_of_pair for pair_of_methods, p_of_pair in corrected.items() if best in pair_of_methods]
    return best if max(rivals) < SIGNIFICANCE_LEVEL else None


def _better(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, of those that count, of methods that are better than the baseline."""
    return rows[rows["differs"] & (rows["delta"] > 0)]


def difference(documents: Sequence[PairedDocuments]) -> dict[str, float]:
    """A difference, on average over tasks, and how sure it is.

    Args:
        documents: of each task, at least one.

    Returns:
        `n`, `baseline`, `score`, `delta`, its 95% interval `low` to `high`, and the `p` that agrees with it (see
        `report.intervals.p_of`).
    """
    weights = np.ones(len(documents)) / len(documents)
    # With the seeds of the report, whose intervals are the same.
    drawn = [of_task.draw((SEED, number) if len(documents) > 1 else SEED) for number, of_task in enumerate(documents)]
    deltas = average_deltas(drawn, weights)
    baseline, score = (float(weights @ [of_task.scores[side] for of_task in documents]) for side in ("baseline", "calibrated"))
    low, high = interval_of(deltas, score - baseline)
    return {
        "n": sum(map(len, documents)),
        "baseline": baseline,
        "score": score,
        "delta": score - baseline,
        "low": low,
        "high": high,
        "p": p_of(deltas),
    }


def _documents(values: pd.DataFrame, scores: Mapping[str, Score]) -> dict[str, PairedDocuments]:
    """The documents of a method by task, in the scores that count, of tasks that are among the values."""
    by_score = dict(iter(values.groupby(["task", "metric", "filter"])))
    named = {task: (task, score.metric, score.filter) for task, score in scores.items()}
    return {task: PairedDocuments.of(by_score[name]) for task, name in named.items() if name in by_score}


def _baseline(results: Results, task: str, score: Score) -> PairedDocuments:
    """The documents of the baseline, in place of a method, too. Raises ReportError where they have no such score."""
    runs = results.runs.index[results.runs["is_baseline"] & (results.runs["task"] == task)]
    samples = results.samples
    of_score = samples[samples["run"].isin(runs) & (samples["metric"] == score.metric) & (samples["filter"] == score.filter)]
    if of_score.empty or of_score["value"].isna().any():
        raise _not_paired(task, score)
    return PairedDocuments.of(of_score.assign(baseline=of_score["value"], calibrated=of_score["value"]))


def _not_paired(task: str, score: Score) -> ReportError:
    return ReportError(
        f"{task} cannot be paired by document in {score.metric} ({score.filter}), which counts in this comparison of methods: "
        "compare without it, in another folder."
    )
