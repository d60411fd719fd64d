"""Try the attention kernels on a device: every dtype, head dimension, mask and kind of score, against full maps in float64.

    python benchmarks/kernel_checks.py --device cuda

Each dtype and head dimension has a process of its own, since an error on a device spoils all that follows in its process, and
Triton compiles in one thread. Needs torch, triton and transformers. On a CPU it needs Triton's interpreter: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from json_lines import append
from repository import TESTS

sys.path.append(str(TESTS))

from helpers.kernel_cases import DTYPES, HEAD_DIMS, kernel_cases, triton_where_supported, try_kernels

from act_eval.attention.layer import choose_kernels


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without its module."""
    return str(dtype).removeprefix("torch.")


def try_cases(dtype: torch.dtype, dim: int, device: str, most: int | None, output: Path) -> None:
    """Try all cases of a dtype and head dimension, and write a row for each; an error is part of it."""
    choose = triton_where_supported if device == "cpu" else choose_kernels
    for case in kernel_cases(dtype, dim):
        row = {"dtype": name_of(dtype), "dim": dim, "case": case.name}
        began = time.perf_counter()
        try:
            outcome = try_kernels(case if most is None else case.cut(most), device, choose)
            row |= {**asdict(outcome), "right": outcome.is_right}
        except Exception as error:  # of any kind: of the compiler, of the device, of what it gives
            row |= {"right": False, "error": f"{type(error).__name__}: {error}"[:500]}
        append(output, {**row, "seconds": time.perf_counter() - began})
        print(row["dtype"], dim, case.name, "right" if row["right"] else f"WRONG: {row}", flush=True)


def in_own_process(dtype_and_dim: tuple[torch.dtype, int], arguments: argparse.Namespace) -> None:
    """Try the cases of a dtype and head dimension in a process of its own; where that dies, a row says so."""
    dtype, dim = dtype_and_dim
    command = [sys.executable, __file__, "--device", arguments.device, "--dtypes", name_of(dtype), "--dims", str(dim)]
    command += ["--processes", "0", "--output", str(arguments.output)]
    command += [] if arguments.most_tokens is None else ["--most-tokens", str(arguments.most_tokens)]
    ended = subprocess.run(command, check=False)
    if ended.returncode:
        reason = f"its process ended with exit status {ended.returncode}"
        append(arguments.output, {"dtype": name_of(dtype), "dim": dim, "case": "all", "right": False, "error": reason})


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default=",".join(map(name_of, DTYPES)))
    parser.add_argument("--dims", default=",".join(map(str, HEAD_DIMS)), help="head dimensions")
    parser.add_argument("--most-tokens", type=int, help="cut longer cases to so many")
    parser.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1), help="at once; 0: all in this one")
    parser.add_argument("--output", type=Path, required=True, help="file that gets a line of JSON for each case")
    arguments = parser.parse_args()
    groups = [(getattr(torch, dtype), int(dim)) for dtype in arguments.dtypes.split(",") for dim in arguments.dims.split(",")]
    if arguments.processes == 0:
        for dtype, dim in groups:
            try_cases(dtype, dim, arguments.device, arguments.most_tokens, arguments.output)
        return
    with ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(partial(in_own_process, arguments=arguments), groups))


if __name__ == "__main__":
    main()
