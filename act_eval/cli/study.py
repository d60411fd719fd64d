"""`act-eval study`: from a model to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from act_eval.cli.failures import goes_on
from act_eval.cli.foreseen import say_foreseen, say_foreseen_study
from act_eval.cli.options import (
    CONTROLS,
    DOCUMENTS,
    RUNNING,
    SEARCH,
    DryRun,
    Layers,
    Mode,
    Objective,
    Output,
    Seeds,
    Selection,
    TopK,
    TrackioArgs,
    WandbArgs,
    WandbConfigArgs,
    names,
    option,
    tracker_settings,
    whole_numbers,
    with_settings,
)
from act_eval.cli.report import report_on
from act_eval.cli.terminal import console, say, say_written
from act_eval.errors import SettingError
from act_eval.harness.settings import ModelSettings, PromptSettings

if TYPE_CHECKING:
    from act_eval.compare.recorded import FinishedRuns
    from act_eval.report.verdict import Conclusion
    from act_eval.study import StudySettings
    from act_eval.study.methods import MethodComparison
    from act_eval.trackers import TrackerSettings


@with_settings(without=("seed",), batch_size="8")
@goes_on
def study(
    *,
    prompts: PromptSettings,
    output: Output,
    model: ModelSettings,
    also: Annotated[
        str, option(DOCUMENTS, "Tasks that are only evaluated, to see what the heads do elsewhere.", default="none")
    ] = "",
    also_limit: Annotated[float | None, option(DOCUMENTS, "Documents of each of those.", default="as --limit")] = None,
    search_tasks: Annotated[
        str, option(SEARCH, "Tasks to search on.", default="all of --tasks that have training documents")
    ] = "",
    search_limit: Annotated[int, option(SEARCH, "Training documents of each.")] = 100,
    layers: Layers = None,
    mode: Mode = "auto",
    objective: Objective = "margin",
    selection: Selection = "validated",
    k: TopK = None,
    methods: Annotated[
        str,
        option(
            CONTROLS,
            "Several methods, each with a search of its own, against one baseline and without other controls.",
            default="none: one method, as --model-args say",
            metavar="ACT,ZEROTUNING,...",
        ),
    ] = "",
    random_draws: Annotated[int | None, option(CONTROLS, "Sets of random heads to compare with.", default="3")] = None,
    seeds: Seeds = "1234",
    dry_run: DryRun = False,
    expect: Annotated[
        float | None,
        option(
            RUNNING,
            "With --dry-run: do the documents suffice to find such a difference?",
            default="not asked",
            metavar="POINTS",
        ),
    ] = None,
    pilot: Annotated[
        Path | None,
        option(
            RUNNING,
            "With --expect: a comparison of a few documents, which says how many answers change.",
            default="none: any share of them may",
        ),
    ] = None,
    wandb_args: WandbArgs = "",
    wandb_config_args: WandbConfigArgs = "",
    trackio_args: TrackioArgs = "",
) -> None:
    """Search for heads, compare them with the baseline and with controls, and say what comes of it.

    Heads are searched for on training documents; then baseline, heads found, all heads, random heads and the heads found
    switched off are evaluated, and a verdict follows by rule. With --methods, each method has a search on the same documents,
    and one table has all of them. Finished parts are not run again.

    Example: act-eval study --tasks demo_topic,demo_choice --model-args act_alpha=5 --layers all --output study-of-all-layers
    """
    from act_eval.study import StudySettings

    beside = names(also)
    if also_limit is not None and not beside:
        raise SettingError("also_limit", "is about tasks that are evaluated beside: name some with --also.")
    study = partial(
        StudySettings,
        prompts=prompts,
        also=beside,
        also_limit=also_limit,
        search_tasks=names(search_tasks),
        search_limit=search_limit,
        layers=layers,
        mode=mode,  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        selection=selection,  # type: ignore[arg-type]
        k=k,
        seeds=whole_numbers("seeds", seeds),
    )
    if random_draws is not None:
        study = partial(study, random_draws=random_draws)
    trackers = tracker_settings(wandb_args, wandb_config_args, trackio_args)
    if methods:
        for name, value in (("expect", expect), ("pilot", pilot), ("random_draws", random_draws)):
            if value is not None:
                raise SettingError(name, "is about a study of one method: leave it or --methods out.")
        from act_eval.study.methods import MethodComparison

        comparison = MethodComparison.of_methods(study, model, names(methods))
        return compare_methods_and_report(comparison, output, dry_run, trackers)
    settings = study(model)
    if dry_run:
        return say_foreseen_study(settings, output, expect, pilot)
    for name, value in (("expect", expect), ("pilot", pilot)):
        if value is not None:
            raise SettingError(name, "goes with --dry-run, which says what documents would show: give both.")
    study_and_report(settings, output, trackers)


def compare_methods_and_report(comparison: MethodComparison, output: Path, dry_run: bool, trackers: TrackerSettings) -> None:
    """Compare methods, or what is left of it, and report on it; or say what would run."""
    from act_eval.compare.foresee import foresee_runs
    from act_eval.report.methods import check_paired_scores
    from act_eval.study.methods import compare_methods, foresee_methods
    from act_eval.trackers import tracking

    if dry_run:
        lines, plan = foresee_methods(comparison, output)
        say(lines)
        say_foreseen(foresee_runs(plan, output))
        return
    with tracking(trackers) as runs:
        compared = compare_methods(comparison, output, console, runs.start)
        if compared is None:
            return
        if compared.record.with_heads:
            report = report_on([output], output, is_wanted=compared.runs.has)
            check_paired_scores(compared.record, report.comparison)
            runs.log(output, compared.runs.has)
        else:
            runs.log(output, compared.runs.has, _say_baseline(compared.runs, output))


def _say_baseline(runs: FinishedRuns, output: Path) -> Sequence[Conclusion]:
    """Say what the baseline scores, where no method has heads, so that there is nothing to report on; and what it comes to."""
    from act_eval.files import write_texts
    from act_eval.report.load import load
    from act_eval.report.method_tables import METHODS_CSV, print_methods
    from act_eval.report.methods import findings_without_heads
    from act_eval.report.study_tables import rows_with_models
    from act_eval.tables import csv_text

    results = load([output], runs.has)
    findings = [findings_without_heads(comparison, results) for comparison in results.method_comparisons]
    for of_methods in findings:
        print_methods(of_methods, console)
    say_written(write_texts({METHODS_CSV: csv_text(rows_with_models(findings))}, output))
    return findings


def study_and_report(settings: StudySettings, output: Path, trackers: TrackerSettings | None = None) -> None:
    """Run a study, or what is left of it, report on it, and log it where trackers are named."""
    from act_eval.study import run_study
    from act_eval.trackers import TrackerSettings, tracking

    with tracking(trackers or TrackerSettings()) as runs:
        finished = run_study(settings, output, console, runs.start)
        if finished is not None:
            report_on([output], output, is_wanted=lambda content: not finished.is_outdated(content))
            runs.log(output, finished.has)
