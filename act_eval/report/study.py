"""What a study found: the table of its tasks, its controls, and the evidence for its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from act_eval.report.label_priors import LabelPriors
from act_eval.report.loaded_studies import LoadedStudy, evaluations
from act_eval.report.pairing import Pairing
from act_eval.report.statistics import compare, differs, macro_averages, power_of_interval
from act_eval.report.verdict import BestTried, CorrectedPriors, Difference, EmptyReplies, Evidence, Verdict, Worse, judge
from act_eval.study_record import ALL, FOUND, SWITCHED_OFF, StudyRecord, is_random
from act_eval.task_groups import TaskGroup

AVERAGE = "average"
AVERAGE_OF_UNSEEN = "average, not searched on"
STUDY_COLUMNS = (
    "task",
    "metric",
    "tasks",
    "searched",
    "n",
    "baseline",
    "found",
    "delta",
    "low",
    "high",
    "all_heads_delta",
    "all_heads_low",
    "all_heads_high",
    "random_sets",
    "random_delta",
    "random_low",
    "random_high",
    "random_least",
    "random_most",
    "beyond_random_delta",
    "beyond_random_low",
    "beyond_random_high",
    "switched_off_delta",
    "switched_off_low",
    "switched_off_high",
    "corrected_tasks",
    "corrected_baseline",
    "corrected_delta",
    "corrected_low",
    "corrected_high",
    "correction_delta",
    "correction_low",
    "correction_high",
    "overall_delta",
    "overall_low",
    "overall_high",
    "lost_delta",
    "lost_low",
    "lost_high",
    "detectable",
    "n_for_one_point",
)

_CONTROLS = {ALL: "all_heads", SWITCHED_OFF: "switched_off"}
_Statistics = dict[str, Mapping[Any, Any]]  # of one comparison, by task and average
_DOCUMENT = ["task", "metric", "filter", "num_fewshot", "limit", "doc_id", "seed"]


@dataclass(frozen=True)
class StudyFindings:
    """What a study found.

    Attributes:
        record: what it is about.
        model: its name in the tables.
        settings, with_profiles: see `loaded_studies.LoadedStudy`.
        table: a row for each task, then for the average over them and over those that the search did not see
            (`STUDY_COLUMNS`): scores of baseline and heads found with their paired difference and its 95% interval, and
            differences of the controls from the baseline. `searched` is of how many of the row's `tasks` the search saw
            training documents: all, some or none. The difference of the random heads is the mean over `random_sets` sets, with
            the least and the most; `beyond_random` is that of the heads found from this mean; the intervals of both allow for
            sets having been drawn, and are missing for one set. `corrected_` numbers are of baseline and heads found after
            label priors are corrected, on average over those `corrected_tasks` of the tasks that have any, and `correction_`
            is what that changes in the baseline's score on these. `overall_` is the difference over all tasks of the row, of
            those without label priors as it is, and `lost_` by how much it is less than `delta`. `detectable` and
            `n_for_one_point` are as in `statistics.compare`, of the heads found, or of all heads where none was found. What was
            not run, or is not finished, is missing.
        verdict: what it comes to; None where the primary comparison is not finished, or not all of it is in the report.
    """

    record: StudyRecord
    model: str
    settings: Mapping[str, str]
    with_profiles: Mapping[str, str]
    table: pd.DataFrame
    verdict: Verdict | None

    def holds(self, model: str, settings: str) -> bool:
        """Whether some settings of a model are among those that the study compares."""
        return model == self.model and settings in self.settings.values()


def study_findings(
    study: LoadedStudy[StudyRecord], pairing: Pairing, comparison: pd.DataFrame, priors: LabelPriors, replies: pd.DataFrame
) -> StudyFindings | None:
    """Collect what a study found; None where nothing of it can be compared yet.

    Args:
        study: what it is about, and which settings stand for which variant.
        pairing: of all runs.
        comparison: of all runs, see `statistics.compare`.
        priors: of all runs.
        replies: of all runs, see `replies.compare_replies`.
    """
    record = study.record
    of_variants = study.by_variant(pairing.values)
    if not of_variants:
        return None

    def statistics_of(values: pd.DataFrame, tasks: Collection[str] = record.tasks) -> _Statistics:
        of_tasks = replace(record, scores={task: record.scores[task] for task in tasks})
        return _statistics(pairing.with_values(values), of_tasks)

    statistics = {name: statistics_of(of_variant) for name, of_variant in of_variants.items()}
    random = {name: rows for name, rows in statistics.items() if is_random(name)}
    if random:
        mean = _mean_over_sets([of_variants[name] for name in random])
        statistics["random"] = statistics_of(mean)
        if FOUND in of_variants:
            statistics["beyond_random"] = statistics_of(_against(of_variants[FOUND], mean))
    corrected: dict[str, _Statistics] = {}
    if FOUND in of_variants:
        after = study.by_variant(priors.after).get(FOUND, priors.after.iloc[:0])
        corrected = _after_correction(of_variants[FOUND], after, statistics_of)
    table = pd.DataFrame(_rows(record, statistics, random, corrected), columns=list(STUDY_COLUMNS))
    table = table.astype({"tasks": "Int64", "corrected_tasks": "Int64"})
    verdict = None
    is_whole = study.is_finished and study.is_whole(of_variants, [FOUND if FOUND in study.settings else ALL])
    if is_whole and record.search is not None and _has_primary_comparison(record, table):
        verdict = judge(_evidence(record, table, *(rows[_is_of_heads_found(rows, study)] for rows in (comparison, replies))))
    return StudyFindings(record, study.model, study.settings, study.with_profiles, table, verdict)


def _is_of_heads_found(rows: pd.DataFrame, study: LoadedStudy[StudyRecord]) -> pd.Series:
    """Which rows of a table over all seeds are of the heads found, in tasks as the study evaluated them."""
    conditions = {evaluation[:-1] for evaluation in study.evaluations}
    there = [evaluation[:-1] in conditions for evaluation in evaluations(rows)]
    is_found = (rows["model"] == study.model) & (rows["settings"] == study.settings.get(FOUND))
    return is_found & pd.Series(there, index=rows.index, dtype=bool)


def _has_primary_comparison(record: StudyRecord, table: pd.DataFrame) -> bool:
    """Whether the average is there that the verdict is about: of the heads found, or, where none was found, of any heads."""
    average = table[table["task"] == AVERAGE]
    has_heads = bool((record.search or {}).get("heads", 0))
    return len(average) > 0 and (not has_heads or bool(average["delta"].notna().all()))


def _statistics(pairing: Pairing, record: StudyRecord) -> _Statistics:
    """Scores, differences and intervals of one comparison, by task and on average over the tasks of a record."""
    found: _Statistics = {str(row["task"]): row for row in compare(pairing).to_dict("records")}
    alike = pairing.values.assign(num_fewshot=0, limit=float("nan"), filter="none", metric="score")
    for name, tasks in ((AVERAGE, record.tasks), (AVERAGE_OF_UNSEEN, record.unseen)):
        there = [task for task in tasks if task in found]
        if len(there) < len(tasks) or not there:
            continue  # an average of what is there so far would not be that of the study
        if len(there) == 1:
            found[name] = {**found[there[0]], **power_of_interval(alike[alike["task"] == there[0]])}
        else:
            (row,) = macro_averages(pairing.with_values(alike), {name: TaskGroup(tuple(there))}).to_dict("records")
            found[name] = row
    return found


def _mean_over_sets(sets: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Values whose calibrated side is the mean over sets of heads, of the documents that all of them have."""
    first, *_ = of_sets = _numbered(sets)
    calibrated = pd.concat([values["calibrated"] for values in of_sets]).groupby(level=0)
    means = calibrated.mean()[calibrated.size() == len(sets)]
    return first.loc[means.index].assign(calibrated=means)


