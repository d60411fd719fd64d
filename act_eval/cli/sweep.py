"""`act-eval sweep`: a grid of settings against one baseline."""

from __future__ import annotations

from typing import Annotated

from act_eval.cli.failures import goes_on
from act_eval.cli.foreseen import say_foreseen
from act_eval.cli.options import GRID, OUTPUT, DryRun, Output, Seeds, option, whole_numbers, with_settings
from act_eval.cli.terminal import console, say_written
from act_eval.harness.settings import ModelSettings, PromptSettings


@with_settings(without=("seed",))
@goes_on
def sweep(
    *,
    prompts: PromptSettings,
    output: Output,
    vary: Annotated[
        list[str],
        option(GRID, "What varies, an argument of act-hf without act_: beta=0,0.2,0.4 or method=act,boost. Repeat."),
    ],
    model: ModelSettings,
    metric: Annotated[
        str | None, option(OUTPUT, "What tables and plots show.", default="the metric that most tasks have")
    ] = None,
    seeds: Seeds = "1234",
    dry_run: DryRun = False,
) -> None:
    """Compare ACT with the baseline over a grid of settings, the baseline run once. Finished parts are not run again.

    Example: act-eval sweep --tasks demo_topic --vary beta=0,0.4 --model-args act_profile=all,act_alpha=5 --output sweep-of-mine
    """
    from act_eval.compare import ComparisonSettings, foresee_runs
    from act_eval.sweep.grid import Axis
    from act_eval.sweep.run import plan_sweep, run_sweep
    from act_eval.sweep.tables import main_metric, print_tables
    from act_eval.sweep.write import write_sweep

    axes = [Axis.parse(text) for text in vary]
    settings = ComparisonSettings(model, prompts, whole_numbers("seeds", seeds))
    if dry_run:
        return say_foreseen(foresee_runs(plan_sweep(settings, axes, metric), output))
    results = run_sweep(settings, axes, output, console, metric)
    if results is not None:
        shown = main_metric(results, metric)
        print_tables(results, shown, console)
        say_written(write_sweep(results, shown, output))
