"""The systems that a forward pass is compared in: sdpa, eager attention, and ACT with none, some and all heads."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from memory import peak_memory
from timing import alternate, ratio, wait
from torch import Tensor, nn
from transformers import PreTrainedModel

from act_eval.attention.act import ACT
from act_eval.attention.cache import CACHE_ATTRIBUTE
from act_eval.attention.layer import LayerCalibration
from act_eval.profiles import HeadProfile

SHAPES = {
    "tiny": {"hidden": 64, "layers": 1, "heads": 4, "key_value_heads": 2, "intermediate": 96},
    "llama-512": {"hidden": 512, "layers": 8, "heads": 8, "intermediate": 1376},
    "llama-2-7b-8-layers": {"hidden": 4096, "layers": 8, "heads": 32, "intermediate": 11008},
    "llama-2-7b-layer": {"hidden": 4096, "layers": 1, "heads": 32, "intermediate": 11008},
    "llama-3.1-8b-layer": {"hidden": 4096, "layers": 1, "heads": 32, "key_value_heads": 8, "intermediate": 14336},
}
SHARES = (0.0, 0.3, 1.0)
CALIBRATED = tuple(f"act {share:.0%}" for share in SHARES if share)


def profile(share: float, layers: int, heads: int) -> HeadProfile:
    """A share of the heads of every layer, drawn once."""
    rng = random.Random(0)
    return HeadProfile({layer: tuple(sorted(rng.sample(range(heads), round(share * heads)))) for layer in range(layers)})


def systems(model: PreTrainedModel, run: Callable[[], object], alpha: float) -> dict[str, Callable[[], object]]:
    """What is compared, by name; the first is the reference. The model is left with sdpa, which all but eager run on."""

    def eager() -> object:
        model.set_attn_implementation("eager")
        try:
            return run()
        finally:
            model.set_attn_implementation("sdpa")

    def calibrated(act: ACT) -> object:
        with act(model):
            return run()

    model.set_attn_implementation("sdpa")
    config = model.config
    acts = {share: ACT(profile(share, config.num_hidden_layers, config.num_attention_heads), alpha=alpha) for share in SHARES}
    return {"sdpa": run, "eager": eager, **{f"act {share:.0%}": partial(calibrated, act) for share, act in acts.items()}}


@torch.no_grad()
def sinks_per_head(act: ACT, model: PreTrainedModel, ids: Tensor) -> float:
    """How many sinks a calibrated head has on average in rows of tokens, int64 `[rows, n]`."""
    with act(model):
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    counts = [layer.sinks.sum(-1).float().flatten() for layer in getattr(cache, CACHE_ATTRIBUTE).values()]
    return float(torch.cat(counts).mean())


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


def compare_times(compared: Mapping[str, Callable[[], object]], repetitions: int, device: str) -> dict[str, Any]:
    """Times of all systems as ratios to sdpa, the seconds of sdpa itself, and calibration's own time as a share of these."""
    times = alternate(compared, repetitions, device)
    baseline = median(times["sdpa"])
    return {
        "ratios": {name: asdict(ratio(seconds, times["sdpa"])) for name, seconds in times.items()},
        "sdpa_seconds": baseline,
        "calibration": {name: calibration_seconds(compared[name], repetitions, device) / baseline for name in CALIBRATED},
    }


def compare_memory(compared: Mapping[str, Callable[[], object]], device: str) -> dict[str, Any]:
    """Peak memory of all systems beyond that of sdpa, in bytes, and that of sdpa itself."""
    peaks = {name: peak_memory(system, device) for name, system in compared.items()}
    return {"extra_bytes": {name: peak - peaks["sdpa"] for name, peak in peaks.items()}, "sdpa_bytes": peaks["sdpa"]}
