"""`act-eval demo`: a search and a comparison on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from act_eval.cli.failures import goes_on
from act_eval.cli.options import Output
from act_eval.cli.report import report_on
from act_eval.cli.terminal import console, quiet, say
from act_eval.harness.settings import ModelSettings, PromptSettings


@goes_on
def demo(
    output: Output = Path("act-eval-demo"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents per task; all test documents, and 100 to search on.")
    ] = None,
) -> None:
    """Search for heads on the embedded demo model, then compare it with ACT, in those heads and in all: offline, on a CPU."""
    quiet()

    from act_eval.compare import ComparisonSettings, run_comparison
    from act_eval.search.run import run_search
    from act_eval.search.settings import SearchSettings

    tasks, act, heads = ("demo_sentiment", "demo_topic", "demo_choice"), {"act_alpha": 5}, output / "heads"
    settings = SearchSettings(
        ModelSettings(act, device="cpu", batch_size=32),
        PromptSettings(tasks, limit=limit or 100),
        layers="all",
        selection="top-k",
        k=4,
    )
    say(run_search(settings, heads, console).summary())
    finished = []
    for profile in ("all", str(heads / "profile.json")):
        model = ModelSettings({"act_profile": profile, **act}, device="cpu", batch_size="50")
        finished.append(run_comparison(ComparisonSettings(model, PromptSettings(tasks, limit=limit)), output, console))
    report_on([output], output, is_wanted=lambda content: not any(runs.is_outdated(content) for runs in finished if runs))
