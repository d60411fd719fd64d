"""Contexts and their continuations packed into one forward pass without padding.

The model sees a single row of tokens: a context, its continuations one after the other, the next context, and so on. Its
matrix products, where most of the time goes, work on real tokens alone. Only attention needs to know which token belongs to
what: around each call of the attention function, queries, keys and values are laid out in a row for each context, padded on
the left up to the end of the contexts, so that all continuations begin at the same place. Under the mask there, each token
sees what it would see if its continuation alone followed the context; positions restart with each continuation. So nothing
depends on what else is packed.

Masks are the model's own, made by transformers for where each token would stand: windows hold as they do without packing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from act_eval.attention import gptj
from act_eval.attention.backends import NAME_PREFIX, base_attention, base_name
from act_eval.attention.layer import MODULE_ATTRIBUTE
from act_eval.attention.model_structure import attention_layers, attention_modules, model_shape, pretrained_model

MaskFunction = Callable[[Any, Any, Any, Any], Any]

_PREFIX = f"{NAME_PREFIX}packed_"
_CONFIG_ATTRIBUTE = "act_packing"
_BASES = ("sdpa", "eager")  # others do not take any mask


@dataclass(frozen=True)
class Packing:
    """Where packed tokens stand in the rows that attention works on, `n` places each.

    Attributes:
        context_length: how many places of each row are for its context, which is padded on the left.
        is_real: bool `[rows, n]`, False for padding.
        continuation: int64 `[rows, n]`, 0 for contexts and padding, and for other tokens the number of their continuation, from
            1 in each row.
        stands: int64 `[rows, n]`, the place where each token would be if its continuation alone followed the context.
        token: int64 `[rows * n]`, which packed token is at each place; for padding one of the same row.
        place: int64 `[tokens]`, at which place each packed token is, counted over all rows.
    """

    context_length: int
    is_real: Tensor
    continuation: Tensor
    stands: Tensor
    token: Tensor
    place: Tensor

    def in_rows(self, packed: Tensor) -> Tensor:
        """Lay out queries, keys or values, `[1, heads, tokens, head_dim]`, in rows: `[rows, heads, n, head_dim]`."""
        tokens = packed[0].transpose(0, 1).index_select(0, self.token.to(packed.device))
        return tokens.view(*self.is_real.shape, *tokens.shape[1:]).transpose(1, 2)

    def from_rows(self, output: Tensor) -> Tensor:
        """Pack the output of rows, `[rows, n, heads, head_dim]`, again: `[1, tokens, heads, head_dim]`."""
        return output.flatten(0, 1).index_select(0, self.place.to(output.device))[None]

    def mask_of_rows(self, mask_function: MaskFunction) -> MaskFunction:
        """Make the mask function of the rows from a sequence's, which says of a row, head, query and key what is seen."""

        def sees(row: Any, head: Any, query: Any, key: Any) -> Any:
            own, others = self.continuation[row, query], self.continuation[row, key]
            visible = mask_function(row, head, self.stands[row, query], self.stands[row, key])
            return visible & ((others == 0) | (others == own))

        return sees


@contextmanager
def packed_tokens(model: nn.Module, packing: Packing) -> Iterator[None]:
    """Run a model on packed tokens in the block, which may be inside an `ACT` block: sinks are then those of the contexts.

    In the block the model gets one row of token ids, a mask of ones, positions that restart, and no cache.

    Args:
        model: one that `can_be_packed`.
        packing: of the tokens.
    """
    modules = attention_modules(pretrained_model(model))
    with ExitStack() as stack:
        for module in modules:
            outermost = getattr(module, MODULE_ATTRIBUTE, None)
            for layer in () if outermost is None else outermost.of_all_groups:
                layer.context_length = packing.context_length
                stack.callback(setattr, layer, "context_length", None)
        for config in {id(module.config): module.config for module in modules}.values():
            stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
            config._attn_implementation_internal = _register(config._attn_implementation)
            stack.callback(delattr, config, _CONFIG_ATTRIBUTE)
            setattr(config, _CONFIG_ATTRIBUTE, packing)
        yield


def can_be_packed(model: nn.Module) -> bool:
    """Whether a model can run on packed tokens, as far as can be told without running it.

    Not so with backends that take no mask (flash attention), and in hybrid models, some of whose layers have no attention and
    pass on what they remember from token to token.
    """
    pretrained = pretrained_model(model)
    config = pretrained.config.get_text_config()
    num_layers, _ = model_shape(config)
    return (
        base_name(config) in _BASES
        and not gptj.is_adapted(type(pretrained))
        and len(attention_layers(config)) == num_layers
        and {"position_ids", "logits_to_keep"} <= inspect.signature(pretrained.forward).parameters.keys()
    )


def _register(name: str) -> str:
    """Let transformers find an attention backend under another name, with packed tokens around it."""
    AttentionInterface.register(_PREFIX + name, partial(_packed_attention, name))
    AttentionMaskInterface.register(_PREFIX + name, partial(_packed_mask, ALL_MASK_ATTENTION_FUNCTIONS[name]))
    return _PREFIX + name


def _packed_attention(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute attention in rows; apart from the backend's name, the arguments are those of attention functions."""
    packing: Packing = getattr(module.config, _CONFIG_ATTRIBUTE)
    attend = base_attention(module, name) if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
    in_rows = (packing.in_rows(tensor) for tensor in (query, key, value))
    output, _ = attend(module, *in_rows, attention_mask, *args, **kwargs)
    return packing.from_rows(output), None


def _packed_mask(
    make_mask: Callable[..., Tensor], *, config: Any, mask_function: MaskFunction = causal_mask_function, **arguments: Any
) -> Tensor:
    """Make a backend's mask of rows; the arguments are those of mask functions of `AttentionMaskInterface`."""
    packing: Packing = getattr(config, _CONFIG_ATTRIBUTE)
    rows, n = packing.is_real.shape
    of_rows: dict[str, Any] = {"batch_size": rows, "q_length": n, "kv_length": n, "attention_mask": packing.is_real}
    of_rows["mask_function"] = packing.mask_of_rows(mask_function)
    return make_mask(config=config, **{**arguments, **of_rows, "allow_is_causal_skip": False})
