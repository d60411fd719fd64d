"""One attention layer, and one whole forward pass: plain sdpa and eager against act with 0, 30 and 100% of heads, in turn.

python benchmarks/forward.py --help
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import llama
from timing import alternate, machine, ratio, save, wait
from torch import Tensor, nn
from transformers import PreTrainedModel

from act_eval import ACT
from act_eval.profiles import HeadProfile

SHAPES = {
    "llama-512": {"hidden": 512, "layers": 8, "heads": 8, "intermediate": 1376},
    "llama-2-7b-layer": {"hidden": 4096, "layers": 1, "heads": 32, "intermediate": 11008},
}
SHARES = (0.0, 0.3, 1.0)


def profile(share: float, layers: int, heads: int) -> HeadProfile:
    """A share of the heads of every layer, drawn once."""
    rng = random.Random(0)
    return HeadProfile({layer: tuple(sorted(rng.sample(range(heads), round(share * heads)))) for layer in range(layers)})


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Choose the attention implementation of a loaded model."""
    model.set_attn_implementation(name)


def systems(model: PreTrainedModel, run: Callable[[], object], alpha: float) -> dict[str, Callable[[], object]]:
    """What is compared, by name; the first is the reference."""

    def plain(attention: str) -> object:
        set_attention(model, attention)
        return run()

    def calibrated(act: ACT) -> object:
        set_attention(model, "sdpa")
        with act(model):
            return run()

    config = model.config
    acts = {share: ACT(profile(share, config.num_hidden_layers, config.num_attention_heads), alpha=alpha) for share in SHARES}
    return {
        "sdpa": lambda: plain("sdpa"),
        "eager": lambda: plain("eager"),
        **{f"act {share:.0%}": (lambda act=act: calibrated(act)) for share, act in acts.items()},
    }


def attention_only(model: PreTrainedModel, hidden: Tensor) -> Callable[[], object]:
    """The first layer's attention module on given hidden states."""
    layer: nn.Module = model.model.layers[0].self_attn
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    embeddings = model.model.rotary_emb(hidden, positions)
    return lambda: layer(hidden, position_embeddings=embeddings, attention_mask=None, past_key_values=None)


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that a run needs on top of what is there before it, at its highest."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    done, highest = threading.Event(), 0
    before = _resident_bytes()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(0, highest - before)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "llama-2-7b-layer",
    lengths: Annotated[str, typer.Option(help="Tokens, separated by commas.")] = "128,256,512,1024,2048,4096",
    repetitions: int = 5,
    alpha: float = 5.0,
    dtype: str = "float32",
    device: str = "cpu",
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print times as ratios to plain sdpa (median, least-most) and extra peak memory as a share of one eager attention map."""
    model = llama(**SHAPES[shape], dtype=getattr(torch, dtype), device=device)
    heads = model.config.num_attention_heads
    element = torch.finfo(getattr(torch, dtype)).bits // 8
    rows: list[dict[str, Any]] = []
    for n in map(int, lengths.split(",")):
        torch.manual_seed(n)
        ids = torch.randint(2, 32000, (1, n), device=device)
        with torch.no_grad():
            hidden = model.model.embed_tokens(ids)
            runs = {
                "attention layer": attention_only(model, hidden),
                "forward": lambda ids=ids: model(ids, use_cache=False, logits_to_keep=1),
            }
            for part, run in runs.items():
                compared = systems(model, run, alpha)
                times = alternate(compared, repetitions, device)
                ratios = {name: ratio(times[name], times["sdpa"]) for name in compared}
                memory = {name: peak_memory(compared[name], device) for name in compared}
                maps = heads * n * n * element
                extra = {name: (memory[name] - memory["sdpa"]) / maps for name in compared}
                rows.append({"part": part, "n": n, "ratios": {name: asdict(value) for name, value in ratios.items()}})
                rows[-1] |= {"extra_memory": extra, "sdpa_seconds": sorted(times["sdpa"])[repetitions // 2]}
                cells = " | ".join(f"{ratios[name]}; {extra[name]:+.0%}" for name in list(compared)[1:])
                print(f"| {part} | {n} | {cells} |", flush=True)
        wait(device)
    settings = {"shape": shape, "repetitions": repetitions, "alpha": alpha, "dtype": dtype}
    if write:
        save(f"forward-{shape}-{device}-{dtype}", {"machine": machine(device), "settings": settings, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