def _against(found: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Values of the heads found, with the calibrated side of another variant in place of the baseline."""
    values, of_other = _numbered([found, other], are_shared=True)
    return values.assign(baseline=of_other["calibrated"])


def _after_correction(
    found: pd.DataFrame, after: pd.DataFrame, statistics_of: Callable[..., _Statistics]
) -> dict[str, _Statistics]:
    """What correcting label priors changes.

    Args:
        found: values of the heads found and the baseline.
        after: the same after the correction, of the tasks that have label priors.
        statistics_of: compares values, and averages over all tasks of the study, or over those given.
    """
    tasks = [task for task in found["task"].unique() if task in set(after["task"])]
    if not tasks:
        return {}
    overall = pd.concat([after, found[~found["task"].isin(tasks)]], ignore_index=True)
    values, of_after = _numbered([found, after], are_shared=True)
    of_baseline = values.assign(calibrated=of_after["baseline"])
    values, of_overall = _numbered([found, overall], are_shared=True)
    raw, left = (of_both["calibrated"] - of_both["baseline"] for of_both in (values, of_overall))
    lost = values.assign(calibrated=raw, baseline=left)
    return {
        "corrected": statistics_of(after, tasks),
        "correction": statistics_of(of_baseline, tasks),
        "overall": statistics_of(overall),
        "lost": statistics_of(lost),
    }


def _numbered(tables: Sequence[pd.DataFrame], are_shared: bool = False) -> list[pd.DataFrame]:
    """Values with a number for each document as their index, the same in all tables; only of documents in all, if asked."""
    numbers = pd.concat(tables).groupby(_DOCUMENT, dropna=False, observed=True).ngroup()
    ends = np.cumsum([len(values) for values in tables])[:-1]
    of_tables = np.split(numbers.to_numpy(), ends)
    numbered = [values.set_axis(of_table) for values, of_table in zip(tables, of_tables, strict=True)]
    if not are_shared:
        return numbered
    shared = sorted(set.intersection(*(set(values.index) for values in numbered)))
    return [values.loc[shared] for values in numbered]


def allowing_for_sets(row: Mapping[Any, Any], deltas: Sequence[float]) -> dict[str, Any]:
    """A difference from, or of, the mean over sets of random heads, with an interval that allows for the sets being drawn.

    The variance of the mean over sets is added to that over documents, with the degrees of freedom of Welch (1947). Nothing for
    one set, which does not tell how sets differ.

    Args:
        row: the difference, with the 95% interval over documents.
        deltas: of each set from the baseline.
    """
    if len(deltas) < 2:
        return {}
    half = (row["high"] - row["low"]) / 2
    of_documents = (half / stats.norm.ppf(0.975)) ** 2
    of_sets = float(np.var(deltas, ddof=1)) / len(deltas)
    together = of_documents + of_sets
    degrees = math.inf if of_sets == 0 else (len(deltas) - 1) * (together / of_sets) ** 2
    wider = float(stats.t.ppf(0.975, degrees)) * math.sqrt(together) / half
    delta = row["delta"]
    return {"delta": delta, "low": delta - wider * (delta - row["low"]), "high": delta + wider * (row["high"] - delta)}


def _rows(
    record: StudyRecord,
    statistics: Mapping[str, _Statistics],
    random: Collection[str],
    corrected: Mapping[str, _Statistics],
) -> Iterator[dict[str, Any]]:
    """The rows of `StudyFindings.table`."""
    tasks_of = {**{task: (task,) for task in record.tasks}, AVERAGE: record.tasks, AVERAGE_OF_UNSEEN: record.unseen}
    for name, tasks in tasks_of.items():
        there = {variant: rows[name] for variant, rows in statistics.items() if name in rows}
        if not there:
            continue
        row: dict[str, Any] = {"task": name, "tasks": len(tasks), "searched": _how_many(tasks, record.searched)}
        row["metric"] = record.scores[name].metric if name in record.scores else _metric_of_all(record)
        row |= {size: next(iter(there.values()))[size] for size in ("n", "baseline")}
        if FOUND in there:
            row |= {"found": there[FOUND]["act"], **_difference(there[FOUND])}
        for variant, prefix in _CONTROLS.items():
            row |= _difference(there.get(variant, {}), f"{prefix}_")
        deltas = [there[variant]["delta"] for variant in random if variant in there]
        if deltas:
            row |= {"random_sets": len(deltas), "random_delta": sum(deltas) / len(deltas)}
            row |= {"random_least": min(deltas), "random_most": max(deltas)}
        if len(deltas) == len(random):
            for mean in {"random", "beyond_random"} & set(there):
                row |= _difference(allowing_for_sets(there[mean], deltas), f"{mean}_")
        if name != AVERAGE_OF_UNSEEN and name in corrected.get("corrected", {}):
            row["corrected_tasks"] = len([task for task in tasks if task in corrected["corrected"]])
            row["corrected_baseline"] = corrected["corrected"][name]["baseline"]
            for comparison, rows in corrected.items():
                row |= _difference(rows.get(name, {}), f"{comparison}_")
        main = there.get(FOUND, there.get(ALL, {}))
        row |= {column: main.get(column) for column in ("detectable", "n_for_one_point")}
        yield row


def _how_many(tasks: Collection[str], of: Collection[str]) -> str:
    """Whether all, some or none of the tasks are among those of another collection."""
    found = sum(task in of for task in tasks)
    return "all" if found == len(tasks) else "some" if found else "none"


def _difference(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}": row[name] for name in ("delta", "low", "high") if name in row}


def _metric_of_all(record: StudyRecord) -> str:
    """The metric of an average: the tasks' own, where they have one in common."""
    metrics = {score.metric for score in record.scores.values()}
    return metrics.pop() if len(metrics) == 1 else "each task's own"


def _evidence(record: StudyRecord, table: pd.DataFrame, found: pd.DataFrame, replies: pd.DataFrame) -> Evidence:
    """What the verdict follows from.

    Args:
        record: of the study.
        table: see `StudyFindings`.
        found: the comparison of the heads found with the baseline, of all tasks and metrics.
        replies: of the heads found and the baseline.
    """
    search = record.search or {}
    average = table[table["task"] == AVERAGE].iloc[0]
    unseen = table[table["task"] == AVERAGE_OF_UNSEEN]
    sets = int(average["random_sets"]) if pd.notna(average["random_sets"]) else 0
    return Evidence(
        heads=int(search.get("heads", 0)),
        heads_searched=int(search.get("heads_searched", 0)),
        tasks=len(record.tasks),
        documents=int(average["n"]),
        baseline=float(average["baseline"]),
        best_tried=_best_tried(search.get("gain")),
        found=_as_difference(average),
        unseen=_as_difference(unseen.iloc[0]) if len(unseen) else None,
        unseen_tasks=len(record.unseen),
        every_head=_as_difference(average, "all_heads_"),
        random_sets=sets,
        random_mean=_as_difference(average, "random_"),
        random_least=_number(average["random_least"]),
        random_most=_number(average["random_most"]),
        beyond_random=_as_difference(average, "beyond_random_"),
        switched_off=_as_difference(average, "switched_off_"),
        priors=_priors(record, table),
        detectable=_number(average["detectable"]),
        documents_for_a_point=None if pd.isna(average["n_for_one_point"]) else int(average["n_for_one_point"]),
        worse=tuple(_worse(found)),
        empty_replies=tuple(_empty_replies(replies)),
    )


def _priors(record: StudyRecord, table: pd.DataFrame) -> CorrectedPriors | None:
    """What correcting label priors leaves of the difference; None where no task has any."""
    tasks = table[table["task"].isin(record.tasks) & table["corrected_delta"].notna()]
    average = table[table["task"] == AVERAGE].iloc[0]
    differences = [_as_difference(average, f"{prefix}_") for prefix in ("correction", "corrected", "overall", "lost")]
    correction, difference, overall, lost = differences
    if correction is None or difference is None or overall is None or lost is None:
        return None
    return CorrectedPriors(len(tasks), float(tasks["baseline"].mean()), correction, difference, overall, lost)


def _best_tried(gain: Mapping[str, Any] | None) -> BestTried | None:
    """The best head set that was not chosen, from what the record says of the search's gain."""
    if gain is None or gain["chosen"]:
        return None
    p_value = float("nan") if gain.get("by_entropy") else float(gain["p_value"])  # which is of the accuracy here
    return BestTried(int(gain["heads"]), int(gain["documents"]), float(gain["accuracy_change"]), p_value)


def _empty_replies(replies: pd.DataFrame) -> Iterator[EmptyReplies]:
    """The tasks of which significantly more replies are empty than with the baseline."""
    for _, row in replies[(replies["measure"] == "empty") & (replies["low"] > 0)].iterrows():
        number = int(row["n"])
        yield EmptyReplies(str(row["task"]), number, round(number * row["baseline"]), round(number * row["act"]))


def _worse(rows: pd.DataFrame) -> Iterator[Worse]:
    """The scores that are significantly worse than the baseline's."""
    for _, row in rows[differs(rows)].iterrows():
        sign = 1 if row["higher_is_better"] else -1
        if sign * row["delta"] < 0:
            yield Worse(str(row["task"]), str(row["metric"]), float(row["baseline"]), float(row["act"]))


def _as_difference(row: pd.Series, prefix: str = "") -> Difference | None:
    values = [row[f"{prefix}{name}"] for name in ("delta", "low", "high")]
    return None if any(map(pd.isna, values)) else Difference(*map(float, values))


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
