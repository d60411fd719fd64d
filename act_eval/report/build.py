"""The whole report in memory: runs, comparison, averages, and the documents that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from act_eval.errors import SettingError
from act_eval.report.flips import Flips, find_flips
from act_eval.report.label_priors import LabelPriors, correct_label_priors
from act_eval.report.load import ReportError, Results, load
from act_eval.report.methods import MethodFindings, method_findings
from act_eval.report.pairing import Patterns, matches, pair
from act_eval.report.replies import REPLY_COLUMNS, compare_replies
from act_eval.report.statistics import ALL_TASKS, by_subject, compare, macro_averages
from act_eval.report.study import StudyFindings, study_findings
from act_eval.report.unfinished import Unfinished
from act_eval.report.verdict import Conclusion, Verdict
from act_eval.short_names import short_names
from act_eval.task_groups import TaskGroup

GroupBy = Literal["group", "tag", "all", "none"]


@dataclass(frozen=True)
class ReportOptions:
    """What goes into a report.

    Args:
        metrics: names of metrics; all by default.
        patterns: by a column of the comparison, a shell-style pattern that its values must match (`{"task": "mmlu_*"}`), or
            several, of which they must match one.
        group_by: what is averaged: the tasks of each lm-eval group and all tasks (`group`), of each tag and all tasks (`tag`),
            all tasks alone (`all`), or nothing (`none`).
        most_flips: how many documents that changed are kept, shared evenly by the rows of the comparison.

    Raises:
        SettingError: there is no such grouping.
    """

    metrics: tuple[str, ...] = ()
    patterns: Patterns = field(default_factory=dict)
    group_by: GroupBy = "group"
    most_flips: int = 1000

    def __post_init__(self) -> None:
        if self.group_by not in get_args(GroupBy):
            raise SettingError("group_by", f"{self.group_by}: choose one of {', '.join(get_args(GroupBy))}.")


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        runs: every run that was read, see `load.Results`.
        comparison: a row per model, settings, task and metric, see `statistics.compare`.
        groups: macro averages, see `statistics.macro_averages`.
        subjects: per subject, see `statistics.by_subject`; empty where documents have none.
        flips: the documents whose outcome changed, see `flips.find_flips`.
        notes: what was not compared, and why.
        unpaired_notes: what was compared by its scores alone, and why.
        unfinished: what a comparison that is running, or was stopped, has not got yet; None where nothing is missing.
        studies: what the studies among the results found.
        method_comparisons: what the comparisons of several methods found.
        priors: accuracies after label priors are corrected, their averages, and how often each label is predicted.
        replies: how many replies to generation tasks are empty, and how long they are, see `replies.compare_replies`.
    """

    runs: pd.DataFrame
    comparison: pd.DataFrame
    groups: pd.DataFrame
    subjects: pd.DataFrame
    flips: Flips
    notes: tuple[str, ...]
    unpaired_notes: tuple[str, ...] = ()
    unfinished: Unfinished | None = None
    studies: tuple[StudyFindings, ...] = ()
    method_comparisons: tuple[MethodFindings, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Those of the studies that are finished."""
        return tuple(findings.verdict for findings in self.studies if findings.verdict is not None)

    @property
    def conclusions(self) -> tuple[Conclusion, ...]:
        """The verdicts, and what comparisons of methods come to."""
        return (*self.verdicts, *self.method_comparisons)

    priors: LabelPriors = field(default_factory=LabelPriors)
    replies: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(REPLY_COLUMNS)))

    @property
    def label_priors(self) -> pd.DataFrame:
        """Accuracies after label priors are corrected, see `label_priors.LabelPriors.tasks`."""
        return self.priors.tasks

    @property
    def label_prior_groups(self) -> pd.DataFrame:
        """Their averages, see `label_priors.LabelPriors.groups`."""
        return self.priors.groups

    @property
    def labels(self) -> pd.DataFrame:
        """How often each label is predicted and right, see `label_priors.LabelPriors.labels`."""
        return self.priors.labels

    @property
    def short_names(self) -> dict[str, str]:
        """For each model a name without what its path has in common with others."""
        tables = (self.runs, self.comparison, self.groups, self.subjects)
        return short_names(dict.fromkeys(str(model) for table in tables for model in table["model"]))

    def with_short_names(self) -> Report:
        """The same, with short names of models, for where long ones have no room."""
        names = self.short_names

        def shortened(table: pd.DataFrame) -> pd.DataFrame:
            return table.assign(model=table["model"].map(names))

        studies = tuple(replace(findings, model=names[findings.model]) for findings in self.studies)
        of_methods = tuple(replace(findings, model=names[findings.model]) for findings in self.method_comparisons)
        return replace(self._with_tables(shortened), studies=studies, method_comparisons=of_methods)

    def _with_tables(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Report:
        """The same with something changed in all tables but those of studies and of methods."""
        return replace(
            self,
            runs=change(self.runs),
            comparison=change(self.comparison),
            groups=change(self.groups),
            subjects=change(self.subjects),
            flips=replace(self.flips, documents=change(self.flips.documents)),
            priors=replace(
                self.priors,
                tasks=change(self.label_priors),
                groups=change(self.label_prior_groups),
                labels=change(self.labels),
            ),
            replies=change(self.replies),
        )


def make_report(
    folders: Iterable[Path],
    options: ReportOptions | None = None,
    is_wanted: Callable[[Mapping[str, Any]], bool] = lambda content: True,
) -> Report:
    """Read all runs below some folders and compare calibrated runs with their baselines.

    Args:
        folders: where results are looked for, recursively.
        options: what goes in; everything by default.
        is_wanted: says from the content of a results file whether its runs go in; all by default.

    Raises:
        ReportError: results cannot be read or must not be compared, see `load.load` and `pairing.pair`, or none are left.
        SettingError: there is no such metric or column.
    """
    options = options or ReportOptions()
    results = load(folders, is_wanted)
    _check_there_are_heads(results)
    pairing = pair(results).select(options.metrics, options.patterns)
    unfinished = results.unfinished
    tasks = {str(task) for task in pairing.values["task"]}
    if unfinished is not None:
        unfinished = replace(unfinished, waiting=pairing.waiting)
        pattern = options.patterns.get("task", "*")
        tasks |= {run.task for run in unfinished.missing if matches(run.task, pattern)}
    comparison = compare(pairing)
    groups = _groups(results, tasks, options.group_by)
    priors = correct_label_priors(pairing, results.answers, groups)
    replies = compare_replies(pairing, results.answers)
    findings = (study_findings(study, pairing, comparison, priors, replies) for study in results.studies)
    of_methods = [(compared, method_findings(compared, pairing, priors)) for compared in results.method_comparisons]
    left_out = [
        f"methods of {compared.model}: not all of their runs are in this report, or can be paired by document."
        for compared, found in of_methods
        if found is None and (compared.is_finished or unfinished is None)
    ]
    return Report(
        runs=results.runs,
        comparison=comparison,
        groups=macro_averages(pairing, groups),
        subjects=by_subject(pairing),
        flips=find_flips(pairing, results.runs, options.most_flips),
        notes=(*pairing.notes, *left_out),
        unpaired_notes=pairing.unpaired_notes,
        unfinished=unfinished,
        studies=tuple(found for found in findings if found is not None),
        method_comparisons=tuple(found for _, found in of_methods if found is not None),
        priors=priors,
        replies=replies,
    )


def _check_there_are_heads(results: Results) -> None:
    """Raise ReportError where all that is there is the baseline of a comparison of methods that found no heads."""
    records = [compared.record for compared in results.method_comparisons]
    have_none = records and all(record.searched is not None and not record.with_heads for record in records)
    if have_none and results.runs["is_baseline"].all():
        raise ReportError(
            "no head was chosen for any method, so there is nothing to report on: methods.csv, which act-eval study wrote, has "
            "the scores of the baseline."
        )


def _groups(results: Results, tasks: set[str], group_by: GroupBy) -> dict[str, TaskGroup]:
    """The groups of `tasks` that are averaged, by name; all tasks too, where there are several that no group holds alone."""
    of_tags = {name: TaskGroup(members) for name, members in results.tags.items()}
    named = {"group": results.groups, "tag": of_tags}.get(group_by, {})
    groups = {name: group for name, group in named.items() if len(tasks & set(group.tasks)) > 1}
    if group_by != "none" and len(tasks) > 1 and not any(tasks == set(group.tasks) for group in groups.values()):
        groups[ALL_TASKS] = TaskGroup(tuple(sorted(tasks)))
    return groups
