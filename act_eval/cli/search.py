"""`act-eval search`: find the heads to calibrate."""

from __future__ import annotations

from typing import Annotated

from act_eval.cli.failures import goes_on
from act_eval.cli.options import SEARCH, Layers, Mode, Objective, Output, Selection, TopK, option, with_settings
from act_eval.cli.terminal import console, say
from act_eval.harness.settings import ModelSettings, PromptSettings


@with_settings(limit=100, batch_size="8")
@goes_on
def search(
    *,
    prompts: PromptSettings,
    output: Output,
    model: ModelSettings,
    layers: Layers = None,
    mode: Mode = "auto",
    budget: Annotated[
        float, option(SEARCH, "Of screened mode: exact scores cost at most this share of a full pass for each head.")
    ] = 0.12,
    selection: Selection = "validated",
    k: TopK = None,
    objective: Objective = "margin",
) -> None:
    """Find the heads whose calibration helps, on training documents. A search that was stopped goes on where it was.

    By default all layers but the first two and the last are searched.

    Example: act-eval search --tasks demo_topic,demo_choice --layers all --model-args act_alpha=5 --output heads-of-mine
    """
    from act_eval.search.run import run_search
    from act_eval.search.settings import SearchSettings

    settings = SearchSettings(model, prompts, layers, mode, budget, selection, k, objective)  # type: ignore[arg-type]
    result = run_search(settings, output, console)
    say([*result.summary(), f"wrote {result.profile.size} heads to {output / 'profile.json'}"])
