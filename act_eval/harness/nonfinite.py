"""Logits that are not numbers, as float16 gives them when a model overflows: found, named, and never scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from act_eval.attention.model_structure import decoder_layers, pretrained_model
from act_eval.errors import InputError
from act_eval.harness.scoring import Tokens


class NonFiniteLogitsError(InputError):
    """A model gave logits that are not numbers.

    Args:
        tokens: token ids of the input that it gave them for.
        layer: index of the first decoder layer whose output is not finite, or None when all layers' outputs are.
        where: which document that is, as far as it is known.
    """

    def __init__(self, tokens: Tokens, layer: int | None = None, where: str = "an input") -> None:
        self.tokens, self.layer = tokens, layer
        place = "in the output layer, after the last decoder layer" if layer is None else f"in layer {layer}"
        super().__init__(
            f"the model's logits for {where} ({len(tokens)} tokens) are not numbers, beginning {place}: "
            "choose another dtype, such as dtype=float32 or dtype=bfloat16."
        )


@torch.no_grad()
def first_layer_not_finite(model: nn.Module, tokens: Tokens) -> int | None:
    """Run one input and find the first decoder layer whose output holds NaN or infinity; None where there is none.

    Args:
        model: what is called; holds a transformers model.
        tokens: token ids.
    """
    pretrained = pretrained_model(model)
    found: list[int] = []
    hooks = []
    for index, layer in enumerate(decoder_layers(pretrained)):

        def check(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...], index: int = index) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if not bool(hidden.isfinite().all()):
                found.append(index)

        hooks.append(layer.register_forward_hook(check))
    try:
        model(torch.tensor([tokens], device=pretrained.device))
    finally:
        for hook in hooks:
            hook.remove()
    return min(found, default=None)


def holds(tokens: Tokens, part: Tokens) -> bool:
    """Whether some token ids stand side by side in others."""
    return any(tokens[start : start + len(part)] == part for start in range(len(tokens) - len(part) + 1))


class RefuseNonFiniteLogits(LogitsProcessor):
    """Stops a generation whose logits are not numbers.

    Args:
        prompts: token ids of each row of the batch, without padding.

    Raises:
        NonFiniteLogitsError: for the first such row.
    """

    def __init__(self, prompts: Sequence[Tokens]) -> None:
        self.prompts = prompts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Pass scores on, float `[rows, vocabulary]`, unless they are not numbers."""
        bad = scores.amax(-1).isnan()  # a maximum is NaN where something is, and many times faster than looking at each score
        if bool(bad.any()):
            row = int(bad.nonzero()[0]) * len(self.prompts) // len(scores)
            raise NonFiniteLogitsError(self.prompts[row])
        return scores
