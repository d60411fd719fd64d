"""Exact scores of documents with single heads calibrated, without running what calibration cannot change.

A batch of documents runs once without calibration, and the input of every decoder layer is recorded. Then each context runs
again for each head that has something to calibrate in it, as a row of its own: a *variation*. Rows that run together may differ
in their heads, and start at the layer of these, since nothing changes below it. Where a head has nothing to calibrate, the
document's score is the baseline's, and nothing runs.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from act_eval.attention.act import ACT
from act_eval.attention.model_structure import model_shape, pretrained_model
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import run_in_parts
from act_eval.harness.scoring import Prefill, Scorer
from act_eval.profiles import HeadProfile
from act_eval.search.batches import DocumentBatch
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import Head
from act_eval.search.passes import (
    add_remaining_tokens,
    affected_contexts,
    index_tensor,
    prefill_contexts,
    refuse_non_finite,
    score_first_tokens,
)
from act_eval.search.piece_file import Arrays
from act_eval.search.pieces import Pieces
from act_eval.search.probe import Probe, probed_layers
from act_eval.search.resume_at_layer import DecoderLayers, Recording, fill_skipped_layers
from act_eval.search.scores import Scores
from act_eval.search.variations import Variation, VariedBatch, single_head_variations

logger = logging.getLogger(__name__)

_RESUMED_TOLERANCE = 1e-3
_RESUMED_TOLERANCE_HALF = 1e-2


@dataclass(frozen=True)
class HeadScores:
    """What documents get without calibration, and with single heads calibrated.

    Attributes:
        baseline: `[documents]`.
        calibrated: `[heads, documents]`.
        cost: layer passes.
        baseline_cost: those of the pass without calibration, which is part of it.
    """

    baseline: Scores
    calibrated: Scores
    cost: float
    baseline_cost: float


@dataclass(frozen=True)
class BaselineScores:
    """What a pass over a batch without calibration gives.

    Attributes:
        log_probs, greedy: float64 and bool `[requests]`.
        affected: bool `[layers with heads to score, contexts, heads]`, the contexts that each head changes.
        cost: layer passes.
    """

    log_probs: np.ndarray
    greedy: np.ndarray
    affected: np.ndarray
    cost: int

    @property
    def arrays(self) -> Arrays:
        """All of it by name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> BaselineScores:
        """Read what `arrays` gave."""
        return cls(arrays["log_probs"], arrays["greedy"], arrays["affected"], int(arrays["cost"]))


@dataclass(frozen=True)
class BaselinePass:
    """A pass over a batch without calibration, with all that variations reuse.

    Attributes:
        prefill: of the contexts.
        contexts: what the contexts went through, layer by layer.
        remaining_tokens: what the requests with more than one token went through after that.
        scores: what the batch got.
    """

    prefill: Prefill
    contexts: Recording
    remaining_tokens: Recording
    scores: BaselineScores


@dataclass(frozen=True)
class VariationScores:
    """What the requests of some variations get, and where that belongs.

    Attributes:
        scored_heads: int64 `[requests of the variations]`, see `Variation.scored_head`.
        requests: int64 of the same shape, the number of the request in the batch.
        log_probs, greedy: float64 and bool, of the same shape.
        cost: layer passes.
    """

    scored_heads: np.ndarray
    requests: np.ndarray
    log_probs: np.ndarray
    greedy: np.ndarray
    cost: int

    @classmethod
    def of(cls, varied: VariedBatch, log_probs: np.ndarray, greedy: np.ndarray, cost: int) -> VariationScores:
        """Find where the scores of variations belong."""
        scored_heads = [varied.variations[request.row].scored_head for request in varied.requests]
        return cls(np.array(scored_heads), np.array([request.number for request in varied.requests]), log_probs, greedy, cost)


def layers_to_run(num_layers: int, heads: Sequence[Head]) -> list[int]:
    """How many layers each token of a batch runs through: without calibration, and for each layer all of its heads, at most.

    Args:
        num_layers: decoder layers of the model.
        heads: that are scored; only their layers count, in ascending order.
    """
    of_layers = Counter(layer for layer, _ in heads)
    return [num_layers, *(of_layers[layer] * (num_layers - layer) for layer in sorted(of_layers))]


