"""Times and peak memory on a device: flash sdpa, eager attention where it fits, and ACT with 0, 30 and 100% of heads.

    python benchmarks/device_forward.py --device cuda --output FILE

Unlike `forward.py` it writes each row as soon as it is measured, holds sdpa to its flash backend on CUDA, and needs nothing but
torch, triton and transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attention_systems import SHAPES, attention_only, compare_memory, compare_times, sinks_per_head, systems
from json_lines import append
from memory import free_memory
from models import llama
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from act_eval.attention.act import ACT

VOCABULARY = 1024  # small, since one layer is what is measured


def by_flash(run: Callable[[], object], device: str) -> Callable[[], object]:
    """A run in which sdpa uses its flash backend or none, on CUDA devices."""

    def flash() -> object:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            return run()

    return flash if device.startswith("cuda") else run


def eager_bytes(model: PreTrainedModel, n: int) -> int:
    """What eager attention needs: three maps in the model's dtype (scores, masked scores, weights) and two in float32."""
    return model.config.num_attention_heads * n * n * (3 * model.dtype.itemsize + 8)


def measure(model: PreTrainedModel, n: int, repetitions: int, alpha: float, device: str) -> list[dict[str, Any]]:
    """Compare times and peak memory at a length, of the attention layer and of the whole pass: a row for each."""
    torch.manual_seed(n)
    ids = torch.randint(2, VOCABULARY, (1, n), device=device)
    needed, free = eager_bytes(model, n), free_memory(device)
    parts: dict[str, Callable[[], object]] = {
        "attention layer": attention_only(model, model.model.embed_tokens(ids)),
        "forward": partial(model, ids, use_cache=False, logits_to_keep=1),
    }
    sinks = sinks_per_head(ACT("all", alpha=alpha), model, ids)
    rows = []
    for part, run in parts.items():
        compared = systems(model, by_flash(run, device), alpha)
        row: dict[str, Any] = {"part": part, "n": n, "sinks_per_head": sinks}
        if needed > 0.9 * free:
            del compared["eager"]
            row["eager_left_out"] = f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
        row |= compare_times(compared, repetitions, device)
        rows.append(row | compare_memory(compared, device))
    return rows


@torch.no_grad()
def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-2-7b-layer", choices=SHAPES)
    parser.add_argument("--lengths", default="512,2048,8192,32768", help="tokens")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--alpha", type=float, default=5.0, help="a key is a sink above alpha / n")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, required=True, help="file that gets a line of JSON for each row")
    given = parser.parse_args()
    lengths = [int(length) for length in given.lengths.split(",")]
    model = llama(
        **SHAPES[given.shape],
        dtype=getattr(torch, given.dtype),
        device=given.device,
        vocabulary=VOCABULARY,
        max_length=max(lengths),
    )
    for n in lengths:
        for row in measure(model, n, given.repetitions, given.alpha, given.device):
            append(given.output, {"shape": given.shape, "dtype": given.dtype, **row})
            print(
                given.shape,
                n,
                row["part"],
                {name: round(times["median"], 3) for name, times in row["ratios"].items()},
                flush=True,
            )


if __name__ == "__main__":
    main()
