"""Whole evaluations through lm-eval's model interface: stock `hf` and `act-hf` on the same requests, in turn.

Made-up workloads on a model with random weights, or rows of real tasks on a real model:

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --model DIR --rows hellaswag,sst2,squad

Without a network, run it in a folder that holds the datasets by their names on the hub, such as `Rowan/hellaswag`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
from attention_systems import SHAPES, SHARES, sinks_per_head
from floor import TokenCost, floor, stock_padding
from json_lines import append
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from models import llama, word_tokenizer
from timing import Ratio, alternate, machine, ratio, save
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from workloads import made_up, real_rows

from act_eval.attention.model_structure import model_shape
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.profiles import HeadProfile


def profile(share: float, model: PreTrainedModel) -> HeadProfile:
    """A share of all heads of a model, drawn once."""
    layers, heads = model_shape(model.config)[:2]
    every_head = [(layer, head) for layer in range(layers) for head in range(heads)]
    chosen = random.Random(0).sample(every_head, round(share * len(every_head)))
    return HeadProfile({layer: tuple(sorted(h for at, h in chosen if at == layer)) for layer in range(layers)})


def mean_sinks(lm: ACTLM, requests: Sequence[Instance], contexts: int = 8) -> float:
    """How many sinks a calibrated head has on average in the first contexts of a workload."""
    first = list(dict.fromkeys(request.args[0] for request in requests))[:contexts]
    tokens = [torch.tensor([lm.tok_encode(context)], device=lm.device) for context in first]
    return mean(sinks_per_head(lm.act, lm.model, ids) for ids in tokens)


def least_cost(lm: ACTLM, requests: Sequence[Instance], batch_size: int) -> dict[str, float]:
    """The floor of a workload, and the share of stock `hf`'s tokens that are padding, where continuations are scored."""
    if requests[0].request_type != "loglikelihood":
        return {"floor": 1.0}
    pairs = [lm.encode_request(*request.args) for request in requests]
    return {"floor": floor(pairs, TokenCost.of_model(lm.model)), "padding": stock_padding(pairs, batch_size)}


def table_head(systems: Sequence[str]) -> str:
    """The head of the table that `table_row` fills."""
    columns = ["rows", "floor (operations)", *systems, "sinks per head", "padding of hf", "hf, s"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def table_row(row: dict[str, Any]) -> str:
    """A line of the table: of what `measure` gives."""
    ratios = [str(Ratio(**value)) for value in row["ratios"].values()]
    padding = f"{row['padding']:.0%}" if "padding" in row else ""
    texts = [row["rows"], f"{row['floor']:.2f}", *ratios, f"{row['sinks_per_head']:.1f}", padding, f"{row['hf_seconds']:.2f}"]
    return f"| {' | '.join(texts)} |"


def measure(
    name: str, requests: Sequence[Instance], stock: HFLM, act: dict[str, ACTLM], repetitions: int, batch_size: int, device: str
) -> dict[str, Any]:
    """Times of act-hf as ratios to stock hf's, with what they may be at least.

    Args:
        name: of the workload.
        requests: all of one type.
        stock: lm-eval's own model.
        act: act-hf on the same weights, by name, the one that calibrates all heads last.
        repetitions, batch_size, device: see `main`.
    """
    answer = attrgetter(requests[0].request_type)
    systems = {system: partial(answer(lm), requests, disable_tqdm=True) for system, lm in {"hf": stock, **act}.items()}
    times = alternate(systems, repetitions, device)
    everywhere = list(act.values())[-1]
    return {
        "rows": name,
        "requests": len(requests),
        "hf_seconds": median(times["hf"]),
        "ratios": {system: asdict(ratio(times[system], times["hf"])) for system in act},
        "sinks_per_head": mean_sinks(everywhere, requests),
        **least_cost(everywhere, requests, batch_size),
    }


def main(
    model: Annotated[str | None, typer.Option(help="Folder of a real model; made-up weights by default.")] = None,
    rows: Annotated[str | None, typer.Option(help="Real tasks, separated by commas: hellaswag,sst2,squad.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="choices, choices-5-shot, letters, generation; all.")] = None,
    shape: Annotated[str, typer.Option(help=f"Of made-up weights: {', '.join(SHAPES)}.")] = "llama-512",
    documents: Annotated[int, typer.Option(help="Documents per workload (5-shot: a half).")] = 32,
    repetitions: int = 5,
    batch_size: int = 8,
    alpha: Annotated[float, typer.Option(help="A key is a sink above alpha / n; the paper's value.")] = 5.0,
    dtype: str = "float32",
    device: str = "cpu",
    output: Annotated[Path | None, typer.Option(help="Also append each row to this file, as a line of JSON.")] = None,
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print the time of act-hf as a ratio to stock hf's: median over repetitions (least-most), and the floor of it."""
    if (model is None) != (rows is None):
        raise typer.BadParameter("real rows need a real model, and it needs them: give --model and --rows, or neither.")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("act_eval").setLevel(logging.ERROR)
    if model is None or rows is None:
        weights, tokenizer = llama(**SHAPES[shape], dtype=getattr(torch, dtype), device=device), word_tokenizer()
        workloads = made_up(documents)
    else:
        try:
            workloads = real_rows(rows.split(","), documents)
        except InputError as error:
            raise typer.BadParameter(str(error)) from error
        weights = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(model)
    options = {"tokenizer": tokenizer, "batch_size": batch_size, "device": device}
    stock = HFLM(pretrained=weights, **options)
    act = {
        f"act-hf, {share:.0%} of heads": ACTLM(
            pretrained=weights, act_profile=profile(share, weights), act_alpha=alpha, **options
        )
        for share in SHARES
    }
    print(table_head(list(act)))
    table = []
    for name in workload or workloads:
        row = measure(name, workloads[name], stock, act, repetitions, batch_size, device)
        print(table_row(row), flush=True)
        table.append(row)
        if output is not None:
            append(output, row)
    if write:
        settings = {
            "model": shape if model is None else Path(model).name,
            "documents": documents,
            "repetitions": repetitions,
            "batch_size": batch_size,
            "alpha": alpha,
            "dtype": dtype,
        }
        name = "end_to_end" if model is None or rows is None else f"end_to_end-{Path(model).name}-{rows.replace(',', '-')}"
        save(f"{name}-{device}-{dtype}", {"machine": machine(device), "settings": settings, "rows": table})


if __name__ == "__main__":
    typer.run(main)
