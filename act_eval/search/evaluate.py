"""What a search asks of a model: scores of calibration documents with heads calibrated, exactly or estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from act_eval.attention.act import ACT
from act_eval.attention.model_structure import decoder_layers, model_shape, pretrained_model
from act_eval.harness.lm import ACTLM
from act_eval.profiles import HeadProfile
from act_eval.search.batches import DocumentBatch
from act_eval.search.documents import CalibrationDocument
from act_eval.search.estimate import Estimates, estimate_heads
from act_eval.search.exact import HeadScores, SingleHeadScorer
from act_eval.search.heads import Head
from act_eval.search.passes import refuse_infinite_margins, refuse_non_finite, score_batch
from act_eval.search.pieces import Pieces
from act_eval.search.scores import Scores


class HeadEvaluator:
    """Scores batches of calibration documents with heads of a model calibrated.

    All methods raise NonFiniteLogitsError where log-probabilities cannot be compared, see `refuse_non_finite`.

    Args:
        lm: the model, without calibration.
        act: the ACT settings; its profile is not used.
        layers: the layers whose heads are estimated.
        batch_size: rows that run at once.
    """

    def __init__(self, lm: ACTLM, act: ACT, layers: Sequence[int], batch_size: int) -> None:
        self._lm, self._act, self._layers = lm, act, tuple(layers)
        self._scorer = lm.scorer()
        self._single_heads = SingleHeadScorer(lm, self._scorer, act, batch_size)

    @property
    def num_layers(self) -> int:
        """How many decoder layers the model has."""
        return model_shape(self._lm.config)[0]

    @property
    def single_heads(self) -> SingleHeadScorer:
        """What scores documents with single heads calibrated."""
        return self._single_heads

    @contextmanager
    def telling_of_layers(self, tell: Callable[[float], None]) -> Iterator[None]:
        """Tell after each decoder layer that runs in the block which share of a pass has run, 1 at most."""
        ran = 0

        def after_layer(*_: object) -> None:
            nonlocal ran
            ran += 1
            tell(min(ran / self.num_layers, 1.0))

        hooks = [layer.register_forward_hook(after_layer) for layer in decoder_layers(pretrained_model(self._lm.model))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def score_heads(
        self, documents: Sequence[CalibrationDocument], heads: Sequence[Head], pieces: Pieces | None = None
    ) -> HeadScores:
        """Score a batch of documents without calibration, and with each of some heads calibrated alone.

        Args:
            documents: that run in one batch.
            heads: at least one.
            pieces: of this work that an earlier run has done, and where more are kept.
        """
        return self._single_heads.score(documents, heads, pieces)

    @torch.no_grad()
    def score_profile(self, documents: Sequence[CalibrationDocument], profile: HeadProfile) -> tuple[Scores, int]:
        """Score a batch of documents with all heads of a profile calibrated; also returns the cost in layer passes."""
        batch = DocumentBatch.from_documents(documents)
        with self._lm.autocast(), replace(self._act, profile=[profile])(self._lm.model):
            log_probs, greedy = score_batch(self._scorer, batch).arrays
        refuse_non_finite(self._lm, batch, log_probs)
        return batch.scores(log_probs, greedy), batch.padded_tokens * self.num_layers

    def refuse_infinite_margins(self, documents: Sequence[CalibrationDocument], scores: Scores) -> None:
        """Raise InfiniteMarginError where the margin of a document is not finite in scores, `[..., documents]`."""
        refuse_infinite_margins(self._lm, documents, scores.margin)

    def estimate(
        self,
        documents: Sequence[CalibrationDocument],
        calibrated: HeadProfile | None = None,
        slopes: Sequence[np.ndarray] | None = None,
    ) -> Estimates:
        """Estimate to first order what each head of the layers changes in a batch of documents; see `estimate_heads`."""
        return estimate_heads(self._lm, self._scorer, self._act, self._layers, documents, calibrated, slopes)
