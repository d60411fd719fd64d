"""`act-eval sinks`: where attention sinks are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from act_eval.cli.failures import goes_on
from act_eval.cli.options import DOCUMENTS, FIGURES, Output, option, with_settings
from act_eval.cli.terminal import console, say_written
from act_eval.harness.settings import ModelSettings, PromptSettings


@with_settings(limit=100, batch_size="8")
@goes_on
def sinks(
    *,
    prompts: PromptSettings,
    output: Output,
    model: ModelSettings,
    split: Annotated[str, option(DOCUMENTS, "evaluation or train.")] = "evaluation",
    layers: Annotated[str | None, option(FIGURES, "Layers to look at: all, or such as 2-30,33.")] = "all",
    document: Annotated[
        int | None,
        option(FIGURES, "Also show the map of this document of the first task, by its number in the split.", default="none"),
    ] = None,
    search: Annotated[
        Path | None,
        option(FIGURES, "Also show the accuracy changes per head of a search: its --output folder.", default="none"),
    ] = None,
) -> None:
    """Show where a model's attention sinks are in the documents of tasks: the paper's figures, with the data behind them.

    The heads of act_profile, all by default, are those that are calibrated in the maps after ACT.

    Example: act-eval sinks --tasks demo_sentiment,demo_topic --model-args act_alpha=5 --device cpu --output sinks-of-mine
    """
    from act_eval.sinks.run import run_sinks
    from act_eval.sinks.settings import SinksSettings

    settings = SinksSettings(model, prompts, split, layers or "all", document, search)  # type: ignore[arg-type]
    say_written(run_sinks(settings, output, console))
