"""Logits that the published code gave on small models, and what ACT gives on a device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from helpers.models import GOLDEN, golden_act, logits_of

GOLDEN_MODELS = ("llama_tiny", "llama_tiny_gqa")
GOLDEN_TOLERANCE = 5e-5


def golden_error(name: str, model: PreTrainedModel, device: str) -> float:
    """The largest difference of a logit after a short sequence, under every setting of the published code.

    Args:
        name: one of `GOLDEN_MODELS`.
        model: of that name; it is left on the CPU.
        device: where it runs.
    """
    folder: Path = GOLDEN / name
    cases = json.loads((folder / "cases.json").read_text())
    expected = np.load(folder / "logits.npz")
    sequences = {sequence["id"]: torch.tensor([sequence["input_ids"]]) for sequence in cases["sequences"]}
    largest = 0.0
    model.to(device)
    for case in cases["cases"]:
        ids = sequences[case["sequence"]]
        if 9 <= ids.shape[1] <= 17:
            logits = logits_of(model, ids.to(device), golden_act(cases, case["setting"]))[0, -1].cpu().numpy()
            largest = max(largest, float(np.abs(logits - expected[case["last_key"]][case["last_row"]]).max()))
    model.to("cpu")
    return largest
