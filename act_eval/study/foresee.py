"""What a study would do: its search, its runs, and what its documents would show. No weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from act_eval.compare.foresee import ForeseenRun, foresee_runs
from act_eval.profiles import HeadProfile
from act_eval.search.plan import plan_search
from act_eval.search.store import PROFILE_FILE
from act_eval.study.expectation import ASSUMED_DISCORDANCES, Expectation, discordance_of_pilot, expect
from act_eval.study.plan import SEARCH_FOLDER, plan_study, plan_variants, variants_of
from act_eval.study.run import gone_on_with
from act_eval.study.settings import StudySettings
from act_eval.study_record import BASELINE, StudyRecord, variants_with_heads


@dataclass(frozen=True)
class ForeseenStudy:
    """What a study would do.

    Attributes:
        record: what it is about.
        search: what its search would cost; empty where it is finished.
        variants: what would be evaluated, by name.
        runs: of all variants; while no heads are found yet, of baseline and all heads alone.
        heads_are_found: whether the search is finished.
        expectations: what the documents would show of the difference that was asked about.
    """

    record: StudyRecord
    search: str
    variants: tuple[str, ...]
    runs: tuple[ForeseenRun, ...]
    heads_are_found: bool
    expectations: tuple[Expectation, ...] = ()


def foresee_study(
    settings: StudySettings, output: Path, difference: float | None = None, pilot: Path | None = None
) -> ForeseenStudy:
    """Say what `run_study` would do with an output folder, which stays as it is.

    Args:
        settings: of the study.
        output: may be missing.
        difference: a share of 1 that the study is to find, or None.
        pilot: folder of a comparison of a few documents, from which it is taken how many answers change; without one, some
            shares are assumed.

    Raises:
        InputError: what `run_study` raises before it loads a model's weights.
    """
    record = gone_on_with(plan_study(settings).record, output)
    folder = output / SEARCH_FOLDER
    planned = plan_search(settings.search(record.searched))
    is_searched = record.search is not None and planned.is_finished_in(folder)
    found = HeadProfile.load(folder / PROFILE_FILE) if is_searched else HeadProfile({})
    variants = variants_of(settings, found, output)
    is_searched = is_searched and all(file.is_file() for file in variants.controls)
    if not is_searched:
        costs = planned.costs.summary()
        variants = variants_of(settings, HeadProfile({}), output)
        names = variants_with_heads(settings.random_draws)
    else:
        costs, names = "", tuple(variants.of_tasks)
    runs = tuple(foresee_runs(plan_variants(settings, variants, record), output))
    sizes = {run.run.task: run.documents for run in runs if run.run.variant == BASELINE and run.run.task in record.scores}
    expectations = () if difference is None else _expectations(difference, pilot, record, sizes)
    return ForeseenStudy(record, costs, names, runs, is_searched, expectations)


def _expectations(
    difference: float, pilot: Path | None, record: StudyRecord, documents: Mapping[str, int]
) -> tuple[Expectation, ...]:
    if pilot is not None:
        return (expect(difference, documents, discordance_of_pilot(pilot, record.scores)),)
    return tuple(expect(difference, documents, dict.fromkeys(documents, assumed)) for assumed in ASSUMED_DISCORDANCES)
