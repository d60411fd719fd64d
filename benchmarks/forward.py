"""Time one attention layer and one forward pass: sdpa and eager attention against ACT with 0, 30 and 100% of heads, in turn.

python benchmarks/forward.py --help
"""

from __future__ import annotations

import ctypes
import random
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from models import llama
from timing import alternate, machine, ratio, save, wait
from torch import Tensor, nn
from transformers import PreTrainedModel

from act_eval import ACT
from act_eval.attention.layer import LayerCalibration
from act_eval.profiles import HeadProfile

SHAPES = {
    "llama-512": {"hidden": 512, "layers": 8, "heads": 8, "intermediate": 1376},
    "llama-2-7b-layer": {"hidden": 4096, "layers": 1, "heads": 32, "intermediate": 11008},
}
SHARES = (0.0, 0.3, 1.0)
CALIBRATED = tuple(f"act {share:.0%}" for share in SHARES if share)
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Settings:
    """What to measure: the options of `main`."""

    shape: str
    repetitions: int
    memory: bool
    alpha: float
    dtype: str
    device: str


def profile(share: float, layers: int, heads: int) -> HeadProfile:
    """A share of the heads of every layer, drawn once."""
    rng = random.Random(0)
    return HeadProfile({layer: tuple(sorted(rng.sample(range(heads), round(share * heads)))) for layer in range(layers)})


def systems(model: PreTrainedModel, run: Callable[[], object], alpha: float) -> dict[str, Callable[[], object]]:
    """What is compared, by name; the first is the reference."""

    def baseline(attention: str) -> object:
        model.set_attn_implementation(attention)
        return run()

    def calibrated(act: ACT) -> object:
        model.set_attn_implementation("sdpa")
        with act(model):
            return run()

    config = model.config
    acts = {share: ACT(profile(share, config.num_hidden_layers, config.num_attention_heads), alpha=alpha) for share in SHARES}
    return {
        "sdpa": lambda: baseline("sdpa"),
        "eager": lambda: baseline("eager"),
        **{f"act {share:.0%}": (lambda act=act: calibrated(act)) for share, act in acts.items()},
    }


def attention_only(model: PreTrainedModel, hidden: Tensor) -> Callable[[], object]:
    """The first layer's attention module on given hidden states."""
    layer: nn.Module = model.model.layers[0].self_attn
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    embeddings = model.model.rotary_emb(hidden, positions)
    return lambda: layer(hidden, position_embeddings=embeddings, attention_mask=None, past_key_values=None)


def calibration_seconds(run: Callable[[], object], repetitions: int, device: str) -> float:
    """Median of the seconds that a run spends on calibrated heads, beyond the base backend; all its layers together.

    On a shared machine this says more than the difference of two long times that are nearly equal.
    """
    seconds = [0.0]
    original = LayerCalibration.replace_calibrated

    def timed(*args: Any, **kwargs: Any) -> None:
        wait(device)
        began = time.perf_counter()
        original(*args, **kwargs)
        wait(device)
        seconds[-1] += time.perf_counter() - began

    with patch.object(LayerCalibration, "replace_calibrated", timed):
        for _ in range(repetitions):
            run()
            seconds.append(0.0)
    return median(seconds[:-1])


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that a run needs at its highest, on top of what is there before it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    _give_freed_memory_back()
    done, highest, before = threading.Event(), 0, _resident_bytes()

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


def _give_freed_memory_back() -> None:
    """Make glibc map every larger tensor by itself, so that resident memory falls when it is freed."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 2**16)
    libc.malloc_trim(0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(run: Callable[[], object], model: PreTrainedModel, n: int, part: str, settings: Settings) -> dict[str, Any]:
    """Times of all systems as ratios to sdpa, or their extra peak memory as shares of one eager attention map."""
    compared = systems(model, run, settings.alpha)
    row: dict[str, Any] = {"part": part, "n": n}
    if settings.memory:
        one_map = model.config.num_attention_heads * n * n * model.dtype.itemsize
        peaks = {name: peak_memory(system, settings.device) for name, system in compared.items()}
        extra = {name: (peak - peaks["sdpa"]) / one_map for name, peak in peaks.items()}
        texts = [f"{share:+.1%}" for share in extra.values()]
        row |= {"extra_memory": extra, "sdpa_bytes": peaks["sdpa"]}
    else:
        times = alternate(compared, settings.repetitions, settings.device)
        ratios = {name: ratio(seconds, times["sdpa"]) for name, seconds in times.items()}
        baseline = median(times["sdpa"])
        own = {
            name: calibration_seconds(compared[name], settings.repetitions, settings.device) / baseline for name in CALIBRATED
        }
        texts = [*map(str, ratios.values()), *(f"{share:.1%}" for share in own.values())]
        row |= {"ratios": {name: asdict(value) for name, value in ratios.items()}, "sdpa_seconds": baseline, "calibration": own}
    print(f"| {part} | {n} | {' | '.join(texts[1:])} |", flush=True)
    return row


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
