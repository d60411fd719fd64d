"""Scoring continuations as generation would meet them: each context is prefilled once, its continuations are decode rows.

`log p(continuation | context)` is the sum of the log-probabilities met when the continuation is generated token by token
after the context. There are two ways to these numbers:

- contexts and continuations are packed into one forward pass without padding (`act_eval.attention.packing`), where a model
  takes the masks and positions that this needs;
- elsewhere contexts are prefilled, padded on the left, so that real tokens are contiguous and any model that supports batched
  generation gives each row what it would give it alone; continuations of more than one token then run on rows of that cache.

Either way a context that several requests share (the choices of one question) runs once.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from act_eval.attention.cache import select_cache_rows
from act_eval.attention.model_structure import pretrained_model
from act_eval.attention.packing import can_be_packed, packed_tokens
from act_eval.attention.spans import span_tokens
from act_eval.harness.packed_contexts import PackedContexts, common_beginning

logger = logging.getLogger(__name__)

_LOGITS_AT_ONCE = 2**24  # on which a softmax is taken
_TOKENS_AFTER_A_CONTEXT = 1024

Tokens = tuple[int, ...]
Answer = tuple[float, bool]


@dataclass
class Context:
    """A context and the requests that share it.

    Attributes:
        tokens: token ids, at least one.
        continuations: (index of the request, token ids of its continuation, at least one).
    """

    tokens: Tokens
    continuations: list[tuple[int, Tokens]] = field(default_factory=list)

    @property
    def all_tokens(self) -> int:
        """How many tokens the context and its continuations have, but for the last of each, which nothing follows."""
        return len(self.tokens) + sum(len(tokens) - 1 for _, tokens in self.continuations)


def group_by_context(requests: Sequence[tuple[Tokens, Tokens]]) -> list[Context]:
    """Group requests (context, continuation) by context, longest first, so that trouble with memory comes at once."""
    groups: dict[Tokens, Context] = {}
    for index, (context, continuation) in enumerate(requests):
        groups.setdefault(context, Context(context)).continuations.append((index, continuation))
    return sorted(groups.values(), key=lambda group: (-group.all_tokens, group.tokens))


def parts_of_continuations(context: Context) -> list[list[Tokens]]:
    """Divide the different continuations of a context among rows that attention can hold, each with the context before it.

    Thousands of requests may have one context, such as a single token where tasks score whole sentences. A row has as many
    tokens after its context as in it, or `_TOKENS_AFTER_A_CONTEXT` if these are more, or a single longer continuation.
    """
    room = max(len(context.tokens), _TOKENS_AFTER_A_CONTEXT)
    parts, taken = list[list[Tokens]](), 0
    for tokens in dict.fromkeys(tokens for _, tokens in context.continuations):
        if not parts or taken + len(tokens) > room:
            parts.append([])
            taken = 0
        parts[-1].append(tokens)
        taken += len(tokens)
    return parts


def tokens_of_requests(contexts: Iterable[Context]) -> list[int]:
    """How many tokens run for each request, by its number; those of a shared context count for the first that has it."""
    tokens: dict[int, int] = {}
    for context in contexts:
        shared = len(context.tokens)
        for index, continuation in context.continuations:
            tokens[index], shared = shared + len(continuation) - 1, 0
    return [tokens[index] for index in range(len(tokens))]


def tokens_of_windows(windows: Iterable[tuple[Tokens, Tokens]]) -> list[int]:
    """How many tokens run for each window of a text that is scored as a whole: the last one is never fed to the model."""
    return [len(context) + len(scored) - 1 for context, scored in windows]


@dataclass(frozen=True)
class Prefill:
    """Contexts that were run in one batch, padded on the left.

    Attributes:
        mask: int64 `[contexts, length]`, 0 for padding.
        log_probs: `[contexts, vocabulary]`, of the token after each context.
        cache: what the model filled, or None.
    """

    mask: Tensor
    log_probs: Tensor
    cache: Any


@dataclass(frozen=True)
class Scorer:
    """Scores batches with one model.

    Args:
        model: a causal language model.
        pad_token_id: any token id; padding is masked.
        device: where the model takes its input.
        softmax_dtype: dtype of the log-softmax, or None for the dtype of the logits.
        packs: whether contexts and continuations are packed into one forward pass, see `packs_well`; else continuations run on
            the cache of their contexts.
        shares_beginnings: whether tokens that all packed contexts begin with run once. Only where nothing that follows changes
            them: where no attention sinks are calibrated, which are found from all queries.
        spans: gives the tokens of the part of contexts that `act_span` names, bool `[contexts, longest]`, as they are padded on
            the left; None where the method is about none.
    """

    model: nn.Module
    pad_token_id: int
    device: torch.device
    softmax_dtype: torch.dtype | None = None
    packs: bool = False
    shares_beginnings: bool = False
    spans: Callable[[Sequence[Tokens]], Tensor] | None = None

    @torch.no_grad()
    def score_contexts(self, contexts: Sequence[Context], batch_size: int) -> dict[int, Answer]:
        """Score all continuations of some contexts, which are prefilled together.

        Args:
            contexts: prefilled in one batch.
            batch_size: how many continuations run in one batch.

        Returns:
            Index of the request -> (sum of log-probabilities, whether greedy decoding gives the continuation).
        """
        if self.packs:
            return self._score_in_rows(contexts, batch_size)
        flat = [(row, index, tokens) for row, context in enumerate(contexts) for index, tokens in context.continuations]
        longer = sorted((item for item in flat if len(item[2]) > 1), key=lambda item: -len(item[2]))
        prefill = self.prefill([context.tokens for context in contexts], use_cache=bool(longer))
        rows = torch.tensor([row for row, _, _ in flat], device=self.device)
        totals, greedy = self.score_first_tokens(prefill, rows, [tokens for _, _, tokens in flat])
        place = {index: place for place, (_, index, _) in enumerate(flat)}
        for start in range(0, len(longer), batch_size):
            chunk = longer[start : start + batch_size]
            places = torch.tensor([place[index] for _, index, _ in chunk], device=self.device)
            more, all_greedy = self.score_remaining_tokens(prefill, rows[places], [tokens for _, _, tokens in chunk])
            totals[places] += more
            greedy[places] &= all_greedy
        answers = zip(totals.tolist(), greedy.tolist(), strict=True)
        return {index: answer for (_, index, _), answer in zip(flat, answers, strict=True)}

    def _score_in_rows(self, contexts: Sequence[Context], batch_size: int) -> dict[int, Answer]:
        """As `score_contexts`, packed; contexts with very many continuations take several rows, and then several passes."""
        rows = [(context.tokens, part) for context in contexts for part in parts_of_continuations(context)]
        pairs = [(context, continuation) for context, continuations in rows for continuation in continuations]
        at_once, answers = max(batch_size, len(contexts)), list[Answer]()
        for start in range(0, len(rows), at_once):
            log_probs, greedy = self.score_packed(rows[start : start + at_once])
            answers += zip(log_probs.tolist(), greedy.tolist(), strict=True)
        of_pair = dict(zip(pairs, answers, strict=True))
        return {index: of_pair[context.tokens, tokens] for context in contexts for index, tokens in context.continuations}

    def score_packed(self, contexts: Sequence[tuple[Tokens, Sequence[Tokens]]]) -> tuple[Tensor, Tensor]:
        """Score continuations in one forward pass without padding; gradients are kept where they are switched on.

        Args:
            contexts: token ids of each context, at least one, and of its continuations, at least one each.

        Returns:
            Of all continuations, context by context: sum of log-probabilities, float64 `[continuations]`, and whether greedy
            decoding gives them, bool `[continuations]`.
        """
        shared = common_beginning([context for context, _ in contexts]) if self.shares_beginnings else 0
        run = PackedContexts.pack(contexts, self.device, shared)
        with self._spans_of([context for context, _ in contexts]):
            return self.run_packed(run)

    def run_packed(self, run: PackedContexts) -> tuple[Tensor, Tensor]:
        """Run packed contexts, and score their continuations as `score_packed` does."""
        with packed_tokens(self.model, run.packing):
            output = self._forward(run.ids, torch.ones_like(run.ids), run.positions, keep=run.kept, use_cache=False)
        logits = output.logits[0]
        log_probs, greedy = [], []
        tokens_at_once = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
        for foreseen_at, targets in zip(run.foreseen_at.split(tokens_at_once), run.targets.split(tokens_at_once), strict=True):
            of_part = self._log_softmax(logits[foreseen_at])
            log_probs.append(of_part.gather(-1, targets[:, None]).squeeze(-1).double())
            greedy.append(of_part.argmax(-1) == targets)
        totals = [of_one.sum() for of_one in torch.cat(log_probs).split(run.lengths)]
        all_greedy = [of_one.all() for of_one in torch.cat(greedy).split(run.lengths)]
        return torch.stack(totals), torch.stack(all_greedy)

    @torch.no_grad()
    def packs_well(self) -> bool:
        """Whether the model can be packed, which is tried: what stands between a context and its continuation must not matter.

        Contexts are each followed by a continuation, another one, and the first one again. It has to get the same
        log-probability at both places, and at the second one whatever stands before it. A model that has its own idea of masks
        or positions is thus found out. The same is what differs by rounding (in float32) and by less than a quarter of what
        wrong positions make (in any dtype: in half precision rounding alone moves log-probabilities by several tenths).

        Raises:
            RuntimeError: there is no memory for it, which says nothing of the model.
        """
        if not can_be_packed(self.model):
            return False
        vocabulary = pretrained_model(self.model).get_input_embeddings().num_embeddings
        random = torch.Generator().manual_seed(0)

        def some_tokens(number: int) -> Tokens:
            return tuple(torch.randint(vocabulary, (number,), generator=random).tolist())

        parts = [tuple(map(some_tokens, (context_length, 4, 24, 24))) for context_length in (5, 9, 12)]
        # The same rows three times: as they are, with others in between, and with wrong positions.
        rows = [(part[0], (part[1], part[between], part[1])) for between in (2, 3, 2) for part in parts]
        run = PackedContexts.pack(rows, self.device)
        positions = run.positions.view(3, -1)
        wrong = torch.cat([positions[:2], positions[2:].flip(-1)]).view_as(run.positions)
        try:
            with span_tokens(self.model, None):
                log_probs, _ = replace(self, spans=None).run_packed(replace(run, positions=wrong))
        except Exception as error:
            if should_reduce_batch_size(error):
                raise
            logger.info("Contexts are padded, not packed, since this model cannot run packed ones: %r", error)
            logger.debug("packed contexts cannot be run", exc_info=True)
            return False
        first, _, later = log_probs.view(3, len(parts), 3).unbind(-1)
        rounding = 64 * torch.finfo(pretrained_model(self.model).dtype).eps * first[0].norm()
        same = torch.minimum(rounding, (later[2] - later[0]).norm() / 4)
        return all(bool((later[0] - other).norm() <= same) for other in (first[0], later[1]))

    def prefill(self, contexts: Sequence[Tokens], use_cache: bool) -> Prefill:
        """Run contexts in one batch, without continuations; gradients are kept where they are switched on.

        Args:
            contexts: token ids, at least one each.
            use_cache: whether continuations will run on the cache.
        """
        ids, mask = self._pad(contexts, side="left")
        with self._spans_of(contexts):
            output = self._forward(ids, mask, mask.cumsum(-1) - 1, keep=1, use_cache=use_cache)
        return Prefill(mask, self._log_softmax(output.logits[:, -1]), output.past_key_values if use_cache else None)

    def score_first_tokens(self, prefill: Prefill, rows: Tensor, continuations: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Score the first token of continuations.

        Args:
            prefill: of the contexts.
            rows: int64 `[continuations]`, the context of each continuation.
            continuations: token ids, at least one each.

        Returns:
            Log-probability, float64 `[continuations]`, and whether the token is greedy, bool `[continuations]`.
        """
        first_tokens = torch.tensor([tokens[0] for tokens in continuations], device=self.device)
        return prefill.log_probs[rows, first_tokens].double(), prefill.log_probs.argmax(-1)[rows] == first_tokens

    def score_remaining_tokens(self, prefill: Prefill, rows: Tensor, continuations: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Score all but the first token of continuations, as decode rows.

        Args:
            prefill: of the contexts, with its cache.
            rows: int64 `[continuations]`, the context of each continuation.
            continuations: token ids, at least two each.

        Returns:
            The sum of log-probabilities, float64 `[continuations]`, and whether all of these tokens are greedy, bool
            `[continuations]`.
        """
        ids, mask = self._pad([tokens[:-1] for tokens in continuations], side="right")
        targets, _ = self._pad([tokens[1:] for tokens in continuations], side="right")
        lengths = prefill.mask.sum(-1)[rows]
        positions = lengths[:, None] + torch.arange(ids.shape[1], device=self.device)
        output = self._forward(
            ids,
            torch.cat([prefill.mask[rows], mask], dim=-1),
            positions,
            keep=ids.shape[1],
            past_key_values=select_cache_rows(prefill.cache, rows),
            use_cache=True,
        )
        return self._sum_targets(output.logits, targets, mask.bool())

    @torch.no_grad()
    def score_blocks(self, blocks: Sequence[tuple[Tokens, Tokens]]) -> list[Answer]:
        """Score contexts with their continuations, each as one block of prefill, in one batch: for perplexity windows.

        Args:
            blocks: token ids of a context and of its continuation.

        Returns:
            For each block the sum of the continuation's log-probabilities, and whether all its tokens are greedy.
        """
        ids, mask = self._pad([(context + continuation)[:-1] for context, continuation in blocks], side="left")
        targets, target_mask = self._pad([continuation for _, continuation in blocks], side="left")
        output = self._forward(ids, mask, mask.cumsum(-1) - 1, keep=targets.shape[1], use_cache=False)
        logits = output.logits[:, -targets.shape[1] :]
        totals, greedy = self._sum_targets(logits, targets, target_mask.bool())
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    def _spans_of(self, contexts: Sequence[Tokens]) -> AbstractContextManager[None]:
        """Say in the block which tokens of contexts, padded on the left, are the part that the method is about."""
        return nullcontext() if self.spans is None else span_tokens(self.model, self.spans(contexts))

    def _sum_targets(self, logits: Tensor, targets: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self._log_softmax(logits)
        chosen = log_probs.gather(-1, targets[..., None]).squeeze(-1).double()
        greedy = (log_probs.argmax(-1) == targets) | ~is_target
        return torch.where(is_target, chosen, 0).sum(-1), greedy.all(-1)

    def _log_softmax(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)

    def _pad(self, sequences: Sequence[Tokens], side: str) -> tuple[Tensor, Tensor]:
        """Pad sequences on a side: token ids and mask, int64 `[sequences, longest]`."""
        rows = [torch.tensor(tokens, dtype=torch.int64) for tokens in sequences]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id, padding_side=side)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
        return ids.to(self.device), mask.to(self.device)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int | Tensor, **kwargs: Any) -> Any:
        return forward(self.model, ids, mask, positions, keep, **kwargs)


def forward(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    keep: int | Tensor,
    **kwargs: Any,
) -> Any:
    """Run a causal language model on padded rows.

    Args:
        model: of transformers.
        ids: int64 `[rows, n]`.
        mask: int64 `[rows, k]`, 0 for padding.
        positions: int64 `[rows, n]`, of real tokens from 0; anything for padding.
        keep: how many logits from the right are needed, or int64 `[kept]`, those of which tokens.
        kwargs: more arguments for the model.
    """
    forward_arguments = inspect.signature(pretrained_model(model).forward).parameters
    if "logits_to_keep" in forward_arguments:
        kwargs["logits_to_keep"] = keep
    if "position_ids" in forward_arguments:
        kwargs["position_ids"] = positions.clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, **kwargs)
