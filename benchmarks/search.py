"""What a head search costs, and what screening loses: exact and screened search against one full evaluation per head.

python benchmarks/search.py --help
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from lm_eval.utils import simple_parse_args_string
from timing import machine, save

from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import load_tasks, task_manager
from act_eval.profiles import HeadProfile
from act_eval.search.documents import load_documents
from act_eval.search.results import SearchResult
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings


def naive_seconds(settings: SearchSettings, heads: list[tuple[int, int]]) -> float:
    """Time of one evaluation through act-hf for each head, and one without; documents are loaded and tokenized before."""
    lm = ACTLM(**settings.model.lm_arguments(act_profile="none", batch_size=settings.model.batch_size))
    manager = task_manager(settings.prompts.tasks)
    tasks = {name: task for given in settings.prompts.tasks for name, task in load_tasks(given, manager).items()}
    documents = load_documents(lm, tasks, settings.prompts)
    requests = [(("", ""), list(context), list(tokens)) for document in documents for context, tokens in document.requests]
    began = time.perf_counter()
    profiles: list[str | HeadProfile] = ["none", *(HeadProfile({layer: (head,)}) for layer, head in heads)]
    for profile in profiles:
        lm.set_act(replace(ACTArguments.from_model_args(settings.model.model_args), profile=profile))
        lm._loglikelihood_tokens(requests, disable_tqdm=True)
    return time.perf_counter() - began


def top_decile(result: SearchResult) -> set[tuple[int, int]]:
    """The heads with the greatest margin change, a tenth of all."""
    best = result.heads.sort_values("margin_change", ascending=False, kind="stable").head(round(len(result.heads) / 10))
    return set(zip(best["layer"], best["head"], strict=True))


def main(
    name: Annotated[str, typer.Option(help="Of the results file.")] = "act-eval-demo",
    model_args: str = "act_alpha=5,dtype=float32",
    tasks: str = "demo_sentiment,demo_topic,demo_choice",
    limit: int = 40,
    batch_size: int = 32,
    budget: float = 0.12,
    naive: Annotated[bool, typer.Option(help="Time the naive loop, too.")] = True,
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print costs in full-pass equivalents, wall times, and how many of the best heads screening kept."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("act_eval").setLevel(logging.ERROR)
    common: dict[str, Any] = {
        "model": ModelSettings(simple_parse_args_string(model_args), device="cpu", batch_size=batch_size),
        "prompts": PromptSettings(tuple(tasks.split(",")), limit=limit),
        "layers": "all",
        "selection": "improving",
    }
    results, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("exact", "screened"):
            began = time.perf_counter()
            results[mode] = run_search(SearchSettings(**common, mode=mode, budget=budget), Path(folder) / mode)
            seconds[mode] = time.perf_counter() - began
    exact, screened = results["exact"], results["screened"]
    heads = len(exact.heads)
    best = top_decile(exact)
    finalists = screened.heads[screened.heads["documents"] == screened.heads["documents"].max()]
    kept = best & set(zip(finalists["layer"], finalists["head"], strict=True))
    correlation = exact.heads["margin_change"].corr(screened.heads["estimate"], method="spearman")
    settings = SearchSettings(**common, mode="exact")
    if naive:
        seconds["naive"] = naive_seconds(settings, list(zip(exact.heads["layer"], exact.heads["head"], strict=True)))
    row = {
        "heads": heads,
        "exact_passes": exact.full_passes["total"],
        "exact_limit": 0.6 * heads,
        "screened_passes": screened.full_passes["total"],
        "screened_limit": 4 + 0.12 * heads,
        "top_decile": len(best),
        "top_decile_kept": len(kept),
        "spearman": float(np.round(correlation, 3)),
        "scored_fully": len(finalists),
        "seconds": seconds,
    }
    for key, value in row.items():
        print(f"{key}: {value}")
    if write:
        act = {key: value for key, value in settings.model.model_args.items() if key != "pretrained"}
        settings_written = {
            "model": Path(str(settings.model.model_args.get("pretrained", "act-eval-demo"))).name,
            "model_args": act,
            "tasks": tasks,
            "limit": limit,
            "batch_size": batch_size,
            "budget": budget,
        }
        save(f"search-{name}", {"machine": machine("cpu"), "settings": settings_written, **row})


if __name__ == "__main__":
    typer.run(main)
