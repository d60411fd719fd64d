"""How tests run a tiny model of a family: token ids, masks, and logits of prefill and decode."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.model_structure import attention_layers
from act_eval.methods.act import ToOtherTokens
from helpers.families import FAMILIES, VOCABULARY, Family

LENGTH, SHORTER = 24, 15
SETTINGS = CalibrationSettings(method=ToOtherTokens(0.1), threshold=0.1)


def family_named(name: str) -> Family:
    """A family by its name; the test is skipped where the installed transformers cannot run it."""
    (family,) = [family for family in FAMILIES if family.name == name]
    if not family.is_known or family.is_newer_than_transformers:
        pytest.skip(f"this transformers has no {name}")
    return family


def ids_of(length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(seed))


def mask_of(side: str | None) -> torch.Tensor:
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    if side is not None:
        mask[1, slice(0, LENGTH - SHORTER) if side == "left" else slice(SHORTER, LENGTH)] = 0
    return mask


def all_heads(model: transformers.PreTrainedModel) -> dict[int, tuple[int, ...]]:
    heads = model.config.get_text_config().num_attention_heads
    return {layer: tuple(range(heads)) for layer in attention_layers(model.config)}


def act(heads: str = "all", threshold: float = 0.1) -> ACT:
    return ACT(heads, method=SETTINGS.method, threshold=threshold)


@torch.no_grad()
def run(model: transformers.PreTrainedModel, mask: torch.Tensor, new: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """Logits of a prefill's real tokens, then of `new` tokens at a time on its cache."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    output = model(
        ids_of(LENGTH, seed=2),
        attention_mask=mask,
        use_cache=bool(new),
        **({"position_ids": positions} if takes_positions else {}),
    )
    logits = [output.logits[mask.bool()]]
    for step, tokens in enumerate(new):
        mask = torch.cat([mask, torch.ones(2, tokens, dtype=torch.long)], dim=-1)
        positions = (mask.cumsum(-1) - 1)[:, -tokens:]
        output = model(
            ids_of(tokens, seed=10 + step),
            attention_mask=mask,
            past_key_values=output.past_key_values,
            use_cache=True,
            **({"position_ids": positions} if takes_positions else {}),
        )
        logits.append(output.logits)
    return logits
