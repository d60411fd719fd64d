"""First-order estimates of what calibrating each head does, for all heads at once.

The estimate of a head is the gradient of a document's margin with respect to the head's output, times the change that
calibration makes to that output: the slope of the margin on the way from the baseline to calibration. One forward and one
backward pass give the changes and gradients of all heads. Some heads may be calibrated meanwhile; the estimate of each head is
then what it adds to these, and of each of these, what it adds to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from act_eval.attention.act import ACT
from act_eval.attention.model_structure import model_shape, pretrained_model
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.harness.lm import ACTLM
from act_eval.harness.scoring import Scorer
from act_eval.profiles import HeadProfile
from act_eval.search.batches import DocumentBatch
from act_eval.search.documents import CalibrationDocument
from act_eval.search.objective import margin_slopes
from act_eval.search.passes import PASSES_OF_ESTIMATES, affected_contexts, contexts_of_call, refuse_non_finite, score_batch
from act_eval.search.probe import Probe, probed_layers
from act_eval.search.scores import Scores


@dataclass(frozen=True)
class Estimates:
    """First-order estimates for a batch of documents.

    Attributes:
        scores: exact scores of the pass, `[documents]`: without calibration, but for the heads that are calibrated.
        margin_change: float64 `[probed layers, heads, documents]`, nats.
        affected: bool of the same shape: whether calibrating the head changes anything in the document.
        cost: layer passes.
        full_pass: layer passes of one pass over the batch.
    """

    scores: Scores
    margin_change: np.ndarray
    affected: np.ndarray
    cost: int
    full_pass: int


def estimate_heads(
    lm: ACTLM,
    scorer: Scorer,
    act: ACT,
    layers: Sequence[int],
    documents: Sequence[CalibrationDocument],
    calibrated: HeadProfile | None = None,
    slopes: Sequence[np.ndarray] | None = None,
) -> Estimates:
    """Estimate the change of each document's margin by each head of some layers.

    Args:
        lm: the model, without calibration.
        scorer: of the model.
        act: the ACT settings; its profile is not used.
        layers: the layers whose heads are looked at.
        documents: that run in one batch.
        calibrated: heads of the layers that are calibrated meanwhile; none by default.
        slopes: for each document, float64 `[choices]`, the derivative of what is estimated by the log-probability of each of
            its choices; by default that of its margin.

    Raises:
        NonFiniteLogitsError: see `refuse_non_finite`.
    """
    batch = DocumentBatch.from_documents(documents)
    num_layers, num_heads = model_shape(lm.config)
    probe = Probe.from_act(act, HeadProfile.from_layers(layers, num_layers, num_heads), calibrated)
    with _frozen(lm.model), lm.autocast(), torch.enable_grad(), probe(lm.model):
        scores = score_batch(scorer, batch)
        probed = probed_layers(lm.model)
        outputs = [output for layer in probed for output in layer.outputs]
        estimated = _total(batch, scores.log_probs, slopes)
        gradients = iter(torch.autograd.grad(estimated, outputs, allow_unused=True))
    refuse_non_finite(lm, batch, scores.arrays[0])
    change = np.zeros((len(probed), num_heads, len(documents)))
    affected = np.zeros(change.shape, dtype=bool)
    for number, layer in enumerate(probed):
        np.logical_or.at(affected[number].T, batch.document_of_context, affected_contexts(layer, batch, act.decode))
        for call, output_change in enumerate(layer.changes):
            gradient = next(gradients)
            if gradient is not None:
                first_order = (gradient.float() * output_change.float()).sum((1, 3)).double().cpu().numpy()
                documents_of_rows = batch.document_of_context[contexts_of_call(batch, call)]
                np.add.at(change[number].T, documents_of_rows, layer.among_all_heads(first_order))
    division = HeadDivision.of_model(pretrained_model(lm.model))
    change, affected = division.sum(change), division.sum(affected)
    full_pass = batch.padded_tokens * num_layers
    return Estimates(batch.scores(*scores.arrays), change, affected, PASSES_OF_ESTIMATES * full_pass, full_pass)


def _total(batch: DocumentBatch, log_probs: Tensor, slopes: Sequence[np.ndarray] | None) -> Tensor:
    """What is estimated, up to a constant: the sum of all documents' log-probabilities, each times its slope.

    Args:
        batch: the documents.
        log_probs: float64 `[requests]`, with gradients.
        slopes: as in `estimate_heads`.
    """
    if slopes is None:
        values = log_probs.detach().cpu().numpy()
        of_documents = zip(batch.documents, batch.requests_of_document, strict=True)
        slopes = [margin_slopes(document, values[requests]) for document, requests in of_documents]
    return (log_probs * torch.from_numpy(np.concatenate(slopes)).to(log_probs)).sum()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside the context, the weights get no gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
