"""What modes of the head search find, and what that costs, over seeds: gains are measured on documents that no search saw.

python benchmarks/search_modes.py --help
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from lm_eval.utils import simple_parse_args_string
from rich.console import Console
from scipy import stats
from timing import machine, save

from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import load_tasks, task_manager
from act_eval.profiles import HeadProfile
from act_eval.progress import ProgressDisplay
from act_eval.search.documents import CalibrationDocument, load_documents
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.heads import profile_from_heads
from act_eval.search.objective import LabelPriors
from act_eval.search.planned_costs import PlannedCosts
from act_eval.search.results import SearchResult
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.search.stages import Stages
from act_eval.search.store import UnitStore
from act_eval.search.time_left import TimeLeft
from act_eval.search.units import UnitRunner

_OTHER_SEED = 1000


class HeldOut:
    """Documents of the training splits that no search with one seed draws, and the gains of head sets on them.

    Args:
        model: which model.
        prompts: of the searches.
        limit: documents per task, at most.
        folder: keeps what was scored.
    """

    def __init__(self, model: ModelSettings, prompts: PromptSettings, limit: int, folder: Path) -> None:
        self._settings = SearchSettings(model, prompts)
        lm = ACTLM(**model.lm_arguments(act_profile="none"))
        searched = set(self._load(lm, prompts.seed, prompts.limit))
        drawn = self._load(lm, prompts.seed + _OTHER_SEED, limit)
        self.documents = [document for document in drawn if document not in searched]
        batch_size = model.whole_batch_size()
        store = UnitStore.open(folder, {"seed": prompts.seed, "limit": limit, "documents": len(self.documents)}, 0)
        time_left = TimeLeft(PlannedCosts(len(self.documents), 1, 1.0, 0.0, 0.0, 0.0, 1.0))
        units = UnitRunner(store, 0, 1, batch_size, time_left, ProgressDisplay(Console(quiet=True)))
        self._priors = LabelPriors.of_search("corrected-margin", self.documents)
        self._stages = Stages(units, HeadEvaluator(lm, self._settings.act, [0], batch_size), self._priors)

    def _load(self, lm: ACTLM, seed: int, limit: int | float | None) -> list[CalibrationDocument]:
        names = self._settings.prompts.tasks
        manager = task_manager(names)
        tasks = {name: task for given in names for name, task in load_tasks(given, manager).items()}
        return load_documents(lm, tasks, PromptSettings(names, limit, seed=seed))

    def gains(self, profile: HeadProfile) -> dict[str, float]:
        """The changes of mean accuracy (points) and margin (nats), and of both after label priors are subtracted."""
        found = {}
        for name in ("", "corrected "):
            of_profile, of_none = (self._score(heads, bool(name)) for heads in (profile, HeadProfile({})))
            found[f"{name}accuracy"] = 100 * float(of_profile[0] - of_none[0])
            found[f"{name}margin"] = float(of_profile[1] - of_none[1])
        return found

    def _score(self, profile: HeadProfile, corrected: bool) -> tuple[float, float]:
        order, scores, _ = self._stages.score_head_set(self.documents, profile)
        if corrected:
            scores = self._priors.correct([self.documents[number] for number in order], scores)
        return scores.correct.mean(), scores.margin.mean()


def best_heads(result: SearchResult) -> HeadProfile:
    """The chosen heads or, where there is no evidence for any, those of the best set that was tried."""
    if result.profile.size or result.gain is None:
        return result.profile
    return profile_from_heads(result.candidates[: result.gain.heads])


def gain_of_chosen(row: Mapping[str, Any]) -> float:
    """What a search gives its user: the change of accuracy by the chosen heads, 0 where there are none."""
    return row["accuracy"] if row["chosen"] else 0.0


def mean_and_interval(values: list[float]) -> str:
    """The mean over seeds, and its 95% interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def main(
    name: Annotated[str, typer.Option(help="Of the results file.")] = "act-eval-demo",
    model_args: str = "act_alpha=5,dtype=float32",
    tasks: str = "demo_sentiment,demo_topic,demo_choice",
    layers: Annotated[str, typer.Option(help="All, or as of act-eval search.")] = "all",
    modes: Annotated[str, typer.Option(help="Each with an objective after a colon, or without.")] = "screened,estimated",
    limit: int = 40,
    held_out: Annotated[int, typer.Option(help="Documents per task that no search sees.")] = 100,
    seeds: str = "0,1,2,3,4",
    batch_size: int = 32,
    budget: float = 0.12,
    folder: Annotated[Path, typer.Option(help="Keeps all searches, which go on where they were.")] = Path("search-modes"),
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print for each mode, over seeds, what its best head set gains on further documents, and what it cost."""
    for logger in ("lm_eval", "act_eval"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    model = ModelSettings(simple_parse_args_string(model_args), device="cpu", batch_size=batch_size)
    rows: list[dict[str, Any]] = []
    for seed in map(int, seeds.split(",")):
        prompts = PromptSettings(tuple(tasks.split(",")), limit=limit, seed=seed)
        further = HeldOut(model, prompts, held_out, folder / f"{seed}-held-out")
        for asked in modes.split(","):
            mode, _, objective = asked.partition(":")
            given = {"mode": mode, "objective": objective or "margin", "budget": budget, "layers": layers}
            began = time.perf_counter()
            result = run_search(
                SearchSettings(model, prompts, **given),  # type: ignore[arg-type]
                folder / f"{seed}-{asked.replace(':', '-')}",
                Console(quiet=True),
            )
            row = {
                "seed": seed,
                "mode": asked,
                "seconds": time.perf_counter() - began,
                "passes": result.full_passes["total"],
                "chosen": result.profile.size,
                "best": best_heads(result).size,
                "p": None if result.gain is None else result.gain.p_value,
                "documents": len(further.documents),
                **further.gains(best_heads(result)),
            }
            rows.append(row)
            print(row, flush=True)
    for asked in modes.split(","):
        print(asked)
        of_mode = [row for row in rows if row["mode"] == asked]
        for measure in ("passes", "seconds", "best", "chosen", "accuracy", "margin", "corrected accuracy", "corrected margin"):
            print(f"  {measure}: {mean_and_interval([row[measure] for row in of_mode])}")
        print(f"  accuracy of what was chosen: {mean_and_interval([gain_of_chosen(row) for row in of_mode])}")
    if len(modes.split(",")) == 2:
        first, second = ([row for row in rows if row["mode"] == asked] for asked in modes.split(","))
        for measure in ("accuracy", "margin", "corrected accuracy", "corrected margin"):
            differences = [after[measure] - before[measure] for before, after in zip(first, second, strict=True)]
            print(f"second less first, {measure}: {mean_and_interval(differences)}")
        of_chosen = [gain_of_chosen(after) - gain_of_chosen(before) for before, after in zip(first, second, strict=True)]
        print(f"second less first, accuracy of what was chosen: {mean_and_interval(of_chosen)}")
    if write:
        settings = {
            "model": Path(str(model.model_args.get("pretrained", "act-eval-demo"))).name,
            "model_args": {key: value for key, value in model.model_args.items() if key != "pretrained"},
            "tasks": tasks,
            "layers": layers,
            "limit": limit,
            "batch_size": batch_size,
            "budget": budget,
        }
        save(f"search-modes-{name}", {"machine": machine("cpu"), "settings": settings, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
