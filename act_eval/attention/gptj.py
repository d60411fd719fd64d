"""GPT-J, whose modelling file does not use transformers' attention interface before transformers 5.24.

Its attention modules compute scores, softmax and the product with the values in one method, `_attn`. Inside an ACT context that
method of each module is the act attention function over the module's own `_attn`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from torch import Tensor, nn


def is_adapted(model_class: type[transformers.PreTrainedModel]) -> bool:
    """Whether models of this class have their attention in `_attn`; they can run with "eager" attention only."""
    return model_class.config_class.model_type == "gptj" and not model_class._can_set_attn_implementation()


def base_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, Tensor]:
    """The module's own attention, with the arguments and results of an attention function.

    Args:
        module: an attention module.
        query, key, value: float `[batch, heads, n or k, head_dim]`.
        attention_mask: additive float `[batch, 1, n, k]`, or None.

    Returns:
        The output, `[batch, n, heads, head_dim]`, and the attention weights.
    """
    output, weights = type(module)._attn(module, query, key, value, attention_mask)  # type: ignore[attr-defined]
    return output.transpose(1, 2), weights


def route_through(module: nn.Module, attention: Any) -> None:
    """Let a module call another attention function in place of its own, until its attribute `_attn` is deleted.

    Args:
        module: an attention module.
        attention: as `act_eval.attention.layer.act_attention`.
    """
    module._attn = partial(_call_attention_function, module, attention)  # type: ignore[assignment]


def _call_attention_function(
    module: nn.Module,
    attention: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    head_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Call an attention function with the arguments of `_attn`, which has a `head_mask` up to transformers 4.57."""
    dropout = module.attn_dropout.p if module.training else 0.0  # type: ignore[union-attr]
    output, weights = attention(module, query, key, value, attention_mask, head_mask=head_mask, dropout=dropout)
    return output.transpose(1, 2), weights
