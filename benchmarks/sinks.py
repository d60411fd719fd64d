"""What collecting sink statistics costs: against plain forward passes over the same batches, and memory by number of documents.

python benchmarks/sinks.py --help
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Annotated

import torch
import typer
from memory import peak_memory
from timing import alternate, machine, ratio, save
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from act_eval import ACT
from act_eval.demo import MODEL_PATH, corpus
from act_eval.sinks import collect

Batch = dict[str, torch.Tensor]


def documents(number: int, length: int) -> list[list[int]]:
    """Solved examples of the demo tasks, one after the other, cut to a number of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    rng = random.Random(0)
    examples = [
        tokenizer(
            corpus.prompt(task, doc) + corpus.answer(task, doc) + corpus.FEWSHOT_DELIMITER, add_special_tokens=False
        ).input_ids
        for task in corpus.TASKS
        for doc in corpus.documents(task, "train", 100)
    ]
    found = []
    for _ in range(number):
        tokens = [tokenizer.bos_token_id]
        while len(tokens) < length:
            tokens += rng.choice(examples)
        found.append(tokens[:length])
    return found


def batches(rows: list[list[int]], batch_size: int) -> Iterator[Batch]:
    """The documents, some at a time."""
    for start in range(0, len(rows), batch_size):
        ids = torch.tensor(rows[start : start + batch_size])
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def plain(model: PreTrainedModel, rows: list[list[int]], batch_size: int) -> None:
    """Forward passes and nothing else."""
    for batch in batches(rows, batch_size):
        model(**batch, use_cache=False, logits_to_keep=1)


def main(
    number: Annotated[int, typer.Option(help="Documents.")] = 500,
    length: Annotated[int, typer.Option(help="Tokens in each.")] = 200,
    batch_size: int = 16,
    repetitions: int = 3,
    alpha: Annotated[float, typer.Option(help="A key is a sink above alpha / n; the paper's value.")] = 5.0,
    threads: int = 2,
    beside: Annotated[str, typer.Option(help="What else ran on the machine.")] = "nothing",
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print seconds, ratios to plain forward passes (median, least-most), and peak memory with ever more documents."""
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32)
    rows, act = documents(number, length), ACT("all", alpha=alpha)

    def counted(some: list[list[int]], maps: bool) -> object:
        return collect(model, batches(some, batch_size), act, maps=maps)

    systems: dict[str, Callable[[], object]] = {
        "plain": partial(plain, model, rows, batch_size),
        "statistics": partial(counted, rows, False),
        "statistics and maps": partial(counted, rows, True),
    }
    times = alternate(systems, repetitions)
    ratios = {name: ratio(times[name], times["plain"]) for name in systems}
    seconds = {name: median(times[name]) for name in systems}
    for name in systems:
        print(f"{name}: {seconds[name]:.1f} s, {ratios[name]} times plain", flush=True)
    sizes = (number // 4, number, number * 4)
    many = documents(sizes[-1], length)
    peaks = {size: peak_memory(partial(counted, many[:size], True), "cpu") / 2**20 for size in sizes}
    for size, peak in peaks.items():
        print(f"{size} documents: {peak:.0f} MiB at the peak, beyond the model", flush=True)
    if write:
        settings = {"documents": number, "length": length, "batch_size": batch_size, "repetitions": repetitions, "alpha": alpha}
        content = {
            "machine": {**machine("cpu"), "beside": beside},
            "settings": {"model": "act-eval-demo", **settings},
            "seconds": seconds,
            "ratios": {name: asdict(value) for name, value in ratios.items()},
            "peak_mib": peaks,
        }
        save("sinks-act-eval-demo", content)


if __name__ == "__main__":
    typer.run(main)
