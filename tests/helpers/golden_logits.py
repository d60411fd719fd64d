"""Logits that the published code gave on small models, and what ACT gives on a device; needs torch and transformers alone."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import torch
from transformers import PreTrainedModel

from helpers.models import GOLDEN, golden_act, logits_of

GOLDEN_MODELS = ("llama_tiny", "llama_tiny_gqa")
GOLDEN_TOLERANCE = 5e-5


def short_sequences(name: str) -> list[str]:
    """The sequences of 9 to 17 tokens of a golden model, by their ids."""
    sequences = json.loads((GOLDEN / name / "cases.json").read_text())["sequences"]
    return [sequence["id"] for sequence in sequences if 9 <= len(sequence["input_ids"]) <= 17]


def golden_error(name: str, model: PreTrainedModel, device: str, sequences: Collection[str]) -> tuple[float, int]:
    """Compare the logits after sequences, under every setting of the published code.

    Args:
        name: one of `GOLDEN_MODELS`.
        model: of that name; it is left on the CPU.
        device: where it runs.
        sequences: their ids.

    Returns:
        The largest difference, and how many cases there were.
    """
    cases = json.loads((GOLDEN / name / "cases.json").read_text())
    expected = np.load(GOLDEN / name / "logits.npz")
    ids = {sequence["id"]: torch.tensor([sequence["input_ids"]], device=device) for sequence in cases["sequences"]}
    chosen = [case for case in cases["cases"] if case["sequence"] in sequences]
    errors = []
    model.to(device)
    for case in chosen:
        logits = logits_of(model, ids[case["sequence"]], golden_act(cases, case["setting"]))[0, -1].cpu().numpy()
        errors.append(np.abs(logits - expected[case["last_key"]][case["last_row"]]).max())
    model.to("cpu")
    return float(np.max(errors)), len(chosen)
