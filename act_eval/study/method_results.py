"""One table of several methods against one baseline, and whether the data can tell which is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from act_eval.report.intervals import SEED, PairedDocuments, average_deltas, interval_of, p_of
from act_eval.report.label_priors import correct_label_priors
from act_eval.report.load import ReportError, Results, load
from act_eval.report.pairing import pair
from act_eval.report.statistics import ALL_TASKS, SIGNIFICANCE_LEVEL, holm
from act_eval.report.verdict import Difference, points
from act_eval.study.methods import ComparedMethods
from act_eval.study_record import Score
from act_eval.tables import TextTable, csv_text, interval, number

METHODS_CSV = "methods.csv"
COLUMNS = (
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
NOTE = (
    "Heads of each method were searched for on the same training documents and in the same mode; full_passes in methods.csv "
    "says what each search cost, which is more where a method has several parts, or parameters to find. Columns of tasks are "
    "differences from the baseline, too. Differences are paired by document, with 95% intervals; Holm p is corrected for the "
    "number of methods with heads. A star marks a difference that is significant (Holm p below 0.05). The best method is "
    "marked (best) only where it is better than the baseline and than every other method with heads, corrected for all "
    "pairs of them. The difference with priors corrected is what is left when label priors are corrected in baseline and "
    "method, tasks without label priors as they are."
)
_BEST = " (best)"


@dataclass(frozen=True)
class MethodResults:
    """What came of the methods.

    Attributes:
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

    table: pd.DataFrame
    best: str | None
    correction: Difference | None = None

    @property
    def counting(self) -> pd.DataFrame:
        """The rows that count: a row for each method."""
        name = ALL_TASKS if self.table["task"].eq(ALL_TASKS).any() else self.table["task"].iloc[0]
        return self.table[self.table["task"] == name]

    def sentences(self) -> list[str]:
        """What the comparison comes to, and what of it label priors may account for."""
        about_label_priors = self.about_label_priors()
        return [self.sentence(), *([] if about_label_priors is None else [about_label_priors])]

    def sentence(self) -> str:
        """What the comparison comes to, in a line."""
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

    def about_label_priors(self) -> str | None:
        """What correcting label priors gains alone, and what methods that are better add to that; None without label priors."""
        if self.correction is None:
            return None
        alone = f"Correcting label priors alone changes the baseline by {self.correction.text}"
        better = _better(self.counting).to_dict("records")
        if not better:
            return f"{alone}."
        left = [
            (row["method"], Difference(row["corrected_delta"], row["corrected_low"], row["corrected_high"])) for row in better
        ]
        adds = (f"{name} adds {of.text}{'' if of.is_gain or of.is_loss else ', which may be nothing'}" for name, of in left)
        return f"{alone}; after that {'; '.join(adds)}."


def method_results(compared: ComparedMethods, folder: Path) -> MethodResults:
    """Compare methods by the results in a folder.

    Args:
        compared: what was run.
        folder: where the results are.

    Raises:
        ReportError: a score that counts is not paired by document; or see `report.load.load` and `report.pairing.pair`.
    """
    scores = compared.record.scores
    results = load([folder], compared.runs.has)
    baselines = {task: _baseline(results, task, score) for task, score in scores.items()}
    values: dict[str, Mapping[str, PairedDocuments]] = {}
    after: dict[str, Mapping[str, PairedDocuments]] = {}
    if compared.arguments:
        pairing = pair(results)
        corrected = correct_label_priors(pairing, results.answers, {}).after
        for method, arguments in compared.arguments.items():
            settings = results.settings_of(arguments.model_args)
            values[method] = _documents(pairing.values, settings, scores)
            after[method] = _documents(corrected, settings, scores)
            for task, score in scores.items():
                if task not in values[method]:
                    raise _not_paired(task, score)
    return compare_documents(compared, values, baselines, after)


