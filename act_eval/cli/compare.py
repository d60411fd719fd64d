"""`act-eval compare`: baseline and ACT in one go, then the report."""

from __future__ import annotations

from act_eval.cli.failures import goes_on
from act_eval.cli.foreseen import say_foreseen
from act_eval.cli.options import (
    DryRun,
    Output,
    Seeds,
    TrackioArgs,
    WandbArgs,
    WandbConfigArgs,
    tracker_settings,
    whole_numbers,
    with_settings,
)
from act_eval.cli.report import report_on
from act_eval.cli.terminal import console
from act_eval.harness.settings import ModelSettings, PromptSettings


@with_settings(without=("seed",))
@goes_on
def compare(
    *,
    prompts: PromptSettings,
    output: Output,
    model: ModelSettings,
    seeds: Seeds = "1234",
    dry_run: DryRun = False,
    wandb_args: WandbArgs = "",
    wandb_config_args: WandbConfigArgs = "",
    trackio_args: TrackioArgs = "",
) -> None:
    """Run baseline and ACT on the same tasks, the model loaded once, then report. Finished parts are not run again.

    Example: act-eval compare --tasks demo_choice --model-args act_profile=all,act_alpha=5 --device cpu --output results-of-mine
    """
    from act_eval.compare import ComparisonSettings, foresee_runs, plan_comparison, run_comparison

    settings = ComparisonSettings(model, prompts, whole_numbers("seeds", seeds))
    trackers = tracker_settings(wandb_args, wandb_config_args, trackio_args)
    if dry_run:
        return say_foreseen(foresee_runs(plan_comparison(settings), output))
    from act_eval.trackers import tracking

    with tracking(trackers) as runs:
        finished = run_comparison(settings, output, console, runs.start)
        if finished is not None:
            report_on([output], output, is_wanted=lambda content: not finished.is_outdated(content))
            runs.log(output, finished.has)
