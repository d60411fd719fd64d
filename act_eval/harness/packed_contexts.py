"""Contexts and their continuations as one row of tokens for a forward pass; `act_eval.attention.packing` says how it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

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
    def pack(
        cls, contexts: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], device: torch.device, shared: int = 0
    ) -> PackedContexts:
        """Pack contexts with their continuations.

        Args:
            contexts: token ids of each context, at least one, and of its continuations, at least one each.
            device: of the tensors.
            shared: how many tokens at their beginning, which all contexts have in common, are packed once for all.
        """
        context_length = max(len(context) for context, _ in contexts)
        n = context_length + max(packed_length(continuations) for _, continuations in contexts)
        beginning = contexts[0][0][:shared]
        ids, positions, kept, foreseen_at = [*beginning], [*range(shared)], list[int](), list[int]()
        is_real, continuation_of, stands, token = (torch.zeros(len(contexts), n, dtype=torch.long) for _ in range(4))
        for row, (context, continuations) in enumerate(contexts):
            fed = [tokens[:-1] for tokens in continuations]
            offsets = [*range(len(context)), *(len(context) + number for tokens in fed for number in range(len(tokens)))]
            numbers = [number for number, tokens in enumerate(fed, 1) for _ in tokens]
            padding = context_length - len(context)
            own = slice(padding, padding + len(offsets))
            is_real[row, own] = 1
            continuation_of[row, own] = torch.tensor([0] * len(context) + numbers)
            stands[row, own] = torch.tensor(offsets) + padding
            of_row = [*range(shared), *range(len(ids), len(ids) + len(offsets) - shared)]
            token[row] = of_row[0]  # padding is a token of the row's own, so that what is not a number stays in its row
            token[row, own] = torch.tensor(of_row)
            foreseeing_first = start = len(kept)
            kept += of_row[len(context) - 1 :]
            for tokens in fed:
                foreseen_at += [foreseeing_first, *range(start + 1, start + 1 + len(tokens))]
                start += len(tokens)
            ids += [*context[shared:], *chain(*fed)]
            positions += offsets[shared:]
        place = torch.zeros(len(ids), dtype=torch.long)
        real_places = is_real.flatten().nonzero().squeeze(-1).flip(0)  # so that shared tokens are those of the first row
        place[token.flatten()[real_places]] = real_places
        all_continuations = [tokens for _, continuations in contexts for tokens in continuations]
        return cls(
            ids=torch.tensor([ids], device=device),
            positions=torch.tensor([positions], device=device),
            packing=Packing(
                context_length,
                is_real.bool().to(device),
                continuation_of.to(device),
                stands.to(device),
                token.flatten().to(device),
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


def common_beginning(contexts: Iterable[Sequence[int]]) -> int:
    """How many tokens all contexts begin with."""
    at_each_place = zip(*contexts, strict=False)
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, at_each_place))
