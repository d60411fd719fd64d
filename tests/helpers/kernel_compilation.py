"""Compile the Triton kernels for a device that need not be there: python -m helpers.kernel_compilation

Prints, as JSON, how many bytes of shared memory each kernel takes. Triton's interpreter, in which the other tests run, accepts
what its compiler does not.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from act_eval.attention import triton_kernels

TARGET = GPUTarget("cuda", 89, 32)  # the least shared memory of the devices that have bfloat16
POINTERS = {"rows": "i64", "heads": "i64", "index": "i32", "count": "i32", "padding": "i1", "is_sink": "i1"}
OF_DTYPE = ("query", "key", "value", "output")
FLOATS = ("scale", "softcap", "beta", "largest_safe_factor")
TRITON_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def source(kernel: Any, dtype: torch.dtype, dim: int, **constants: int) -> ASTSource:
    """A kernel with the types of its arguments.

    Args:
        kernel: of `triton_kernels`.
        dtype, dim: of queries, keys and values.
        constants: arguments that Triton takes for constants, as it does with integers that are 1.
    """
    options = {"HAS_PADDING": True, "HAS_SOFTCAP": True, "IS_HALF": dtype != torch.float32, **triton_kernels.SINKS}
    options |= triton_kernels.compile_time_sizes(dim, dtype, kernel is triton_kernels._calibrate_kernel)
    given = {name: value for name, value in {**options, **constants}.items() if name in kernel.arg_names}

    def kind(name: str) -> str:
        if name in given:
            return "constexpr"
        stem = name.removesuffix("_ptr")
        if stem != name:
            return "*" + (TRITON_NAMES[dtype] if stem in OF_DTYPE else POINTERS.get(stem, "fp32"))
        return "fp32" if name in FLOATS else "i32"

    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    aligned = [name for name in places if name.endswith(("_ptr", "_batch", "_head", "_stride")) and name not in given]
    return ASTSource(
        fn=kernel,
        signature={name: kind(name) for name in places},
        constexprs={places[name]: value for name, value in given.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name in aligned},
    )


def shared_bytes(kernel: Any, dtype: torch.dtype, dim: int, **constants: int) -> int:
    """Compile a kernel, and say how much shared memory it takes."""
    sizes = triton_kernels.compile_time_sizes(dim, dtype, kernel is triton_kernels._calibrate_kernel)
    launch = {name: sizes[name] for name in ("num_warps", "num_stages")}
    return triton.compile(source(kernel, dtype, dim, **constants), target=TARGET, options=launch).metadata.shared


def main() -> None:
    """Run the program."""
    kernels = {
        "log normalizer": triton_kernels._log_normalizer_kernel,
        "received": triton_kernels._received_kernel,
        "pack": triton_kernels._pack_kernel,
        "sink mass": triton_kernels._sink_mass_kernel,
        "calibrate": triton_kernels._calibrate_kernel,
    }
    sizes = {name: shared_bytes(kernel, torch.bfloat16, 128) for name, kernel in kernels.items()}
    sizes["calibrate, one token"] = shared_bytes(triton_kernels._calibrate_kernel, torch.float16, 16, n=1, k=1, group=1)
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
