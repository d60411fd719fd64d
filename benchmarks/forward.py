"""Time one attention layer and one forward pass: sdpa and eager attention against ACT with 0, 30 and 100% of heads, in turn.

python benchmarks/forward.py --help
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from attention_systems import CALIBRATED, SHAPES, attention_only, compare_memory, compare_times, systems
from models import llama
from timing import Ratio, machine, save
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Settings:
    """What to measure: the options of `main`."""

    shape: str
    repetitions: int
    memory: bool
    alpha: float
    dtype: str
    device: str


def measure(run: Callable[[], object], model: PreTrainedModel, n: int, part: str, settings: Settings) -> dict[str, Any]:
    """Times of all systems as ratios to sdpa, or their extra peak memory as shares of one eager attention map."""
    compared = systems(model, run, settings.alpha)
    if settings.memory:
        one_map = model.config.num_attention_heads * n * n * model.dtype.itemsize
        measured = compare_memory(compared, settings.device)
        extra = {name: size / one_map for name, size in measured["extra_bytes"].items()}
        texts = [f"{share:+.1%}" for share in extra.values()]
        row = {"extra_memory": extra, "sdpa_bytes": measured["sdpa_bytes"]}
    else:
        row = compare_times(compared, settings.repetitions, settings.device)
        texts = [str(Ratio(**value)) for value in row["ratios"].values()]
        texts += [f"{share:.1%}" for share in row["calibration"].values()]
    print(f"| {part} | {n} | {' | '.join(texts[1:])} |", flush=True)
    return {"part": part, "n": n, **row}


def main(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "llama-2-7b-layer",
    lengths: Annotated[str, typer.Option(help="Tokens, separated by commas.")] = "128,256,512,1024,2048,4096",
    repetitions: int = 5,
    memory: Annotated[bool, typer.Option(help="Measure peak memory instead of time.")] = False,
    alpha: Annotated[float, typer.Option(help="A key is a sink above alpha / n; the paper's value.")] = 5.0,
    dtype: str = "float32",
    device: str = "cpu",
    write: Annotated[bool, typer.Option(help="Save the table to benchmarks/results.")] = False,
) -> None:
    """Print times as ratios to sdpa (median, least-most), or extra peak memory as a share of one eager attention map.

    With the times comes what calibration itself takes in the calibrated runs, as a share of the sdpa run.
    """
    settings = Settings(shape, repetitions, memory, alpha, dtype, device)
    model = llama(**SHAPES[shape], dtype=getattr(torch, dtype), device=device)
    names = list(systems(model, lambda: None, alpha))[1:]
    if not memory:
        names += [f"calibration in {name}" for name in CALIBRATED]
    print(f"| part | n | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    rows = []
    for n in map(int, lengths.split(",")):
        torch.manual_seed(n)
        ids = torch.randint(2, 32000, (1, n), device=device)
        with torch.no_grad():
            layer = attention_only(model, model.model.embed_tokens(ids))
            forward = partial(model, ids, use_cache=False, logits_to_keep=1)
            rows += [measure(layer, model, n, "attention layer", settings), measure(forward, model, n, "forward", settings)]
    if write:
        name = f"{'memory' if memory else 'forward'}-{shape}-{device}-{dtype}"
        save(name, {"machine": machine(device), "settings": asdict(settings), "rows": rows})


if __name__ == "__main__":
    typer.run(main)
