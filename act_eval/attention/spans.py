"""Which tokens of a prompt are its span: the part that a method such as `bias-span` is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from act_eval.attention.layer import MODULE_ATTRIBUTE
from act_eval.attention.model_structure import attention_modules, pretrained_model


@contextmanager
def span_tokens(model: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Say which tokens of the prompts that run in the block are the part that a method is about.

    It is for a block inside an `ACT` block; elsewhere it changes nothing. New tokens on the cache of a prompt keep to what was
    said when the prompt ran, and need not run in the block.

        with ACT("all", method="bias-span", bias=2)(model), span_tokens(model, mask):
            model.generate(**inputs)

    Args:
        model: as `ACT` takes it.
        mask: bool `[rows, n]`, True for tokens of the part, as the prompts are padded; None where no prompt has it. For a batch
            of more rows, as beam search makes them, each row stands for as many side by side.

    Raises:
        ValueError: the mask is no tensor, has no two dimensions, or is not bool.
    """
    if mask is None:
        mask = torch.zeros(1, 0, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.dtype != torch.bool:
        given = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"the mask of a part of prompts is a tensor, bool [rows, tokens], not {given}.")
    with ExitStack() as stack:
        for module in attention_modules(pretrained_model(model)):
            outermost = getattr(module, MODULE_ATTRIBUTE, None)
            for layer in () if outermost is None else outermost.of_all_groups:
                stack.callback(setattr, layer, "span", layer.span)
                layer.span = mask
        yield
