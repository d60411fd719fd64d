"""Run small whole models on a device, and compare their logits with those that the published code gave on them.

    python benchmarks/whole_models.py --device cuda --output FILE

Needs torch, triton and transformers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from json_lines import append
from repository import TESTS
from transformers import AutoModelForCausalLM

sys.path.append(str(TESTS))

from helpers.golden_logits import GOLDEN_MODELS, GOLDEN_TOLERANCE, golden_error, short_sequences
from helpers.models import GOLDEN

from act_eval.attention import layer


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, required=True, help="file that gets a line of JSON for each model")
    given = parser.parse_args()
    choose = layer.choose_kernels
    for name in GOLDEN_MODELS:
        model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32).eval()
        calls: Counter[str] = Counter()

        def counted(*args: Any, calls: Counter[str] = calls) -> object:
            kernels = choose(*args)
            calls[kernels.__name__.rpartition(".")[2]] += 1
            return kernels

        with patch.object(layer, "choose_kernels", counted):
            error, cases = golden_error(name, model, given.device, short_sequences(name))
        row = {"model": name, "cases": cases, "calls": calls, "error": error, "tolerance": GOLDEN_TOLERANCE}
        row["right"] = error <= GOLDEN_TOLERANCE
        append(given.output, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
