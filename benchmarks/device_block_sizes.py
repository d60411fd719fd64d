"""How the size of blocks changes the time of the Triton kernels that walk over all scores, to choose it by: on a device.

    python benchmarks/device_block_sizes.py --output FILE

The package has block sizes that follow from the size of shared memory. They are fixed, not chosen by `triton.autotune` while a
model runs: sums depend on them in their last bits, and the same run must give the same answers again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from json_lines import append
from timing import alternate
from torch import Tensor

from act_eval.attention import triton_kernels
from act_eval.attention.call import AttentionCall
from act_eval.attention.masks import Visibility


@dataclass(frozen=True)
class Launch:
    """How kernels are launched: queries or keys of a block, warps that work on it, and loads in flight."""

    block: int
    warps: int
    stages: int


LAUNCHES = [Launch(block, warps, stages) for warps, stages, block in product((4, 8), (3, 2), (64, 128, 32))]


def prefill(n: int, heads: int, key_heads: int, dim: int, dtype: torch.dtype, device: str) -> AttentionCall:
    """A prefill of random states; nothing is known of its output, which these kernels do not look at."""
    generator = torch.Generator().manual_seed(n)

    def states(number: int) -> Tensor:
        return torch.randn(1, n, number, dim, generator=generator).to(device, dtype).transpose(1, 2)

    query, key = states(heads), states(key_heads)
    output = torch.empty(1, n, heads, dim, dtype=dtype, device=device)
    return AttentionCall(query, key, key, output, Visibility.from_mask(None, query, key), dim**-0.5, None)


def statistics_with(launch: Launch | None, call: AttentionCall, rows: Tensor, heads: Tensor) -> Tensor:
    """Each key's mean attention, by kernels launched in some way; None for the package's own."""
    if launch is None:
        return triton_kernels.attention_statistics(call, rows, heads)[0]
    own = triton_kernels.compile_time_sizes

    def sizes(dim: int, dtype: torch.dtype) -> dict[str, Any]:
        return {**own(dim, dtype), "BLOCK": launch.block, "num_warps": launch.warps, "num_stages": launch.stages}

    with patch.object(triton_kernels, "compile_time_sizes", sizes):
        return triton_kernels.attention_statistics(call, rows, heads)[0]


@torch.no_grad()
def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--n", type=int, default=4096, help="tokens")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=128, help="head dimension")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--launches", type=int, default=len(LAUNCHES), help="try the first so many")
    parser.add_argument("--output", type=Path, required=True, help="file that gets a line of JSON for each way")
    given = parser.parse_args()
    call = prefill(given.n, given.heads, given.key_heads, given.dim, getattr(torch, given.dtype), given.device)
    rows, heads = torch.ones(1, given.heads, dtype=torch.bool, device=given.device).nonzero().unbind(-1)
    run = partial(statistics_with, call=call, rows=rows, heads=heads)
    expected = run(None)
    for launch in LAUNCHES[: given.launches]:
        row: dict[str, Any] = {"dtype": given.dtype, "dim": given.dim, "n": given.n, **asdict(launch)}
        try:
            row["difference"] = float((run(launch) - expected).abs().max())
            times = alternate({"own": partial(run, None), "tried": partial(run, launch)}, given.repetitions, given.device)
            row |= {"own_seconds": median(times["own"]), "seconds": median(times["tried"])}
        except Exception as error:  # such as too little shared memory
            row["error"] = f"{type(error).__name__}: {error}"[:200]
        append(given.output, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
