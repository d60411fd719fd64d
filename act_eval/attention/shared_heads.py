"""Some heads of all rows of a batch: the unit where rows calibrate the same heads.

Then heads are taken out of queries, keys and values without a copy for each pair of a row and a head (`pairs`), and query heads
that share a key/value head are multiplied with it together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from act_eval.attention.calibration import at_least_float32
from act_eval.attention.call import AttentionCall
from act_eval.attention.pairs import SelectedKeys, soft_cap
from act_eval.methods.base import Method, SelectiveMethod


@dataclass(frozen=True)
class SharedHeads:
    """What some heads of all rows got in one call, and what each of their queries sees.

    Attributes:
        query: `[batch, heads, n, head_dim]`, at least float32.
        key, value: `[batch, key/value heads, k, head_dim]`, at least float32; a divisor of `heads` of them.
        bias: `[batch or 1, 1 or heads, n, k]`, what to add to scores so that keys that are not seen get no weight.
        hidden: bool of the same shape, True for these keys.
        scaling: what scores are multiplied by.
        softcap: soft cap of the scores, or None.
        learned_sinks: `[heads]`, the learned logit of each head, or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    hidden: Tensor
    scaling: float
    softcap: float | None
    learned_sinks: Tensor | None

    @classmethod
    def of_call(cls, call: AttentionCall, heads: Tensor | None) -> SharedHeads:
        """Take some heads, int64 `[some heads]`, out of a call, or all."""
        query, key, value, learned_sinks = call.query, call.key, call.value, call.learned_sinks
        hidden, bias = call.visibility.hidden_keys, call.visibility.bias
        if heads is not None:
            key_heads = heads // (query.shape[1] // key.shape[1])
            query, key, value = (
                tensor.index_select(1, some) for tensor, some in ((query, heads), (key, key_heads), (value, key_heads))
            )
            if bias.shape[1] > 1:
                hidden, bias = hidden.index_select(1, heads), bias.index_select(1, heads)
            learned_sinks = None if learned_sinks is None else learned_sinks.index_select(0, heads)
        query, key, value = (at_least_float32(tensor) for tensor in (query, key, value))
        return cls(query, key, value, bias, hidden, call.scaling, call.softcap, learned_sinks)

    @property
    def group(self) -> int:
        """How many of the query heads share a key/value head."""
        return self.query.shape[1] // self.key.shape[1]

    def part(self, rows: slice, key_heads: slice) -> SharedHeads:
        """Take some rows of the batch, and the query heads of some key/value heads."""
        heads = slice(key_heads.start * self.group, key_heads.stop * self.group)
        query, key, value = self.query[rows, heads], self.key[rows, key_heads], self.value[rows, key_heads]
        masks = (mask if mask.shape[0] == 1 else mask[rows] for mask in (self.bias, self.hidden))
        bias, hidden = (mask if mask.shape[1] == 1 else mask[:, heads] for mask in masks)
        learned_sinks = None if self.learned_sinks is None else self.learned_sinks[heads]
        return replace(self, query=query, key=key, value=value, bias=bias, hidden=hidden, learned_sinks=learned_sinks)

    def weights(self, block: slice = slice(None)) -> Tensor:
        """Compute the attention weights of a block of queries: `[batch, heads, block, k]`.

        With learned sinks, rows sum to less than 1. Those of queries that see nothing (padding) are finite.
        """
        query, key = self.query[:, :, block], self.key.flatten(0, 1)
        rows = query.reshape(len(key), -1, query.shape[-1])
        products = torch.baddbmm(rows.new_empty(1), rows, key.mT, beta=0, alpha=self.scaling)
        scores = soft_cap(products.view(*query.shape[:-1], -1), self.softcap)
        scores += self.bias[:, :, block]
        if self.learned_sinks is None:
            return scores.softmax(-1)
        column = self.learned_sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]

    def sum_values(self, weights: Tensor) -> Tensor:
        """Sum the values of the keys with weights `[batch, heads, any, k]`: `[batch, heads, any, head_dim]`."""
        batch, heads, n, k = weights.shape
        rows = weights.reshape(batch, self.value.shape[1], -1, k)
        return (rows @ self.value).view(batch, heads, n, -1)


def rewrite_rows(method: Method, weights: Tensor, sinks: Tensor, first_token_mask: Tensor) -> Tensor:
    """As `Method.rewrite`, with fewer passes over the weights where the method decides on few keys.

    Args:
        method: what becomes of the rows.
        weights: `[batch, heads, n, k]`, 0 for keys that a query does not see; may be written over.
        sinks: bool `[batch, heads, k]`.
        first_token_mask: bool `[batch, heads, k]`, True for the first token.
    """
    if not isinstance(method, SelectiveMethod):
        return method.rewrite(weights, sinks[:, :, None], first_token_mask[:, :, None])
    selected = SelectedKeys.from_masks(method.selected(sinks, first_token_mask), first_token_mask)
    if selected is None:
        return weights
    places, present = selected.index[:, :, None].expand(-1, -1, weights.shape[-2], -1), selected.present[:, :, None]
    others = weights.clone() if weights.requires_grad else weights
    at_places = weights.gather(-1, places)
    others.scatter_(-1, places, at_places * ~present)
    rewritten, factor = method.rewrite_selected(
        at_places * present, selected.first_token_mask[:, :, None], others.sum(-1, keepdim=True)
    )
    return others.mul_(factor).scatter_(-1, places, torch.where(present, rewritten, at_places * factor))
