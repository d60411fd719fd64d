"""Time and memory of `act-eval report` on many results: files as lm-eval writes them, filled with random answers.

python benchmarks/report.py --help
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from timing import machine, save


def write_set(folder: Path, model: str, task: str, heads: int, documents: int, rng: random.Random) -> None:
    """A results file and its samples; heads 0 makes a baseline."""
    date = f"2026-01-01T00-00-00.{rng.randrange(10**6):06d}"
    act: dict[str, Any] = {"method": "act", "parameters": {"beta": 0.4}, "threshold": None, "alpha": 5, "keep": "first-sink"}
    act |= {"decode": "prefill", "sink_share": 1.0, "base": None, "changes_nothing": False, "profile": "all"}
    act |= {"profile_hash": "0" * 16, "num_heads": heads, "text": f"all ({heads} heads), beta 0.4, alpha 5"}
    config = {"model": "act-hf", "model_args": {"pretrained": model}, "fewshot_seed": 1234, "limit": None}
    results = {
        "results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.01}},
        "configs": {task: {}},
        "versions": {task: 1},
        "n-shot": {task: 0},
        "n-samples": {task: {"original": documents, "effective": documents}},
        "config": {**config, "act": act},
        "model_name": model,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{date}.json").write_text(json.dumps(results))
    with (folder / f"samples_{task}_{date}.jsonl").open("w") as file:
        for number in range(documents):
            prompt = f"Question {number}: " + "which of these words fits into the sentence? " * 5
            scores = [f"{-10 * rng.random():.6f}" for _ in range(4)]
            sample = {
                "doc_id": number,
                "doc": {"question": prompt, "label": number % 4},
                "target": str(number % 4),
                "arguments": {f"gen_args_{choice}": {"arg_0": prompt, "arg_1": f" {choice}"} for choice in range(4)},
                "resps": [[[score, "False"]] for score in scores],
                "filtered_resps": [[score, "False"] for score in scores],
                "filter": "none",
                "metrics": ["acc"],
                **{f"{name}_hash": f"{hash((name, task, number)) & (2**256 - 1):064x}" for name in ("doc", "prompt", "target")},
                "acc": float(rng.random() < 0.5),
            }
            file.write(json.dumps(sample) + "\n")


def main(
    models: int = 4,
    tasks: int = 25,
    documents: int = 5000,
    write: Annotated[bool, typer.Option(help="Save the figures to benchmarks/results.")] = False,
) -> None:
    """Baseline and ACT of each model on each task, aggregated in a process of its own."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in range(models):
            for task in range(tasks):
                for heads in (0, 32):
                    write_set(folder / f"model{model}", f"model{model}", f"task{task:02d}", heads, documents, rng)
        size = sum(file.stat().st_size for file in folder.rglob("*.jsonl"))
        command = [sys.executable, "-m", "act_eval", "report", str(folder), "--output", str(folder / "report")]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    sets = 2 * models * tasks
    row = {"sets": sets, "samples": sets * documents, "bytes": size, "seconds": seconds, "peak_gib": peak}
    print(row)
    if write:
        save("report", {"machine": machine("cpu"), **row})


if __name__ == "__main__":
    typer.run(main)
