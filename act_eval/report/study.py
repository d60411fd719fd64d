"""What a study found: the table of its tasks, its controls, and the evidence for its verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from act_eval.report.label_priors import LabelPriors
from act_eval.report.load import LoadedStudy
from act_eval.report.pairing import Pairing
from act_eval.report.statistics import compare, differs, macro_averages
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
    "detectable",
    "n_for_one_point",
)

_CONTROLS = {ALL: "all_heads", SWITCHED_OFF: "switched_off"}
_DOCUMENT = ["task", "metric", "filter", "num_fewshot", "limit", "doc_id", "seed"]


@dataclass(frozen=True)
class StudyFindings:
    """What a study found.

    Attributes:
        record: what it is about.
        model: its name in the tables.
        settings, with_profiles: see `load.LoadedStudy`.
        table: a row for each task, then for the average over them and over those that the search did not see
            (`STUDY_COLUMNS`): scores of baseline and heads found with their paired difference and its 95% interval, and
            differences of the controls from the baseline. `searched` is of how many of the row's `tasks` the search saw
            training documents: all, some or none. The difference of the random heads is the mean over `random_sets` sets, with
            the least and the most; `beyond_random` is that of the heads found from this mean. `corrected_` numbers are those of
            baseline and heads found after label priors are corrected, on average over those `corrected_tasks` of the tasks that
            have any. `detectable` and `n_for_one_point` are as in `statistics.compare`, of the heads found, or of all heads
            where none was found. What was not run, or is not finished, is missing.
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
    study: LoadedStudy, pairing: Pairing, comparison: pd.DataFrame, priors: LabelPriors, replies: pd.DataFrame
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
    values = pairing.values[(pairing.values["model"] == study.model) & _counts(pairing.values, record)]
    by_settings = dict(iter(values.groupby("settings")))
    of_variants = {name: by_settings[text] for name, text in study.settings.items() if text in by_settings}
    if not of_variants:
        return None
    of_model = comparison[comparison["paired"] & (comparison["model"] == study.model) & _counts(comparison, record)]
    statistics = {
        name: _statistics(pairing.with_values(of_variant), of_model[of_model["settings"] == study.settings[name]], record)
        for name, of_variant in of_variants.items()
    }
    random = {name: rows for name, rows in statistics.items() if is_random(name)}
    if random and FOUND in of_variants:
        beyond = pairing.with_values(_against_mean(of_variants[FOUND], [of_variants[name] for name in random]))
        statistics["beyond_random"] = _statistics(beyond, compare(beyond), record)
    corrected = _corrected(study, priors, pairing)
    table = pd.DataFrame(_rows(record, statistics, random, corrected), columns=list(STUDY_COLUMNS))
    table = table.astype({"tasks": "Int64", "corrected_tasks": "Int64"})
    verdict = None
    if study.is_finished and record.search is not None and table["task"].eq(AVERAGE).any():
        of_found = [
            rows[(rows["model"] == study.model) & (rows["settings"] == study.settings.get(FOUND))]
            for rows in (comparison, replies)
        ]
        verdict = judge(_evidence(record, table, *of_found))
    return StudyFindings(record, study.model, study.settings, study.with_profiles, table, verdict)


def _counts(values: pd.DataFrame, record: StudyRecord) -> pd.Series:
    """Which rows are of scores that count."""
    counting = {(task, score.metric, score.filter) for task, score in record.scores.items()}
    names = zip(values["task"], values["metric"], values["filter"], strict=True)
    return pd.Series([name in counting for name in names], index=values.index, dtype=bool)


def _statistics(pairing: Pairing, comparison: pd.DataFrame, record: StudyRecord) -> dict[str, Mapping[Any, Any]]:
    """Scores, differences and intervals of one variant, by task and average, from its pairing and the comparison of that."""
    found: dict[str, Mapping[Any, Any]] = {str(row["task"]): row for row in comparison.to_dict("records")}
    alike = pairing.values.assign(num_fewshot=0, limit=float("nan"), filter="none", metric="score")
    for name, tasks in ((AVERAGE, record.tasks), (AVERAGE_OF_UNSEEN, record.unseen)):
        there = [task for task in tasks if task in found]
        if len(there) < len(tasks) or not there:
            continue  # an average of what is there so far would not be that of the study
        if len(there) == 1:
            found[name] = found[there[0]]
        else:
            (row,) = macro_averages(pairing.with_values(alike), {name: TaskGroup(tuple(there))}).to_dict("records")
            found[name] = row
    return found


def _corrected(study: LoadedStudy, priors: LabelPriors, pairing: Pairing) -> dict[str, Mapping[Any, Any]]:
    """Scores and differences of the heads found after label priors are corrected: by task, and on average over such tasks."""
    after, compared = (
        rows[_counts(rows, study.record) & (rows["model"] == study.model) & (rows["settings"] == study.settings.get(FOUND))]
        for rows in (priors.after, priors.tasks)
    )
    tasks = set(after["task"])
    scores = {task: score for task, score in study.record.scores.items() if task in tasks}
    return _statistics(pairing.with_values(after), compared, replace(study.record, scores=scores))


def _against_mean(found: pd.DataFrame, others: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Values of the heads found, with the mean of other variants in place of the baseline."""
    together = pd.concat([found, *others], keys=range(len(others) + 1))
    document = together.groupby(_DOCUMENT, dropna=False, observed=True).ngroup()
    means = together["calibrated"].loc[1:].groupby(document.loc[1:]).mean()
    return found.assign(baseline=means.loc[document.loc[[0]]].to_numpy())


def _rows(
    record: StudyRecord,
    statistics: Mapping[str, Mapping[str, Mapping[Any, Any]]],
    random: Mapping[str, Any],
    corrected: Mapping[str, Mapping[Any, Any]],
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
        for variant, prefix in (*_CONTROLS.items(), ("beyond_random", "beyond_random")):
            row |= _difference(there.get(variant, {}), f"{prefix}_")
        deltas = [there[variant]["delta"] for variant in random if variant in there]
        if deltas:
            row |= {"random_sets": len(deltas), "random_delta": sum(deltas) / len(deltas)}
            row |= {"random_least": min(deltas), "random_most": max(deltas)}
        if name in corrected and name != AVERAGE_OF_UNSEEN:
            row["corrected_tasks"] = len([task for task in tasks if task in corrected])
            row |= {"corrected_baseline": corrected[name]["baseline"], **_difference(corrected[name], "corrected_")}
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
        random_mean=_number(average["random_delta"]),
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
    difference = _as_difference(average, "corrected_")
    if difference is None:
        return None
    return CorrectedPriors(len(tasks), float(tasks["baseline"].mean()), float(average["corrected_baseline"]), difference)


def _best_tried(gain: Mapping[str, Any] | None) -> BestTried | None:
    """The best head set that was not chosen, from what the record says of the search's gain."""
    if gain is None or gain["chosen"]:
        return None
    return BestTried(int(gain["heads"]), int(gain["documents"]), float(gain["accuracy_change"]), float(gain["p_value"]))


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
