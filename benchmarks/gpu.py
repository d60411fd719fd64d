"""What is to be known of a device, within eight minutes: whether the kernels are right, what ACT costs in time and memory.

    benchmarks/gpu.sh

Parts run as programs of their own, the most important one first: an error on the device spoils no other part, and a part that
takes too long is stopped and keeps the rows that it has. Kernels and forward passes need torch, triton and transformers, and no
network; whole evaluations need lm-eval too.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from budget import Budget, Part, run_parts
from gpu_tables import everything_is_right, markdown
from repository import RESULTS
from timing import machine

SHAPES = "llama-2-7b-layer,llama-3.1-8b-layer"


def parts_of(arguments: argparse.Namespace) -> list[Part]:
    """What is run, in order."""
    device = ["--device", arguments.device]

    def program(name: str, *options: str) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name(name)), *device, *options]

    kernels = ["--dtypes", arguments.dtypes, "--dims", arguments.dims]
    if arguments.most_tokens is not None:
        kernels += ["--most-tokens", str(arguments.most_tokens)]
    forward = ["--lengths", arguments.lengths, "--dtype", arguments.dtype]
    if arguments.repetitions is not None:
        forward += ["--repetitions", str(arguments.repetitions)]
    end_to_end = ["--dtype", arguments.dtype, "--documents", str(arguments.documents), "--repetitions", "3"]
    if arguments.model is not None:
        end_to_end += ["--model", arguments.model, "--rows", arguments.rows]
    else:
        end_to_end += ["--shape", arguments.end_to_end_shape]
    block_sizes = ["--dtype", arguments.dtype]
    if arguments.most_tokens is not None:
        block_sizes += ["--n", str(arguments.most_tokens), "--launches", "2"]
    return [
        Part("kernels", "kernels", program("kernel_checks.py", *kernels), least=30, most=200),
        Part("whole models", "whole models", program("whole_models.py"), least=10, most=60),
        *(
            Part(f"forward, {shape}", "forward", program("device_forward.py", "--shape", shape, *forward), least=20, most=90)
            for shape in arguments.shapes.split(",")
        ),
        Part("end to end", "end to end", program("end_to_end.py", *end_to_end), least=40, most=150, needs=("lm_eval", "typer")),
        Part("block sizes", "block sizes", program("device_block_sizes.py", *block_sizes), least=20, most=80),
    ]


def main() -> int:
    """Run the program: 0 where all kernels are right and no part failed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=450, help="for all parts together")
    parser.add_argument("--dtypes", default="bfloat16,float16,float32", help="of the kernel cases")
    parser.add_argument("--dims", default="128,64,80,96,256", help="head dimensions of the kernel cases")
    parser.add_argument("--most-tokens", type=int, help="of the kernel cases, which are cut to it; for a CPU")
    parser.add_argument("--shapes", default=SHAPES, help="of the layers whose forward pass is timed")
    parser.add_argument("--lengths", default="512,2048,8192,32768", help="tokens of a forward pass")
    parser.add_argument("--dtype", default="bfloat16", help="of forward passes and evaluations")
    parser.add_argument("--repetitions", type=int, help="of forward passes")
    parser.add_argument("--end-to-end-shape", default="llama-2-7b-8-layers", help="where no model is given")
    parser.add_argument("--documents", type=int, default=16, help="of an evaluation")
    parser.add_argument("--model", help="folder of a real model to evaluate")
    parser.add_argument("--rows", default="hellaswag,sst2,squad", help="tasks to evaluate it on")
    parser.add_argument("--output", type=Path, help="JSON and Markdown are written to this name with .json and .md")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no CUDA device here: run this where there is one, or give --device cpu.", file=sys.stderr)
        return 2
    budget = Budget(arguments.seconds)
    records = run_parts(parts_of(arguments), budget)
    result = {
        "machine": machine(arguments.device),
        "command": shlex.join(["benchmarks/gpu.sh", *sys.argv[1:]]),
        "seconds": budget.spent,
        "budget_seconds": budget.seconds,
        "parts": records,
    }
    output = arguments.output or RESULTS / f"gpu-{arguments.device.partition(':')[0]}"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_name(output.name + ".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = markdown(result)
    output.with_name(output.name + ".md").write_text(table, encoding="utf-8")
    print(table)
    return 0 if everything_is_right(result) and all(record["state"] != "failed" for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