class SingleHeadScorer:
    """Scores documents with single heads calibrated.

    Args:
        lm: the model, without calibration.
        scorer: of the model.
        act: the ACT settings; its profile is not used.
        batch_size: variations that run at once.

    Attributes:
        resuming_is_checked: whether it is known if passes of this model can be resumed at a layer.
    """

    def __init__(self, lm: ACTLM, scorer: Scorer, act: ACT, batch_size: int) -> None:
        self._lm, self._scorer, self._act, self._batch_size = lm, scorer, act, batch_size
        self._num_layers, self._num_heads = model_shape(lm.config)
        self._decoder = DecoderLayers.from_model(lm.model)
        self._division = HeadDivision.of_model(pretrained_model(lm.model))
        self.resuming_is_checked = False
        if not self._decoder.layers:
            logger.warning("The decoder layers of this model could not be told apart: every head costs whole forward passes.")

    @torch.no_grad()
    def score(
        self, documents: Sequence[CalibrationDocument], heads: Sequence[Head], pieces: Pieces | None = None
    ) -> HeadScores:
        """Score a batch of documents without calibration, and with each of some heads calibrated alone.

        The pass without calibration is a piece, and then every list of variations that runs at once. Where it is done but
        variations are left, it runs again, since these go on from what it went through.

        Args:
            documents: that run in one batch.
            heads: at least one.
            pieces: of these documents; nothing is done and nothing is kept without.

        Raises:
            NonFiniteLogitsError: see `refuse_non_finite`.
        """
        pieces = Pieces() if pieces is None else pieces
        if not self.resuming_is_checked:
            self.rely_on_resuming(self.resuming_error(documents))
        batch = DocumentBatch.from_documents(documents)
        layers = sorted({layer for layer, _ in heads})
        run_baseline = functools.cache(lambda: self._run_baseline(batch, layers))
        shares = np.cumsum(layers_to_run(self._num_layers, heads)) / sum(layers_to_run(self._num_layers, heads))
        found: list[VariationScores] = []
        with self._lm.autocast():
            baseline = BaselineScores.from_arrays(
                pieces.run("baseline", lambda: run_baseline().scores.arrays, reaches=shares[0])
            )
            for number, layer in enumerate(layers):
                variations = single_head_variations(batch, heads, layer, baseline.affected[number])
                reaches = np.linspace(shares[number], shares[number + 1], len(variations) + 1)
                found += self._score_variations(batch, run_baseline, variations, layer, pieces, reaches)
        log_probs, greedy = (np.tile(values, (len(heads), 1)) for values in (baseline.log_probs, baseline.greedy))
        for scores in found:
            log_probs[scores.scored_heads, scores.requests] = scores.log_probs
            greedy[scores.scored_heads, scores.requests] = scores.greedy
        refuse_non_finite(self._lm, batch, log_probs)
        return HeadScores(
            baseline=batch.scores(baseline.log_probs, baseline.greedy),
            calibrated=batch.scores(log_probs, greedy),
            cost=baseline.cost + sum(scores.cost for scores in found),
            baseline_cost=baseline.cost,
        )

    @torch.no_grad()
    def resuming_error(self, documents: Sequence[CalibrationDocument]) -> float:
        """Resume a context of the first document in the middle; returns by how much its scores differ then, in nats."""
        if not self._decoder.layers:
            return 0.0
        batch = DocumentBatch.from_documents(documents[:1])
        with self._lm.autocast():
            baseline = self._run_baseline(batch, [0])
            varied = VariedBatch(batch, [Variation(0, HeadProfile({}), 0)], self._num_layers // 2)
            log_probs, _ = self._score(varied, baseline)
        requests = [request.number for request in varied.requests]
        expected = baseline.scores.log_probs[requests]
        differ = log_probs != expected  # which equal infinities do not
        return float(np.abs(log_probs[differ] - expected[differ]).max(initial=0.0))

    def rely_on_resuming(self, error: float) -> None:
        """Resume passes from now on, or run whole ones where resuming changes scores; see `resuming_error`."""
        self.resuming_is_checked = True
        is_half = self._lm.model.dtype in (torch.float16, torch.bfloat16)
        if not error < _RESUMED_TOLERANCE + (_RESUMED_TOLERANCE_HALF if is_half else 0):
            logger.warning(
                "Forward passes of this model cannot be resumed at a layer (scores differ by %.2g): every head costs whole "
                "forward passes.",
                error,
            )
            self._decoder = DecoderLayers(())

    def _run_baseline(self, batch: DocumentBatch, layers: Sequence[int]) -> BaselinePass:
        """Run a batch without calibration, recorded, with a probe in all heads of some layers."""
        probe = Probe.from_act(self._act, HeadProfile.from_layers(layers, self._num_layers, self._num_heads))
        with probe(self._lm.model):
            with self._decoder.record() as contexts:
                prefill = prefill_contexts(self._scorer, batch)
            scores = score_first_tokens(self._scorer, batch, prefill)
            with self._decoder.record() as remaining_tokens:
                scores = add_remaining_tokens(self._scorer, batch, prefill, scores)
            affected = [affected_contexts(layer, batch, self._act.decode) for layer in probed_layers(self._lm.model)]
        of_all_heads = self._division.sum(np.stack(affected))
        cost = batch.padded_tokens * self._num_layers
        return BaselinePass(prefill, contexts, remaining_tokens, BaselineScores(*scores.arrays, of_all_heads, cost))

    def _score_variations(
        self,
        batch: DocumentBatch,
        run_baseline: Callable[[], BaselinePass],
        variations: Sequence[Variation],
        layer: int,
        pieces: Pieces,
        reaches: np.ndarray,
    ) -> list[VariationScores]:
        """Score variations whose profiles name no layer below `layer`, as many at a time as fit into memory.

        Args:
            batch: the documents.
            run_baseline: gives the pass that variations go on from; called only where some are left to run.
            variations: in an order in which those of similar length run together.
            layer: where they start.
            pieces: of the batch.
            reaches: float64 `[variations + 1]`, the share of the batch's work that is done before each variation, and at last.
        """
        start_layer = layer if self._decoder.layers else 0

        def run(part: Sequence[int]) -> tuple[int, VariationScores]:
            varied = VariedBatch(batch, variations[part[0] : part[-1] + 1], start_layer)
            name = f"layer {layer}, variations {part[0]}-{part[-1] + 1}"
            kept = pieces.load(name)
            if kept is None:
                log_probs, greedy = self._score(varied, run_baseline())
                cost = varied.padded_tokens * (self._num_layers - start_layer)
                pieces.save(name, {"log_probs": log_probs, "greedy": greedy, "cost": np.array(cost)})
            else:
                log_probs, greedy, cost = kept["log_probs"], kept["greedy"], int(kept["cost"])
            pieces.reach(float(reaches[part[-1] + 1]), computed=kept is None)
            return len(part), VariationScores.of(varied, log_probs, greedy, cost)

        found: list[VariationScores] = []
        start, at_once = 0, self._batch_size
        while start < len(variations):
            together = range(start, min(start + at_once, len(variations)))
            parts = run_in_parts(run, together, pieces.halved(f"layer {layer}, variations"))
            at_once = max(rows for rows, _ in parts)  # what fitted into memory
            found += [scores for _, scores in parts]
            start = together.stop
        return found

    def _score(self, varied: VariedBatch, baseline: BaselinePass) -> tuple[np.ndarray, np.ndarray]:
        """Score variations side by side: the first tokens of continuations by a prefill, the remaining ones on its cache.

        Returns:
            Log-probabilities, float64 `[requests of the variations]`, and whether the continuations are greedy, bool.
        """
        prefill = self._prefill(varied, baseline)
        rows = index_tensor((request.row for request in varied.requests), self._scorer.device)
        continuations = [request.continuation for request in varied.requests]
        first_tokens = self._scorer.score_first_tokens(prefill, rows, continuations)
        log_probs, greedy = (values.cpu().numpy() for values in first_tokens)
        if varied.longer:
            remaining_log_probs, remaining_greedy = self._continue(varied, baseline, prefill)
            log_probs[varied.longer] += remaining_log_probs
            greedy[varied.longer] &= remaining_greedy
        return log_probs, greedy

    def _prefill(self, varied: VariedBatch, baseline: BaselinePass) -> Prefill:
        """Run the contexts of variations, each with its own profile."""
        contexts = [variation.context for variation in varied.variations]
        tokens = slice(-varied.context_width, None)
        with self._resumed(varied.start_layer, varied.profiles, baseline.contexts, contexts, tokens):
            return self._scorer.prefill(varied.contexts, use_cache=bool(varied.longer))

    def _continue(self, varied: VariedBatch, baseline: BaselinePass, prefill: Prefill) -> tuple[np.ndarray, np.ndarray]:
        """Score all but the first token of the longer continuations on the cache of a prefill.

        Returns:
            Sums of log-probabilities, float64 `[longer]`, and whether the tokens are greedy, bool `[longer]`.
        """
        fill_skipped_layers(
            prefill.cache, baseline.prefill.cache, varied.start_layer, len(varied.variations), varied.context_width
        )
        longer = varied.longer_requests
        # A prefill's sinks go with the profiles that they were found with; where there are none, each request needs its own.
        profiles = (
            varied.profiles if self._act.decode == "prefill" else [varied.variations[request.row].profile for request in longer]
        )
        recorded = np.searchsorted(varied.batch.longer_requests, [request.number for request in longer]).tolist()
        tokens = slice(0, varied.continuation_width)
        rows = index_tensor((request.row for request in longer), self._scorer.device)
        with self._resumed(varied.start_layer, profiles, baseline.remaining_tokens, recorded, tokens):
            remaining = self._scorer.score_remaining_tokens(prefill, rows, [request.continuation for request in longer])
        log_probs, greedy = (values.cpu().numpy() for values in remaining)
        return log_probs, greedy

    @contextmanager
    def _resumed(
        self, start_layer: int, profiles: list[HeadProfile], recording: Recording, rows: list[int], tokens: slice
    ) -> Iterator[None]:
        """Inside the context, a forward pass starts at a layer, and each of its rows is calibrated by its own profile.

        Args:
            start_layer: the first decoder layer that runs.
            profiles: one for each row, or for each row of the prefill that filled the cache.
            recording: of a pass over all layers.
            rows, tokens: which part of the recording the pass goes on from.
        """
        hidden = recording.hidden[start_layer][rows, tokens] if start_layer else torch.empty(0)
        with replace(self._act, profile=profiles)(self._lm.model), self._decoder.resume_at(start_layer, hidden, recording):
            yield
