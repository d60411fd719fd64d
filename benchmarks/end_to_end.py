"""Whole evaluations through lm-eval's model interface: stock `hf` and `act-hf` on the same requests, in turn.

python benchmarks/end_to_end.py --help
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from typing import Annotated

import torch
import typer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from models import llama, word_tokenizer, words
from timing import alternate, machine, ratio, save

from act_eval.attention.cache import CACHE_ATTRIBUTE
from act_eval.harness.lm import ACTLM
from act_eval.profiles import HeadProfile

LAYERS, HEADS = 8, 8


def choices(documents: int, shots: int, rng: random.Random) -> list[Instance]:
    """Like HellaSwag: contexts of 60 to 120 tokens, four endings of 15 to 40; each shot is a context with its ending."""
    instances = []
    for document in range(documents):
        examples = [words(rng.randint(75, 160), rng) for _ in range(shots)]
        context = " ".join([*examples, words(rng.randint(60, 120), rng)])
        for choice in range(4):
            instances.append(_loglikelihood(context, " " + words(rng.randint(15, 40), rng), document, choice))
    return instances


def letters(documents: int, rng: random.Random) -> list[Instance]:
    """Like MMLU: contexts of 60 to 250 tokens and four letters."""
    instances = []
    for document in range(documents):
        context = words(rng.randint(60, 250), rng)
        instances += [_loglikelihood(context, f" w{letter}", document, letter) for letter in range(2, 6)]
    return instances


def questions(documents: int, rng: random.Random) -> list[Instance]:
    """Like SQuAD: contexts of 120 to 250 tokens, 16 generated."""
    generation = {"until": ["\n"], "max_gen_toks": 16, "min_new_tokens": 16, "do_sample": False}
    return [
        Instance("generate_until", {}, (words(rng.randint(120, 250), rng), dict(generation)), 0, ("questions", document, 1))
        for document in range(documents)
    ]


def _loglikelihood(context: str, continuation: str, document: int, choice: int) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), choice, ("choices", document, 1))


def profile(share: float) -> HeadProfile:
    """A share of all heads, drawn once."""
    every_head = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    chosen = random.Random(0).sample(every_head, round(share * len(every_head)))
    return HeadProfile({layer: tuple(sorted(h for at, h in chosen if at == layer)) for layer in range(LAYERS)})


@torch.no_grad()
def sinks_per_pair(lm: ACTLM, requests: Sequence[Instance], contexts: int = 8) -> float:
    """How many sinks a calibrated head has on average in the first contexts of a workload."""
    counts = []
    for context in list(dict.fromkeys(request.args[0] for request in requests))[:contexts]:
        with lm.act(lm.model):
            cache = lm.model(torch.tensor([lm.tok_encode(context)], device=lm.device), use_cache=True).past_key_values
        counts += [layer.sinks.sum(-1).float() for layer in getattr(cache, CACHE_ATTRIBUTE).values()]
    return float(torch.cat(counts).mean())


def main(
    workload: Annotated[list[str] | None, typer.Option(help="choices, choices-5-shot, letters, generation; all.")] = None,
    documents: Annotated[int, typer.Option(help="Documents per workload (5-shot: a half).")] = 32,
    repetitions: int = 5,
    batch_size: int = 8,
    alpha: Annotated[float, typer.Option(help="A key is a sink above alpha / n; the paper's value.")] = 5.0,
    dtype: str = "float32",
    device: str = "cpu",
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print the time of act-hf as a ratio to stock hf's: median over repetitions (least-most)."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("act_eval").setLevel(logging.ERROR)
    model = llama(512, LAYERS, HEADS, 1376, getattr(torch, dtype), device)
    tokenizer = word_tokenizer()
    options = {"tokenizer": tokenizer, "batch_size": batch_size, "device": device}
    stock = HFLM(pretrained=model, **options)
    act = {
        f"act-hf, {share:.0%} of heads": ACTLM(pretrained=model, act_profile=profile(share), act_alpha=alpha, **options)
        for share in (0.0, 0.3, 1.0)
    }
    rng = random.Random(1)
    workloads: dict[str, Sequence[Instance]] = {
        "choices": choices(documents, 0, rng),
        "choices-5-shot": choices(documents // 2, 5, rng),
        "letters": letters(documents * 2, rng),
        "generation": questions(documents, rng),
    }
    table: dict[str, dict[str, object]] = {}
    print(f"| workload | {' | '.join(act)} | sinks per head |\n|---|{'---|' * (len(act) + 1)}")
    for name in workload or workloads:
        requests = workloads[name]
        answer = attrgetter(requests[0].request_type)
        systems = {system: partial(answer(lm), requests, disable_tqdm=True) for system, lm in {"hf": stock, **act}.items()}
        times = alternate(systems, repetitions, device)
        ratios = {system: ratio(times[system], times["hf"]) for system in act}
        sinks = sinks_per_pair(act["act-hf, 100% of heads"], requests)
        table[name] = {**{system: asdict(value) for system, value in ratios.items()}, "sinks_per_head": sinks}
        print(f"| {name} | {' | '.join(map(str, ratios.values()))} | {sinks:.1f} |", flush=True)
    settings = {"documents": documents, "repetitions": repetitions, "batch_size": batch_size, "alpha": alpha, "dtype": dtype}
    if write:
        save(f"end_to_end-{device}-{dtype}", {"machine": machine(device), "settings": settings, "ratios": table})


if __name__ == "__main__":
    typer.run(main)
