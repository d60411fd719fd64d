"""Results and samples as lm-eval writes them."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np


def samples_file(results: Path, task: str) -> Path:
    """Where lm-eval writes a task's samples: samples_{task}_{date}.jsonl beside results_{date}.json."""
    return results.with_name(f"samples_{task}_{results.stem.removeprefix('results_')}.jsonl")


def read_samples(results: Path, task: str) -> list[dict]:
    """The samples of a task in a run, in the order of the file."""
    return [json.loads(line) for line in samples_file(results, task).read_text().splitlines()]


dates = (f"{datetime(2026, 1, 1) + timedelta(seconds=second):%Y-%m-%dT%H-%M-%S.%f}" for second in itertools.count())


def act_settings(heads, beta, older):
    """What results say of ACT, now or, `older`, before they said it in words."""
    settings = {"threshold": 0.1, "alpha": None, "keep": "first-sink", "decode": "prefill"}
    profile = {"profile": "all", "profile_hash": "0" * 16, "num_heads": heads}
    if older:
        return {"beta": beta, **settings, **profile}
    nothing = beta == 1
    text = "baseline" if nothing or not heads else f"all ({heads} heads), beta {beta:g}, threshold 0.1"
    method = {"method": "act", "parameters": {"beta": beta}, "sink_share": 1.0, "base": None, "changes_nothing": nothing}
    return {**method, **settings, **profile, "heads": {}, "text": text}


def write_run(
    folder,
    values,
    *,
    heads=0,
    task="demo",
    version=1,
    limit=None,
    model="some/model",
    prompt="p",
    beta=0.4,
    shots=0,
    seed=1234,
    metric="acc",
    model_args="pretrained=some/model",
    samples=None,
    stock=False,
    older=False,
    what_ran=None,
    config=None,
    task_config=None,
    recorded=None,
    score=None,
    contents=None,
    act=None,
):
    """A results file and its samples, as lm-eval writes them; `stock` by `--model hf`, with `samples` of them (all).

    `values` are what the samples hold, and `score` what lm-eval made of them, by default the mean of numbers.
    `older` files hold ACT's settings as `act_settings` says. `what_ran` is what act-hf records of model and versions; `config`,
    `task_config` and `recorded` are further entries of the file's config, of the task's config and of the file itself;
    `contents` those of each sample, and `act` other settings of ACT.
    """
    date = next(dates)
    score = float(np.mean(values)) if score is None else score
    folder.mkdir(parents=True, exist_ok=True)
    of_the_run = {"model": "hf" if stock else "act-hf", "model_args": model_args, "limit": limit, "fewshot_seed": seed}
    if not stock:
        of_the_run["act"] = {**act_settings(heads, beta, older), **(act or {})}
    if what_ran is not None:
        of_the_run["what_ran"] = what_ran
    results = {
        "model_name": model,
        "config": {**of_the_run, **(config or {})},
        "configs": {task: task_config or {}},
        "versions": {task: version},
        "n-shot": {task: shots},
        "results": {task: {f"{metric},none": score, f"{metric}_stderr,none": 0.1, "alias": task}},
        "n-samples": {task: {"original": 10_000, "effective": len(values)}},
        **(recorded or {}),
    }
    file = folder / f"results_{date}.json"
    file.write_text(json.dumps(results))
    lines = [
        {
            "doc_id": index,
            "doc": {"text": f"text {index}"},
            "doc_hash": f"d{index}",
            "prompt_hash": f"{prompt}{index}",
            "target_hash": f"t{index}",
            "target": "1",
            "arguments": {
                f"gen_args_{choice}": {"arg_0": f"prompt {index}", "arg_1": f" {choice}"} for choice in ("no", "yes")
            },
            "filtered_resps": [["-1.5", "False"], [str(-2.0 + value if isinstance(value, (int, float)) else -2.0), "False"]],
            "filter": "none",
            "metrics": [metric, "text"],
            metric: value,
            "text": "not a number",
            **(contents[index] if contents else {}),
        }
        for index, value in enumerate(values)
    ][:samples]
    if samples != 0:
        samples_file(file, task).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return date


BASELINE = [1.0] * 60 + [0.0] * 40


ACT = [1.0] * 50 + [0.0] * 10 + [1.0] * 25 + [0.0] * 15


LABELS = (" World", " Sports", " Business")


def write_choices(folder, scores, gold, labels=LABELS, context="p", metrics=("acc",), delimiter="", contents=None, **options):
    """A run of a task with the same choices in every document, and the accuracies that lm-eval makes of its scores."""
    scores = np.asarray(scores, dtype=float)
    lengths = np.array([len(label) for label in labels], dtype=float)
    right = {
        "acc": (scores.argmax(axis=1) == gold).astype(float),
        "acc_norm": ((scores / lengths).argmax(axis=1) == gold).astype(float),
    }
    samples = [
        {
            "target": str(gold[document]),
            "arguments": {
                f"gen_args_{choice}": {"arg_0": f"{context} {document}", "arg_1": f"{delimiter}{label}"}
                for choice, label in enumerate(labels)
            },
            "filtered_resps": [[str(score), "False"] for score in scores[document].tolist()],
            "metrics": list(metrics),
            **{metric: right[metric][document] for metric in metrics},
            **(contents[document] if contents else {}),
        }
        for document in range(len(gold))
    ]
    values = right[metrics[0]].tolist()
    return write_run(folder, values, metric=metrics[0], contents=samples, **options)
