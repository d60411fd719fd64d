"""`act-eval demo`: a study of the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from act_eval.cli.failures import goes_on
from act_eval.cli.options import DOCUMENTS, Output, option
from act_eval.cli.study import study_and_report
from act_eval.cli.terminal import quiet
from act_eval.harness.settings import ModelSettings, PromptSettings

_TASKS = ("demo_sentiment", "demo_topic", "demo_choice")
_DOCUMENTS, _SEARCHED_DOCUMENTS, _HEADS = 200, 100, 4


@goes_on
def demo(
    output: Output = Path("act-eval-demo"),
    limit: Annotated[
        int | None, option(DOCUMENTS, "Documents per task, and to search on.", default="200, and 100 to search on", min=1)
    ] = None,
) -> None:
    """Study the embedded demo model, from the search to the verdict: offline, on a CPU, in a few minutes.

    The same as act-eval study --tasks demo_sentiment,demo_topic,demo_choice --limit 200 --layers all --selection top-k --k 4
    --model-args act_alpha=5 --device cpu.

    Example: act-eval demo --limit 20
    """
    quiet()

    from act_eval.study import StudySettings

    settings = StudySettings(
        ModelSettings({"act_alpha": 5}, device="cpu", batch_size=50),
        PromptSettings(_TASKS, limit=limit or _DOCUMENTS),
        search_limit=limit or _SEARCHED_DOCUMENTS,
        layers="all",
        selection="top-k",
        k=_HEADS,
    )
    study_and_report(settings, output)