def compare_documents(
    compared: ComparedMethods,
    values: Mapping[str, Mapping[str, PairedDocuments]],
    baselines: Mapping[str, PairedDocuments],
    after: Mapping[str, Mapping[str, PairedDocuments]] | None = None,
) -> MethodResults:
    """Compare methods by their documents.

    Args:
        compared: what was run.
        values: by method and task, baseline and method document by document; of the methods that have heads.
        baselines: by task, the baseline in place of the method, too.
        after: as `values`, both with label priors corrected, of the tasks that have any.
    """
    tasks, after = list(compared.record.scores), after or {}
    rows: list[dict[str, Any]] = []
    for method, found in compared.searched.items():
        of_method: dict[str, Any] = {"method": method, **asdict(found)}
        for name in (*tasks, *([ALL_TASKS] if len(tasks) > 1 else [])):
            metric = compared.record.scores[name].metric if name in compared.record.scores else "each task's own"
            averaged = sorted(tasks) if name == ALL_TASKS else [name]
            numbers = difference([values.get(method, baselines)[task] for task in averaged])
            if method not in values:
                numbers = {column: numbers[column] for column in ("n", "baseline", "score", "delta")}
            elif any(task in after.get(method, {}) for task in averaged):
                left = difference([after[method].get(task, values[method][task]) for task in averaged])
                numbers |= {f"corrected_{column}": left[column] for column in ("delta", "low", "high")}
            rows.append({**of_method, "task": name, "metric": metric, **numbers})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["differs"] = table["best"] = False
    counts = table["task"].eq(ALL_TASKS if len(tasks) > 1 else tasks[0])
    tested = counts & table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
        table.loc[tested, "differs"] = table.loc[tested, "p_holm"] < SIGNIFICANCE_LEVEL
    best = best_method(table[counts], {method: [of_method[task] for task in tasks] for method, of_method in values.items()})
    table["best"] = counts & (table["method"] == best)
    return MethodResults(table, best, _correction(values, after, tasks))


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


def methods_table(results: MethodResults) -> TextTable:
    """A row for each method: its score and difference from the baseline, on average and in each task; the best is bold."""
    rows = []
    tasks = [task for task in results.table["task"].unique() if task != ALL_TASKS]
    for _, row in results.counting.iterrows():
        star = "*" if row["differs"] else ""
        text = {
            "method": f"{row['method']}{_BEST if row['best'] else ''}",
            "heads": number(row["heads"], ".0f"),
            "baseline": number(row["baseline"], ".3f"),
            "score": number(row["score"], ".3f"),
            "delta": f"{number(row['delta'], '+.3f')}{star}",
            "95% interval": "= baseline" if pd.isna(row["low"]) else interval(row["low"], row["high"]),
            "Holm p": number(row["p_holm"], ".2g"),
            "priors corrected": number(row["corrected_delta"], "+.3f"),
        }
        if len(tasks) > 1:
            of_method = results.table[results.table["method"] == row["method"]].set_index("task")
            text |= {task: number(of_method.loc[task, "delta"], "+.3f") for task in tasks}
        rows.append({**text, "settings": str(row["settings"])})
    texts = pd.DataFrame(rows)
    bold = pd.DataFrame(False, index=texts.index, columns=texts.columns)
    bold.loc[results.counting["best"].to_numpy(bool)] = True
    return TextTable("Methods against one baseline", texts, ("method", "settings"), bold)


def method_texts(results: MethodResults) -> dict[str, str | None]:
    """What is written, by the names of files: `methods.csv`, `methods.md` and `methods.tex`."""
    table = methods_table(results)
    return {
        METHODS_CSV: csv_text(results.table),
        "methods.md": "\n\n".join([table.to_markdown().rstrip("\n"), *results.sentences(), NOTE]) + "\n",
        "methods.tex": table.to_latex(NOTE),
    }


def _documents(values: pd.DataFrame, settings: str, scores: Mapping[str, Score]) -> dict[str, PairedDocuments]:
    """The documents of some settings by task, in the scores that count, of tasks that are among the values."""
    by_score = dict(iter(values[values["settings"] == settings].groupby(["task", "metric", "filter"])))
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
