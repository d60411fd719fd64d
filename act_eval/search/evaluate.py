"""Scores of calibration documents with single heads calibrated: exactly, or estimated to first order.

Exactly: a batch of documents runs once as it is, and the input of every layer is recorded. Each pair of a document and a head
that has something to calibrate in it is then a row of its own in batches that start at the head's layer; different rows
calibrate different heads. Where a head has no sink in a document, the score is the plain one, and nothing runs.

To first order: the gradient of the documents' margins with respect to the output of each head, times the change that
calibration makes to it, from one forward and one backward pass.

Costs are in *layer passes*: rows times tokens times decoder layers, padding included; a backward pass counts twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from act_eval.attention.act import ACT
from act_eval.attention.layer import MODULE_ATTRIBUTE, LayerCalibration
from act_eval.attention.model_structure import model_shape
from act_eval.attention.pairs import ChosenHeads
from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import halved
from act_eval.harness.scoring import Prefill, Scorer, Tokens
from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.resume_at_layer import DecoderLayers, Recording, fill_skipped_layers

logger = logging.getLogger(__name__)

Head = tuple[int, int]
_RESUMED_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scores:
    """What documents get.

    Attributes:
        correct: bool `[..., documents]`, whether the model chooses a right answer, as lm-eval's `acc`; for `loglikelihood`
            tasks, whether greedy decoding gives the continuation.
        margin: float64 `[..., documents]`, log-probability of the best right choice minus that of the best other, in nats;
            for `loglikelihood` tasks, the log-probability of the continuation.
    """

    correct: np.ndarray
    margin: np.ndarray


@dataclass
class ProbeLayer(LayerCalibration):
    """Lets the base backend's output through, and notes what calibration would change of it.

    Attributes:
        outputs: of the base backend, one for each call, `[batch, n, heads, head_dim]`.
        changes: what calibration adds to them, of the same shapes; zero in heads that are not calibrated.
    """

    outputs: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def calibrate(self, chosen: ChosenHeads, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """See `LayerCalibration.calibrate`."""
        output, weights = self.base(module, *args, **kwargs)
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        with torch.no_grad():
            calibrated = output.detach().clone()
            if chosen.any:
                self.replace_calibrated(chosen, calibrated, *args[:4], **kwargs)
            self.outputs.append(output)
            self.changes.append(calibrated - output)
        return output, weights


class Probe(ACT):
    """ACT that changes nothing and notes what it would change."""

    layer_class: ClassVar[type[LayerCalibration]] = ProbeLayer

    @classmethod
    def of(cls, act: ACT, profile: HeadProfile) -> Probe:
        """A probe of what some ACT would change in the heads of a profile."""
        arguments = {argument.name: getattr(act, argument.name) for argument in fields(act) if argument.init}
        return cls(**{**arguments, "profile": profile})

    @staticmethod
    def layers(model: nn.Module) -> list[ProbeLayer]:
        """The layers with probed heads, in order, of a model inside the context."""
        found = (getattr(module, MODULE_ATTRIBUTE, None) for module in model.modules())
        return [layer for layer in found if isinstance(layer, ProbeLayer) and layer.calibrates]


@dataclass(frozen=True)
class _Batch:
    """Documents side by side: their contexts are rows, and requests point to them.

    Attributes:
        contexts: token ids of each context row.
        document_of_context: int64 `[contexts]`.
        rows: int64 `[requests]`, the context of each request.
        continuations: token ids of each request.
        requests_of_document: indices of the requests of each document.
    """

    documents: Sequence[CalibrationDocument]
    contexts: list[Tokens]
    document_of_context: np.ndarray
    rows: np.ndarray
    continuations: list[Tokens]
    requests_of_document: list[np.ndarray]

    @classmethod
    def of(cls, documents: Sequence[CalibrationDocument]) -> _Batch:
        places: dict[tuple[int, Tokens], int] = {}
        rows, continuations, requests_of_document = [], [], []
        for number, document in enumerate(documents):
            for context, continuation in document.requests:
                rows.append(places.setdefault((number, context), len(places)))
                continuations.append(continuation)
            requests_of_document.append(np.arange(len(rows) - len(document.requests), len(rows)))
        document_of_context = np.array([number for number, _ in places])
        contexts = [context for _, context in places]
        return cls(documents, contexts, document_of_context, np.array(rows), continuations, requests_of_document)

    @property
    def longer(self) -> np.ndarray:
        """Requests with more than one token."""
        return np.array([index for index, tokens in enumerate(self.continuations) if len(tokens) > 1], dtype=int)

    def scores(self, totals: np.ndarray, greedy: np.ndarray) -> Scores:
        """From log-probabilities, float64 `[..., requests]`, and whether continuations are greedy, of the same shape."""
        correct = np.empty((*totals.shape[:-1], len(self.documents)), dtype=bool)
        margin = np.empty(correct.shape)
        for number, (document, requests) in enumerate(zip(self.documents, self.requests_of_document, strict=True)):
            values = totals[..., requests]
            if not document.gold:
                correct[..., number], margin[..., number] = greedy[..., requests[0]], values[..., 0]
                continue
            gold = np.isin(np.arange(len(requests)), document.gold)
            correct[..., number] = gold[values.argmax(-1)]
            margin[..., number] = values[..., gold].max(-1) - values[..., ~gold].max(-1) if not gold.all() else 0.0
        return Scores(correct, margin)


@dataclass(frozen=True)
class HeadScores:
    """A batch of documents, plain and with single heads calibrated.

    Attributes:
        plain: `[documents]`.
        calibrated: `[heads, documents]`.
        cost: layer passes.
        plain_cost: those of the plain pass, which is part of it.
    """

    plain: Scores
    calibrated: Scores
    cost: int
    plain_cost: int


@dataclass(frozen=True)
class Estimates:
    """First-order estimates for a batch of documents.

    Attributes:
        plain: `[documents]`.
        margin_change: float64 `[probed layers, heads, documents]`.
        affected: bool of the same shape: whether the head has a sink in the document.
        cost: layer passes.
        full_pass: layer passes of one plain pass.
    """

    plain: Scores
    margin_change: np.ndarray
    affected: np.ndarray
    cost: int
    full_pass: int


@dataclass
class _PlainPass:
    """A batch run as it is, with all that later passes reuse."""

    prefill: Prefill
    contexts: Recording
    rest: Recording | None
    longer: np.ndarray
    totals: np.ndarray
    greedy: np.ndarray
    affected: dict[int, np.ndarray]
    cost: int


class HeadEvaluator:
    """Scores documents with single heads calibrated.

    Args:
        lm: the model, without calibration.
        act: the ACT settings; its profile is not used.
        layers: the layers whose heads are looked at.
        batch_size: rows that run at once.
    """

    def __init__(self, lm: ACTLM, act: ACT, layers: Sequence[int], batch_size: int) -> None:
        self._lm, self._act, self._layers, self._batch_size = lm, act, tuple(layers), batch_size
        self.num_layers, self.num_heads = model_shape(lm.config)
        self._decoder = DecoderLayers.of(lm.model)
        self._scorer: Scorer = lm.scorer()
        self._checked = False
        if not self._decoder.layers:
            logger.warning("The decoder layers of this model could not be told apart: every head costs whole forward passes.")

    # --- exact

    @torch.no_grad()
    def score_heads(self, documents: Sequence[CalibrationDocument], heads: Sequence[Head]) -> HeadScores:
        """Score a batch of documents plain and with each of some heads calibrated alone."""
        batch = _Batch.of(documents)
        with self._lm.autocast():
            plain = self._run_plain(batch, sorted({layer for layer, _ in heads}))
            if not self._checked:
                self._check_resuming(batch, plain)
            totals, greedy = np.tile(plain.totals, (len(heads), 1)), np.tile(plain.greedy, (len(heads), 1))
            cost = plain.cost
            for layer in plain.affected:
                of_layer = [index for index, head in enumerate(heads) if head[0] == layer]
                variations = [
                    (row, index)
                    for row in np.argsort([len(context) for context in batch.contexts], kind="stable").tolist()
                    for index in of_layer
                    if plain.affected[layer][row, heads[index][1]]
                ]
                start, most = 0, self._batch_size
                while start < len(variations):
                    chunk = variations[start : start + most]
                    rows, places = [row for row, _ in chunk], [index for _, index in chunk]
                    profiles = [HeadProfile({layer: (heads[index][1],)}) for index in places]
                    try:
                        cost += self._run_from(layer, batch, plain, rows, profiles, places, totals, greedy)
                    except RuntimeError as error:
                        most = halved(error, len(chunk))
                        continue
                    start += len(chunk)
        self._refuse_non_finite(batch, totals)
        return HeadScores(batch.scores(plain.totals, plain.greedy), batch.scores(totals, greedy), cost, plain.cost)

    def _run_from(
        self,
        layer: int,
        batch: _Batch,
        plain: _PlainPass,
        rows: Sequence[int],
        profiles: Sequence[HeadProfile],
        places: Sequence[int],
        totals: np.ndarray,
        greedy: np.ndarray,
    ) -> int:
        """Run contexts, each with its own profile, from a layer on.

        Args:
            layer: the lowest one that a profile names.
            batch, plain: the batch, and its plain pass.
            rows: the contexts.
            profiles: one for each of them.
            places: where each one's scores go: rows of `totals` and `greedy`, `[heads, requests]`.
            totals, greedy: written to.

        Returns:
            The cost in layer passes.
        """
        first = layer if self._decoder.layers else 0
        contexts = [batch.contexts[row] for row in rows]
        width = max(map(len, contexts))
        at = [(variation, request) for variation, row in enumerate(rows) for request in np.flatnonzero(batch.rows == row)]
        rest = [(variation, request) for variation, request in at if len(batch.continuations[request]) > 1]
        cost = len(rows) * width
        with self._act_with(profiles)(self._lm.model):
            hidden = plain.contexts.hidden[first][list(rows), -width:] if first else torch.empty(0)
            with self._decoder.resume_at(first, hidden, plain.contexts):
                prefill = self._scorer.prefill(contexts, use_cache=bool(rest))
        first_totals, first_greedy = self._scorer.score_first_tokens(
            prefill, self._index(variation for variation, _ in at), [batch.continuations[request] for _, request in at]
        )
        heads_at, requests_at = [places[variation] for variation, _ in at], [request for _, request in at]
        totals[heads_at, requests_at] = first_totals.cpu().numpy()
        greedy[heads_at, requests_at] = first_greedy.cpu().numpy()
        if rest:
            assert plain.rest is not None
            fill_skipped_layers(prefill.cache, plain.prefill.cache, first, len(rows), width)
            continuations = [batch.continuations[request] for _, request in rest]
            longest = max(map(len, continuations)) - 1
            recorded = np.searchsorted(plain.longer, [request for _, request in rest])
            hidden = plain.rest.hidden[first][recorded, :longest] if first else torch.empty(0)
            # The sinks of a prefill remember the profiles that they were found with; without them, each row needs its own.
            of_rows = profiles if self._act.decode == "prefill" else [profiles[variation] for variation, _ in rest]
            with self._act_with(of_rows)(self._lm.model), self._decoder.resume_at(first, hidden, plain.rest):
                rest_totals, rest_greedy = self._scorer.score_remaining_tokens(
                    prefill, self._index(variation for variation, _ in rest), continuations
                )
            heads_at, requests_at = [places[variation] for variation, _ in rest], [request for _, request in rest]
            totals[heads_at, requests_at] += rest_totals.cpu().numpy()
            greedy[heads_at, requests_at] &= rest_greedy.cpu().numpy()
            cost += len(rest) * longest
        return cost * (self.num_layers - first)

    def _check_resuming(self, batch: _Batch, plain: _PlainPass) -> None:
        """Resume one plain context in the middle; a model where that changes its scores runs whole passes instead."""
        self._checked = True
        if not self._decoder.layers:
            return
        totals, greedy = plain.totals[None].copy(), plain.greedy[None].copy()
        self._run_from(self.num_layers // 2, batch, plain, [0], [HeadProfile({})], [0], totals, greedy)
        error = np.abs(totals[0] - plain.totals).max()
        if not error < _RESUMED_TOLERANCE + 1e-2 * float(self._lm.model.dtype in (torch.float16, torch.bfloat16)):
            logger.warning(
                "Forward passes of this model cannot be resumed at a layer (scores differ by %.2g): every head costs whole "
                "forward passes.",
                error,
            )
            self._decoder = DecoderLayers(())

    @torch.no_grad()
    def score_profile(self, documents: Sequence[CalibrationDocument], profile: HeadProfile) -> tuple[Scores, int]:
        """Score a batch of documents with a whole profile; also returns the cost."""
        batch = _Batch.of(documents)
        with self._lm.autocast(), self._act_with([profile])(self._lm.model):
            totals, greedy, _ = self._score(batch)
        self._refuse_non_finite(batch, totals.cpu().numpy())
        return batch.scores(totals.cpu().numpy(), greedy.cpu().numpy()), self._cost(batch) * self.num_layers

    # --- first order

    def estimate(self, documents: Sequence[CalibrationDocument]) -> Estimates:
        """Estimate the change of each document's margin by each head of the layers."""
        batch = _Batch.of(documents)
        with _frozen(self._lm.model), self._lm.autocast(), torch.enable_grad(), self._probe(self._layers):
            totals, greedy, rows_of_rest = self._score(batch)
            layers = Probe.layers(self._lm.model)
            plain = batch.scores(totals.detach().cpu().numpy(), greedy.cpu().numpy())
            outputs = [output for layer in layers for output in layer.outputs]
            gradients = torch.autograd.grad(self._margin(batch, totals), outputs, allow_unused=True)
        self._refuse_non_finite(batch, totals.detach().cpu().numpy())
        change = np.zeros((len(layers), self.num_heads, len(documents)))
        affected = np.zeros(change.shape, dtype=bool)
        of_context = batch.document_of_context
        remaining = iter(gradients)
        for number, layer in enumerate(layers):
            for call, moved in enumerate(layer.changes):
                gradient = next(remaining)
                documents_of_rows = of_context if call == 0 else of_context[rows_of_rest]
                is_affected = (moved != 0).any(-1).any(1).cpu().numpy()
                if call == 0 or self._act.decode != "prefill":
                    np.logical_or.at(affected[number].T, documents_of_rows, is_affected)
                if gradient is not None:
                    first_order = (gradient.float() * moved.float()).sum((1, 3)).double().cpu().numpy()
                    np.add.at(change[number].T, documents_of_rows, first_order)
        full_pass = self._cost(batch) * self.num_layers
        return Estimates(plain, change, affected, 3 * full_pass, full_pass)

    def _margin(self, batch: _Batch, totals: Tensor) -> Tensor:
        """The sum of all margins, with the best other choice as it is now."""
        terms = []
        for document, requests in zip(batch.documents, batch.requests_of_document, strict=True):
            values = totals[requests[0] : requests[-1] + 1]
            if not document.gold:
                terms.append(values[0])
                continue
            gold = torch.zeros_like(values, dtype=torch.bool)
            gold[list(document.gold)] = True
            if not bool(gold.all()):
                terms.append(values[gold].max() - values[~gold].max())
        return torch.stack(terms).sum() if terms else totals.sum() * 0

    # --- both

    def _run_plain(self, batch: _Batch, layers: Sequence[int]) -> _PlainPass:
        with self._probe(layers):
            with self._decoder.record() as contexts:
                prefill = self._scorer.prefill(batch.contexts, use_cache=bool(len(batch.longer)))
            totals, greedy = self._first_tokens(batch, prefill)
            rest = None
            if len(batch.longer):
                with self._decoder.record() as rest:
                    totals, greedy = self._add_rest(batch, prefill, totals, greedy)
            affected = {}
            for layer in Probe.layers(self._lm.model):
                affected[layer.layer] = (layer.changes[0] != 0).any(-1).any(1).cpu().numpy()
                if self._act.decode != "prefill":
                    for moved in layer.changes[1:]:
                        rows = batch.rows[batch.longer]
                        np.logical_or.at(affected[layer.layer], rows, (moved != 0).any(-1).any(1).cpu().numpy())
        cost = self._cost(batch) * self.num_layers
        return _PlainPass(prefill, contexts, rest, batch.longer, totals.cpu().numpy(), greedy.cpu().numpy(), affected, cost)

    def _score(self, batch: _Batch) -> tuple[Tensor, Tensor, np.ndarray]:
        """Log-probabilities and greediness of all requests, and the contexts of those with more than one token."""
        prefill = self._scorer.prefill(batch.contexts, use_cache=bool(len(batch.longer)))
        totals, greedy = self._first_tokens(batch, prefill)
        if len(batch.longer):
            totals, greedy = self._add_rest(batch, prefill, totals, greedy)
        return totals, greedy, batch.rows[batch.longer]

    def _first_tokens(self, batch: _Batch, prefill: Prefill) -> tuple[Tensor, Tensor]:
        return self._scorer.score_first_tokens(prefill, self._index(batch.rows), batch.continuations)

    def _add_rest(self, batch: _Batch, prefill: Prefill, totals: Tensor, greedy: Tensor) -> tuple[Tensor, Tensor]:
        longer = self._index(batch.longer)
        continuations = [batch.continuations[request] for request in batch.longer]
        rest_totals, rest_greedy = self._scorer.score_remaining_tokens(
            prefill, self._index(batch.rows[batch.longer]), continuations
        )
        return totals.index_add(0, longer, rest_totals), greedy.index_put((longer,), greedy[longer] & rest_greedy)

    def _refuse_non_finite(self, batch: _Batch, totals: np.ndarray) -> None:
        """Raise NonFiniteLogitsError for the first request whose log-probability, float64 `[..., requests]`, is no number."""
        bad = np.isnan(totals.reshape(-1, totals.shape[-1])).any(0)
        if bad.any():
            request = int(bad.argmax())
            row = batch.rows[request]
            task, text = batch.documents[batch.document_of_context[row]].task, self._lm.tokenizer.decode(batch.contexts[row])
            where = f"a document of {task} that begins with {text[:60]!r}"
            raise self._lm.non_finite(batch.contexts[row] + batch.continuations[request], where)

    def _cost(self, batch: _Batch) -> int:
        """Rows times tokens of one pass."""
        rest = [len(batch.continuations[request]) - 1 for request in batch.longer]
        return len(batch.contexts) * max(map(len, batch.contexts)) + len(rest) * max(rest, default=0)

    def _probe(self, layers: Sequence[int]) -> Any:
        profile = HeadProfile.from_layers(layers, self.num_layers, self.num_heads)
        return Probe.of(self._act, profile)(self._lm.model)

    def _act_with(self, profiles: Sequence[HeadProfile]) -> ACT:
        return replace(self._act, profile=list(profiles))

    def _index(self, values: Any) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self._lm.device)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the weights."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
