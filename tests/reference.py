"""A naive ACT for whole models: eager attention with full maps, each rewritten by `calibrate` before the value product."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from act_eval.calibration import CalibrationSettings, calibrate, column_means, find_sinks


@contextmanager
def naive_act(model: PreTrainedModel, heads: Mapping[int, tuple[int, ...]], settings: CalibrationSettings) -> Iterator[None]:
    """Replace the model's attention by the naive one. For a prefill, padded on either side, and rows on its cache, unpadded."""
    sinks_of_prefill: dict[int, torch.Tensor] = {}

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float, **_: Any
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        weights = (query @ key.mT * scaling + mask).softmax(-1)
        chosen = list(heads.get(module.layer_idx, ()))
        if weights.shape[-2] < weights.shape[-1]:
            sinks = sinks_of_prefill[module.layer_idx]
            weights[:, chosen] = calibrate(weights[:, chosen], beta=settings.beta, threshold=settings.threshold, sinks=sinks)
            return (weights @ value).transpose(1, 2), None
        sinks_of_prefill[module.layer_idx] = find_sinks(column_means(weights[:, chosen]), weights.shape[-1], settings)
        valid = (mask == 0).diagonal(dim1=-2, dim2=-1)[:, 0]
        for row in range(len(weights)):
            real = valid[row]
            maps = weights[row, chosen][:, real][:, :, real]
            calibrated = calibrate(
                maps,
                beta=settings.beta,
                threshold=settings.threshold,
                alpha=settings.alpha,
                keep=settings.keep,
                decode=settings.decode,
            )
            for index, head in enumerate(chosen):
                block = weights[row, head]
                block[real.nonzero(), real.nonzero()[:, 0]] = calibrated[index]
        return (weights @ value).transpose(1, 2), None

    AttentionInterface.register("naive_act", attention)
    AttentionMaskInterface.register("naive_act", eager_mask)
    before = model.config._attn_implementation
    model.config._attn_implementation = "naive_act"
    try:
        yield
    finally:
        model.config._attn_implementation = before
