"""How the size of blocks changes the time of the Triton kernels, to choose it by: on a device.

    python benchmarks/device_block_sizes.py --output FILE

The package has block sizes that follow from the size of shared memory. They are fixed, not chosen by `triton.autotune` while a
model runs: sums depend on them in their last bits, and the same run must give the same answers again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from json_lines import append
from timing import alternate
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from act_eval.attention import triton_kernels
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility


@dataclass(frozen=True)
class Launch:
    """How kernels are launched: rows of a block, a multiple of those of a step, warps that work on it, and loads in flight."""

    block: int
    step: int
    warps: int
    stages: int


LAUNCHES = [
    Launch(64, 64, 4, 2),
    Launch(128, 64, 8, 2),
    Launch(64, 64, 4, 3),
    Launch(128, 64, 8, 3),
    Launch(128, 64, 4, 2),
    Launch(128, 64, 4, 3),
    Launch(64, 32, 4, 3),
    Launch(128, 32, 8, 3),
    Launch(128, 128, 8, 2),
]


def prefill(n: int, heads: int, key_heads: int, dim: int, dtype: torch.dtype, device: str) -> AttentionCall:
    """A prefill of random states in which one key in a hundred attracts attention."""
    generator = torch.Generator().manual_seed(n)

    def states(number: int) -> Tensor:
        return torch.randn(1, n, number, dim, generator=generator).transpose(1, 2)

    query, key, value = states(heads) + 0.46, states(key_heads), states(key_heads).to(device, dtype)
    key[:, :, 3::97] += 0.46
    query, key = query.to(device, dtype), key.to(device, dtype)
    output = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2).contiguous()
    return AttentionCall(query, key, value, output, Visibility.from_mask(None, query, key), dim**-0.5, None)


def statistics(call: AttentionCall, rows: Tensor, heads: Tensor) -> Tensor:
    """Each key's mean attention."""
    return triton_kernels.attention_statistics(call, rows, heads)[0]


def calibrated(call: AttentionCall, rows: Tensor, heads: Tensor, safe_factor: float) -> Tensor:
    """The outputs; with a safe factor of 1 all rows that see a sink are computed over all keys."""
    limits = ComputeLimits(safe_factor=safe_factor, safe_factor_in_half_precision=safe_factor)
    call = replace(call, output=call.output.clone(), limits=limits)
    triton_kernels.calibrate_prefill(call, rows, heads, CalibrationSettings(alpha=5))
    return call.output


WORK: dict[str, Callable[..., Tensor]] = {
    "statistics": statistics,
    "calibrated": partial(calibrated, safe_factor=2.0),
    "calibrated over all keys": partial(calibrated, safe_factor=1.0),
}


def launched(launch: Launch | None, run: Callable[[], Tensor]) -> Tensor:
    """What a run of kernels gives that are launched in some way; None for the package's own."""
    if launch is None:
        return run()
    own = triton_kernels.compile_time_sizes
    given = {"BLOCK": launch.block, "STEP": launch.step, "num_warps": launch.warps, "num_stages": launch.stages}

    def sizes(dim: int, dtype: torch.dtype, gives_outputs: bool) -> dict[str, Any]:
        return {**own(dim, dtype, gives_outputs), **given}

    with patch.object(triton_kernels, "compile_time_sizes", sizes):
        return run()


def compile_all(given: argparse.Namespace) -> None:
    """Run each way once on few tokens, in processes of its own side by side, since compiling takes most of the time."""

    def compile_one(number: int) -> None:
        options = ["--device", given.device, "--dtype", given.dtype, "--dim", str(given.dim), "--only", str(number)]
        command = [sys.executable, __file__, *options, "--n", "128", "--repetitions", "0", "--output", os.devnull]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, range(given.launches)))


@torch.no_grad()
def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--n", type=int, default=8192, help="tokens")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=128, help="head dimension")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--launches", type=int, default=len(LAUNCHES), help="try the first so many")
    parser.add_argument("--only", type=int, help="try this one alone")
    parser.add_argument("--output", type=Path, required=True, help="file that gets a line of JSON for each way")
    given = parser.parse_args()
    numbers = range(given.launches) if given.only is None else [given.only]
    if given.only is None and given.device.startswith("cuda"):
        compile_all(given)
    call = prefill(given.n, given.heads, given.key_heads, given.dim, getattr(torch, given.dtype), given.device)
    rows, heads = torch.ones(1, given.heads, dtype=torch.bool, device=given.device).nonzero().unbind(-1)
    for name, work in WORK.items():
        run = partial(work, call, rows, heads)
        expected = launched(None, run)
        for launch in (LAUNCHES[number] for number in numbers):
            row: dict[str, Any] = {"work": name, "dtype": given.dtype, "dim": given.dim, "n": given.n, **asdict(launch)}
            try:
                row["difference"] = float((launched(launch, run) - expected).abs().max())
                if given.repetitions:
                    ways = {"own": partial(launched, None, run), "tried": partial(launched, launch, run)}
                    times = alternate(ways, given.repetitions, given.device)
                    row |= {"own_seconds": median(times["own"]), "seconds": median(times["tried"])}
            except Exception as error:  # such as too little shared memory
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            append(given.output, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
