"""The least that an evaluation can cost: operations that must run at least once, as a share of those of stock `hf`.

Counted are the matrix products with weights, per real token: the layers for each token that runs, the output layer for each
position whose logits are computed. Attention to other tokens is left out: 1% of the whole at 40 tokens, more with longer texts.
Neither side's padding counts, and a beginning that several contexts share counts for each of them. So ratios may be below the
floor where a system runs such a beginning once, or stock `hf` pads much.

- Stock `hf` runs context and continuation as one row, logits at all positions, and one row for all continuations that differ in
  their last token alone.
- At least, each context runs once and each of its continuations once after it, with logits where a token is scored.
- Generation runs each prompt and each new token once in either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

Pair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a context and of a continuation."""


@dataclass(frozen=True)
class TokenCost:
    """Multiplications with weights that one token takes: in all layers together, and in the output layer."""

    layers: int
    output: int

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> TokenCost:
        """Count the weights of a dense model: one multiplication each, but for embeddings, which are looked up.

        Raises:
            ValueError: it has weights of three dimensions, such as stacked experts, of which a token meets some only.
        """
        output = model.get_output_embeddings()
        parts = [module for module in model.modules() if module is not output and not isinstance(module, nn.Embedding)]
        weights = [weight for module in parts for weight in module.parameters(recurse=False)]
        if any(weight.ndim > 2 for weight in weights):
            raise ValueError(
                f"{type(model).__name__} is not dense: which of its weights a token meets is not known beforehand."
            )
        return cls(sum(weight.numel() for weight in weights if weight.ndim == 2), output.weight.numel())


@dataclass(frozen=True)
class Work:
    """How many tokens run through the layers, and how many through the output layer."""

    layers: int
    output: int

    def operations(self, cost: TokenCost) -> int:
        """Multiplications with weights."""
        return self.layers * cost.layers + self.output * cost.output


def stock_rows(pairs: Iterable[Pair]) -> list[int]:
    """The lengths of the rows that stock `hf` runs, longest first; a continuation's last token is never fed."""
    distinct = {(*context, *continuation[:-1]) for context, continuation in pairs}
    return sorted(map(len, distinct), reverse=True)


def stock_work(pairs: Iterable[Pair]) -> Work:
    """What stock `hf` runs to score continuations, padding apart."""
    tokens = sum(stock_rows(pairs))
    return Work(tokens, tokens)


def least_work(pairs: Iterable[Pair]) -> Work:
    """What must run at least: each context once, each of its continuations once, logits where a token is scored."""
    continuations = {(tuple(context), tuple(continuation)) for context, continuation in pairs}
    contexts = {context for context, _ in continuations}
    fed = sum(len(continuation) - 1 for _, continuation in continuations)
    return Work(sum(map(len, contexts)) + fed, len(contexts) + fed)


def floor(pairs: Iterable[Pair], cost: TokenCost) -> float:
    """The least operations for scoring continuations as a share of stock `hf`'s."""
    pairs = list(pairs)
    return least_work(pairs).operations(cost) / stock_work(pairs).operations(cost)


def stock_padding(pairs: Iterable[Pair], batch_size: int) -> float:
    """The share of stock `hf`'s tokens that are padding: rows of like length are batched, and padded to the longest."""
    rows = stock_rows(pairs)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return 1 - sum(rows) / sum(batch[0] * len(batch) for batch in batches)
