"""Contexts and their continuations as one row of tokens for a forward pass; `act_eval.attention.packing` says how it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from act_eval.attention.packing import Packing


@dataclass(frozen=True)
class PackedContexts:
    """Packed tokens, and where the logits of the continuations are.

    A continuation's last token is not among them: nothing follows it.

    Attributes:
        ids, positions: int64 `[1, tokens]`.
        packing: which token belongs to what.
        kept: int64 `[kept]`, the tokens whose logits are needed.
        lengths: how many tokens each continuation has, context by context.
        foreseen_at: int64 `[tokens of all continuations]`, for each the place in `kept` of the token before it.
        targets: int64 of the same shape, the tokens themselves.
    """

    ids: Tensor
    positions: Tensor
    packing: Packing
    kept: Tensor
    lengths: list[int]
    foreseen_at: Tensor
    targets: Tensor

    @classmethod
    def pack(cls, contexts: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], device: torch.device) -> PackedContexts:
        """Pack contexts with their continuations.

        Args:
            contexts: token ids of each context, at least one, and of its continuations, at least one each.
            device: of the tensors.
        """
        context_length = max(len(context) for context, _ in contexts)
        n = context_length + max(packed_length(continuations) for _, continuations in contexts)
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        kept: list[int] = []
        foreseen_at: list[int] = []
        shape = len(contexts), n
        is_real, continuation_of, stands = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        for row, (context, continuations) in enumerate(contexts):
            padding = context_length - len(context)
            fed = [tokens[:-1] for tokens in continuations]
            offsets = [*range(len(context)), *(len(context) + number for tokens in fed for number in range(len(tokens)))]
            own = slice(padding, padding + len(offsets))
            is_real[row, own] = 1
            numbers = [number for number, tokens in enumerate(fed, 1) for _ in tokens]
            continuation_of[row, own] = torch.tensor([0] * len(context) + numbers)
            stands[row, own] = torch.tensor(offsets) + padding
            places += range(row * n + own.start, row * n + own.stop)
            last_of_context = len(ids) + len(context) - 1
            first = len(kept)
            kept += range(last_of_context, len(ids) + len(offsets))
            ids += [*context, *chain(*fed)]
            positions += offsets
            start = first + 1
            for tokens in fed:
                foreseen_at += [first, *range(start, start + len(tokens))]
                start += len(tokens)
        all_continuations = [tokens for _, continuations in contexts for tokens in continuations]
        place = torch.tensor(places)
        token = torch.zeros(len(contexts) * n, dtype=torch.long)
        token[place] = torch.arange(len(places))
        return cls(
            ids=torch.tensor([ids], device=device),
            positions=torch.tensor([positions], device=device),
            packing=Packing(
                context_length,
                is_real.bool().to(device),
                continuation_of.to(device),
                stands.to(device),
                token.to(device),
                place.to(device),
            ),
            kept=torch.tensor(kept, device=device),
            lengths=[len(tokens) for tokens in all_continuations],
            foreseen_at=torch.tensor(foreseen_at, device=device),
            targets=torch.tensor([*chain(*all_continuations)], device=device),
        )


def packed_length(continuations: Iterable[Sequence[int]]) -> int:
    """How many tokens the continuations of one context have when they are packed."""
    return sum(len(continuation) - 1 for continuation in continuations)
