"""Studies among results: which runs are theirs, and what their variants are called."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from act_eval.planned_runs import PlannedRun, missing_runs
from act_eval.report.settings_text import names_of_variants
from act_eval.study_record import (
    METHODS_FILE,
    STUDY_COMMAND,
    STUDY_FILE,
    MethodsRecord,
    StudyRecord,
    read_methods,
    read_study,
)

Record = TypeVar("Record", StudyRecord, MethodsRecord)


@dataclass(frozen=True)
class LoadedStudy(Generic[Record]):
    """A study, or a comparison of methods, whose runs are among some results.

    Attributes:
        record: what it is about.
        model: its name.
        settings: by variant, the settings of ACT in one line, of the variants that have runs.
        with_profiles: by variant, the same settings with the profile in place of the variant, as results files have them.
        runs: its runs as they were planned, by their index in `load.Results.runs`. Runs of other heads than the record names
            are not its own.
        evaluations: what its runs evaluated, see `evaluations`.
        is_finished: whether all its runs are there.
    """

    record: Record
    model: str
    settings: Mapping[str, str]
    with_profiles: Mapping[str, str]
    runs: Mapping[int, PlannedRun]
    evaluations: frozenset[tuple[Any, ...]]
    is_finished: bool

    def by_variant(self, values: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The rows of values (see `pairing.Pairing`) of its own calibrated runs, in scores that count, by variant."""
        counting = {(task, score.metric, score.filter) for task, score in self.record.scores.items()}
        names = zip(values["task"], values["metric"], values["filter"], strict=True)
        counts = pd.Series([name in counting for name in names], index=values.index, dtype=bool)
        own = values[counts & values["run_calibrated"].isin(list(self.runs))]
        by_name = dict(iter(own.groupby(own["run_calibrated"].map(lambda run: self.runs[run].variant))))
        return {variant: by_name[variant] for variant in self.settings if variant in by_name}

    def is_whole(self, by_variant: Mapping[str, pd.DataFrame], variants: Collection[str]) -> bool:
        """Whether what `by_variant` gives has every planned run of some variants, each task and few-shot seed."""
        there = {self.runs[run].name for rows in by_variant.values() for run in rows["run_calibrated"].unique()}
        wanted = {run.name for run in self.runs.values() if run.variant in variants and run.task in self.record.scores}
        return wanted <= there


@dataclass(frozen=True)
class RunsOfFile:
    """What a results file of a comparison holds.

    Attributes:
        file: where it is.
        asked: what the comparison was asked for.
        runs: rows of `load.Results.runs`; not empty.
    """

    file: Path
    asked: Mapping[str, Any]
    runs: pd.DataFrame


@dataclass(frozen=True)
class RecordedStudies:
    """The records of studies and of comparisons of methods, by their folders.

    Attributes:
        studies: of one method.
        method_comparisons: of several.
        planned: what is to run in the folders of both, by folder.
    """

    studies: Mapping[Path, StudyRecord]
    method_comparisons: Mapping[Path, MethodsRecord]
    planned: Mapping[Path, Sequence[PlannedRun]]

    @classmethod
    def beside(cls, plans: Mapping[Path, Sequence[PlannedRun]]) -> RecordedStudies:
        """Read the records that lie beside some files of planned runs. Raises InputError where one holds something else."""
        planned = {file.parent: of_folder for file, of_folder in plans.items()}
        studies = {folder: folder / STUDY_FILE for folder in planned}
        of_methods = {folder: folder / METHODS_FILE for folder in planned}
        return cls(
            {folder: read_study(file) for folder, file in studies.items() if file.is_file()},
            {folder: read_methods(file) for folder, file in of_methods.items() if file.is_file()},
            planned,
        )

    def loaded_studies(self, read: Sequence[RunsOfFile]) -> tuple[LoadedStudy[StudyRecord], ...]:
        """The studies that runs are there of."""
        return tuple(self._with_runs(self.studies, read))

    def loaded_method_comparisons(self, read: Sequence[RunsOfFile]) -> tuple[LoadedStudy[MethodsRecord], ...]:
        """The comparisons of methods that runs are there of."""
        return tuple(self._with_runs(self.method_comparisons, read))

    def _with_runs(self, records: Mapping[Path, Record], read: Sequence[RunsOfFile]) -> Iterator[LoadedStudy[Record]]:
        """What runs are there of. What other commands planned in a folder, and what they ran there, is not its study's."""
        for folder, record in records.items():
            # Version 0.2 did not say which command.
            planned = [run for run in self.planned[folder] if run.command in (STUDY_COMMAND, "")]
            below = [part for part in read if folder in part.file.parents]
            runs = [(run, part) for part in below for run in planned if run.asked == part.asked and _is_of(record, run, part)]
            if not runs:
                continue
            settings = {run.variant: str(part.runs.iloc[0]["settings"]) for run, part in runs}
            by_number = {int(number): run for run, part in runs for number in part.runs.index}
            missing = missing_runs(planned, (part.asked for _, part in runs))
            evaluated = frozenset(itertools.chain(*(evaluations(part.runs) for _, part in runs)))
            model = str(runs[0][1].runs.iloc[0]["model"])
            yield LoadedStudy(record, model, settings, settings, by_number, evaluated, is_finished=not missing)


def _is_of(record: StudyRecord | MethodsRecord, run: PlannedRun, part: RunsOfFile) -> bool:
    """Whether the heads of a results file are those that a record says a run calibrates, where it says so."""
    wanted = record.profile_hash_of(run.variant)
    recorded = part.runs.iloc[0]["arguments"].get("act") or {}
    return wanted is None or recorded.get("profile_hash") == wanted


def evaluations(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Task, few-shot count, limit and seed of rows; None where there is none, as for seeds in tables over all of them."""
    columns = rows.reindex(columns=["task", "num_fewshot", "limit", "seed"]).astype(object)
    return list(columns.where(columns.notna(), None).itertuples(index=False, name=None))


def names_in(studies: Iterable[LoadedStudy[StudyRecord]]) -> dict[tuple[str, str], str]:
    """What settings that studies compare are called, see `settings_text.names_of_variants`."""
    return names_of_variants((study.model, study.with_profiles) for study in studies)


def with_names(study: LoadedStudy[Record], names: Mapping[tuple[str, str], str]) -> LoadedStudy[Record]:
    """A study whose settings have some of these names, which are by model and settings."""
    settings = {variant: names.get((study.model, text), text) for variant, text in study.with_profiles.items()}
    return replace(study, settings=settings)
