"""What each method costs: one forward pass with all heads calibrated, against sdpa and eager attention without ACT, in turn.

python benchmarks/methods.py --help
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Annotated, Any

import torch
import typer
from attention_systems import SHAPES
from models import llama
from timing import alternate, machine, ratio, save
from transformers import PreTrainedModel

from act_eval import ACT, HeadGroup, HeadProfile, span_tokens
from act_eval.methods import available_methods, make_method

PARAMETERS = {"scale-first-token": {"gamma": 1.5}, "bias-span": {"bias": 1.0}, "target-span": {"psi": 0.3}}


def systems(model: PreTrainedModel, ids: torch.Tensor, alpha: float) -> dict[str, Callable[[], object]]:
    """What is compared, by name; the first is the reference."""

    def baseline(attention: str) -> object:
        model.set_attn_implementation(attention)
        return model(ids, use_cache=False, logits_to_keep=1)

    part = torch.zeros(ids.shape, dtype=torch.bool)
    part[:, ids.shape[1] // 4 : ids.shape[1] // 2] = True

    def calibrated(act: ACT) -> object:
        model.set_attn_implementation("sdpa")
        with act(model), span_tokens(model, part) if act.method.uses_span else nullcontext():
            return model(ids, use_cache=False, logits_to_keep=1)

    acts = {}
    for name, method in available_methods().items():
        detection: dict[str, Any] = {"alpha": alpha} if method.uses_sinks else {}
        made = make_method(name, PARAMETERS.get(name, {}))
        profile = "all" if len(made.parts) == 1 else divided(model, len(made.parts))
        acts[name] = ACT(profile, method=made, **detection)
    return {
        "sdpa": lambda: baseline("sdpa"),
        "eager": lambda: baseline("eager"),
        **{name: partial(calibrated, act) for name, act in acts.items()},
    }


def divided(model: PreTrainedModel, groups: int) -> HeadProfile:
    """All heads, dealt out to groups."""
    layers, heads = range(model.config.num_hidden_layers), model.config.num_attention_heads
    return HeadProfile.of_groups(
        HeadGroup({layer: tuple(range(number, heads, groups)) for layer in layers}) for number in range(groups)
    )


@torch.no_grad()
def main(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "llama-512",
    lengths: Annotated[str, typer.Option(help="Tokens, separated by commas.")] = "128,512,2048",
    repetitions: int = 7,
    alpha: Annotated[float, typer.Option(help="A key is a sink above alpha / n; the paper's value.")] = 5.0,
    device: str = "cpu",
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print times as ratios to sdpa without ACT: median, least-most."""
    model = llama(**SHAPES[shape], dtype=torch.float32, device=device)
    names = ["eager", *available_methods()]
    print(f"| n | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    rows = []
    for n in map(int, lengths.split(",")):
        torch.manual_seed(n)
        ids = torch.randint(2, 32000, (1, n), device=device)
        times = alternate(systems(model, ids, alpha), repetitions, device)
        ratios = {name: ratio(times[name], times["sdpa"]) for name in names}
        print(f"| {n} | {' | '.join(map(str, ratios.values()))} |", flush=True)
        rows.append({"n": n, "sdpa_seconds": median(times["sdpa"]), "ratios": {k: asdict(v) for k, v in ratios.items()}})
    if write:
        settings = {"shape": shape, "repetitions": repetitions, "alpha": alpha, "parameters": PARAMETERS}
        save(f"methods-{shape}-{device}", {"machine": machine(device), "settings": settings, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
