"""One pass over a batch of documents: prefill their contexts, then score the continuations on these.

The work of a pass is counted in *layer passes*: tokens, padding included, times the decoder layers that they run through. A
backward pass counts twice. A *full pass* is a pass over all documents through all layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from act_eval.attention.calibration import Decode
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.scoring import Prefill, Scorer, Tokens
from act_eval.search.batches import DocumentBatch
from act_eval.search.documents import CalibrationDocument
from act_eval.search.probe import ProbeLayer

PASSES_OF_ESTIMATES = 3
"""Of a pass forwards and one backwards, which counts twice."""


class InfiniteMarginError(InputError):
    """A model gives the right choices of a document, or all others, no probability at all.

    Args:
        where: which document that is.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"the model gives the right choices of {where}, or all others, no probability at all, so that its margin is "
            "infinite: choose another dtype, such as dtype=float32, or objective=entropy, which takes no margins."
        )


@dataclass(frozen=True)
class RequestScores:
    """What requests get.

    Attributes:
        log_probs: float64 `[requests]`, log-probability of each continuation, or of its tokens so far.
        greedy: bool `[requests]`, whether greedy decoding gives these tokens.
    """

    log_probs: Tensor
    greedy: Tensor

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Both without gradients, as arrays."""
        return self.log_probs.detach().cpu().numpy(), self.greedy.cpu().numpy()


def score_batch(scorer: Scorer, batch: DocumentBatch) -> RequestScores:
    """Run one pass over a batch, with whatever calibration is active; gradients are kept where they are switched on."""
    if scorer.packs:
        of_contexts: list[list[int]] = [[] for _ in batch.contexts]
        for request, context in enumerate(batch.context_of_request):
            of_contexts[context].append(request)
        parts = [
            (context, [batch.continuations[request] for request in requests])
            for context, requests in zip(batch.contexts, of_contexts, strict=True)
        ]
        order = index_tensor(chain(*of_contexts), scorer.device).argsort()
        log_probs, greedy = scorer.score_packed(parts)
        return RequestScores(log_probs[order], greedy[order])
    prefill = prefill_contexts(scorer, batch)
    return add_remaining_tokens(scorer, batch, prefill, score_first_tokens(scorer, batch, prefill))


def prefill_contexts(scorer: Scorer, batch: DocumentBatch) -> Prefill:
    """Run the contexts of a batch."""
    return scorer.prefill(batch.contexts, use_cache=bool(len(batch.longer_requests)))


def score_first_tokens(scorer: Scorer, batch: DocumentBatch, prefill: Prefill) -> RequestScores:
    """Score the first token of every continuation."""
    return RequestScores(
        *scorer.score_first_tokens(prefill, index_tensor(batch.context_of_request, scorer.device), batch.continuations)
    )


def add_remaining_tokens(scorer: Scorer, batch: DocumentBatch, prefill: Prefill, scores: RequestScores) -> RequestScores:
    """Score whole continuations, given the scores of their first tokens: those that have more run as decode rows."""
    if not len(batch.longer_requests):
        return scores
    longer = index_tensor(batch.longer_requests, scorer.device)
    contexts = index_tensor(batch.context_of_request[batch.longer_requests], scorer.device)
    log_probs, greedy = scorer.score_remaining_tokens(
        prefill, contexts, [batch.continuations[request] for request in batch.longer_requests]
    )
    return RequestScores(
        scores.log_probs.index_add(0, longer, log_probs), scores.greedy.index_put((longer,), scores.greedy[longer] & greedy)
    )


def contexts_of_call(batch: DocumentBatch, call: int) -> np.ndarray:
    """The context of each row of a layer's call, int64 `[rows]`: a pass calls it for the contexts, then for longer requests."""
    return batch.context_of_request[batch.longer_requests] if call else np.arange(len(batch.contexts))


def affected_contexts(layer: ProbeLayer, batch: DocumentBatch, decode: Decode) -> np.ndarray:
    """Find the contexts in which calibrating a head changes anything, from a probed pass: bool `[contexts, heads]`.

    Sinks that a prefill did not find stay unfound with `decode="prefill"`, so that only its own call tells.
    """
    affected = layer.changes_output(0)
    if decode != "prefill":
        for call in range(1, len(layer.changes)):
            np.logical_or.at(affected, contexts_of_call(batch, call), layer.changes_output(call))
    return affected


def refuse_non_finite(lm: ACTLM, batch: DocumentBatch, log_probs: np.ndarray) -> None:
    """Raise NonFiniteLogitsError where log-probabilities cannot be compared.

    That is for the first request whose log-probability, of float64 `[..., requests]`, is no number, or that of a document none
    of whose requests has any probability.
    """
    rows = log_probs.reshape(-1, log_probs.shape[-1])
    bad = np.isnan(rows).any(0)
    for requests in batch.requests_of_document:
        bad[requests] |= np.isneginf(rows[:, requests]).all(-1).any()
    if bad.any():
        request = int(bad.argmax())
        number = batch.context_of_request[request]
        context, task = batch.contexts[number], batch.documents[batch.document_of_context[number]].task
        raise lm.non_finite(context + batch.continuations[request], _named(lm, task, context))


def refuse_infinite_margins(lm: ACTLM, documents: Sequence[CalibrationDocument], margin: np.ndarray) -> None:
    """Raise InfiniteMarginError for the first document with a margin, of float64 `[..., documents]`, that is not finite.

    Means over documents, the order of heads and p values would be those of this document alone, or of nothing.
    """
    infinite = ~np.isfinite(margin).reshape(-1, len(documents)).all(0)
    if infinite.any():
        document = documents[int(infinite.argmax())]
        raise InfiniteMarginError(_named(lm, document.task, document.requests[0][0]))


def _named(lm: ACTLM, task: str, context: Tokens) -> str:
    return f"a document of {task} that begins with {lm.tokenizer.decode(context)[:60]!r}"


def index_tensor(values: Iterable[int], device: torch.device) -> Tensor:
    """Indices as a tensor, int64."""
    return torch.tensor(list(values), dtype=torch.long, device=device)
