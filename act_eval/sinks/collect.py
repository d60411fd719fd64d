"""Collect sink statistics in one pass over documents: the model runs as it is, and each layer's sinks are counted beside it.

A layer's scores are walked in blocks of rows, as ACT walks them to find its sinks, and once more where averaged maps are asked
for. Only sums are kept (`SinkStatistics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from act_eval.attention.act import ACT
from act_eval.attention.blockwise import attention_statistics, find_prefill_sinks
from act_eval.attention.calibration import find_sinks
from act_eval.attention.call import AttentionCall
from act_eval.attention.layer import MODULE_ATTRIBUTE, LayerCalibration
from act_eval.attention.model_structure import attention_layers, model_shape, pretrained_model, resolve_for_model
from act_eval.attention.pairs import ChosenHeads, RowHeadPairs
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.errors import InputError
from act_eval.harness.scoring import forward
from act_eval.profiles import HeadProfile
from act_eval.sinks.statistics import FIRST_TOKEN, KINDS, MEAN_EDGES, OTHER, SINK, SinkStatistics

BINS = 64

_COPIES = 4  # of a block of weights, which are needed at once


@torch.no_grad()
def collect(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    act: ACT | None = None,
    *,
    layers: Sequence[int] | None = None,
    bins: int = BINS,
    maps: bool = True,
) -> SinkStatistics:
    """Run documents through a model and gather statistics of its attention sinks.

    The model runs as it is, without calibration. Nothing depends on how the documents are batched or padded.

    Args:
        model: a causal language model of transformers.
        batches: what a tokenizer returns: `input_ids` and `attention_mask`, int64 `[documents, longest]`, padded on either
            side; without a mask nothing is padding.
        act: says when a key is a sink, and what calibration does to the averaged maps: its profile's heads are calibrated.
            `ACT("all")` by default.
        layers: indices of the layers to look at, all by default.
        bins: of relative position (`act_eval.sinks.statistics` explains them). For a single document of `n` tokens, `bins=n`
            gives its exact map.
        maps: whether to average attention maps; costs another pass over the scores.

    Raises:
        InputError: there are no documents or no layers, there is a head profile for each row, or the method uses no sinks.
        UnsupportedModelError: the model's attention cannot be looked at.
        ProfileError: the profile or the layers do not fit the model.
    """
    act = ACT("all") if act is None else act
    if len(act.calibration.of_groups) > 1:
        raise InputError(f"{act.calibration.method.name} has a method for each group of heads, and sinks are shown of one.")
    if not act.calibration.method.uses_sinks:
        raise InputError(f"the method {act.calibration.method.name} looks for no sinks, so there are none to show.")
    pretrained = pretrained_model(model)
    num_layers, num_heads = model_shape(pretrained.config)
    layers = attention_layers(pretrained.config) if layers is None else sorted(layers)
    observed = HeadProfile.from_layers(layers, num_layers, num_heads)
    if not observed.size:
        raise InputError("there are no layers to look at.")
    vocabulary = pretrained.get_input_embeddings().num_embeddings
    division = HeadDivision.of_model(pretrained)
    documents, tokens = 0, 0
    token_sinks, token_occurrences = (np.zeros(vocabulary, np.int64) for _ in range(2))
    with _Observer(observed, base=act.base, limits=act.limits)(model):
        counters = _start_counting(pretrained, act, bins, maps)
        for inputs in batches:
            batch = _Batch.from_tokenizer_output(inputs, pretrained.device, bins)
            for counter in counters:
                counter.batch = batch
            positions = batch.real.cumsum(-1) - 1
            forward(model, batch.ids, batch.real.long(), positions, keep=1, use_cache=False)
            documents += len(batch.ids)
            tokens += int(batch.real.sum())
            later_tokens = (batch.real & ~batch.first_token_mask).cpu().numpy()
            ids = batch.ids.cpu().numpy()[later_tokens]
            np.add.at(token_occurrences, ids, 1)
            sinks_of_keys = division.sum(np.sum([counter.sinks_of_keys for counter in counters], axis=0))
            np.add.at(token_sinks, ids, sinks_of_keys[later_tokens])
    if not documents:
        raise InputError("there are no documents to look at.")
    return SinkStatistics(
        layers=tuple(observed.heads),
        documents=documents,
        tokens=tokens,
        token_sinks=token_sinks,
        token_occurrences=token_occurrences,
        **{name: division.sum(np.stack([counter.sums[name] for counter in counters])) for name in counters[0].sums},
    )


@dataclass(frozen=True)
class _Batch:
    """Documents that run at once.

    Attributes:
        ids: int64 `[documents, k]`.
        real: bool `[documents, k]`, False for padding.
        first_token_mask: bool `[documents, k]`, True for the first token.
        bin_shares: float32 `[documents, k, bins]`, the share of each token that lies in each bin of relative position.
    """

    ids: Tensor
    real: Tensor
    first_token_mask: Tensor
    bin_shares: Tensor

    @classmethod
    def from_tokenizer_output(cls, inputs: Mapping[str, Tensor], device: torch.device, bins: int) -> _Batch:
        """Read what a tokenizer returns; without an attention mask nothing is padding."""
        ids = inputs["input_ids"].to(device)
        real = inputs["attention_mask"].to(device).bool() if "attention_mask" in inputs else torch.ones_like(ids).bool()
        position, length = real.cumsum(-1) - 1, real.sum(-1, keepdim=True)
        # In units of 1 / (length * bins), which make all borders whole numbers: exact where there are as many bins as tokens.
        bin_start = torch.arange(bins, device=device) * length[..., None]
        token_start = position[..., None] * bins
        overlap = torch.minimum(bin_start + length[..., None], token_start + bins) - torch.maximum(bin_start, token_start)
        shares = overlap.clamp(min=0) * real[..., None] / bins
        return cls(ids, real, real & (position == 0), shares)


class _Counter:
    """The counts of one layer.

    Args:
        act: says when a key is a sink, and how sinks are calibrated.
        heads: how many the layer has, in all processes together; each counts those that it reports of.
        calibrated: heads that are calibrated in the maps after ACT.
        bins: of relative position.
        maps: whether to average attention maps.

    Attributes:
        batch: the documents that are running.
        sinks_of_keys: int64 `[documents, k]`, in how many heads each key of the batch was a sink.
        sums: the layer's entries of `SinkStatistics`, by name.
    """

    _own_heads: range

    batch: _Batch
    sinks_of_keys: np.ndarray

    def __init__(self, act: ACT, heads: int, calibrated: Sequence[int], bins: int, maps: bool) -> None:
        self._settings = act.calibration
        self._is_calibrated = torch.zeros(heads, dtype=torch.bool)
        self._is_calibrated[list(calibrated)] = True
        self.sums: dict[str, np.ndarray] = {
            "sinks": np.zeros(heads, np.int64),
            "documents_with_sinks": np.zeros(heads, np.int64),
            "received": np.zeros((heads, len(KINDS))),
            "mean_histogram": np.zeros((heads, len(KINDS), len(MEAN_EDGES) - 1), np.int64),
            "positions": np.zeros((heads, bins)),
        }
        if maps:
            self.sums |= {"before": np.zeros((bins, bins)), "after": np.zeros((bins, bins))}

    def count(self, call: AttentionCall, rows: Tensor, heads: Tensor, layer: LayerCalibration) -> None:
        """Add the sinks of one call of the attention function.

        Args:
            call: a prefill.
            rows, heads: every (row, head) of the batch.
            layer: that the call is of.
        """
        if not layer.reports:
            self.sinks_of_keys = np.zeros(self.batch.ids.shape, np.int64)
            return
        self._own_heads = layer.own_heads
        means, log_normalizer = attention_statistics(call, rows, heads)
        if "before" in self.sums:
            for chunk, row_heads in call.chunks(rows, heads):
                self._add_maps(row_heads, means[chunk], log_normalizer[chunk])
        self._add_means(means.view(*call.query.shape[:2], -1), call.visibility.seen_by)

    def _add_means(self, means: Tensor, seen_by: Tensor) -> None:
        """Count sinks, positions and means.

        Args:
            means: `[documents, heads, k]`, each key's mean attention.
            seen_by: `[documents or 1, 1 or heads, k]`, how many queries that is the mean of.
        """
        masks = (self.batch.real, self.batch.first_token_mask)
        real, first_token_mask = (mask[:, None].to(means.device) for mask in masks)
        length = real.sum(-1)
        sinks = find_sinks(means, length, replace(self._settings, keep="first-token", sink_share=1), real, seen_by)
        kinds = torch.where(first_token_mask, FIRST_TOKEN, torch.where(sinks, SINK, OTHER))
        shares = means * seen_by / length[..., None]
        received = torch.stack([torch.where(kinds == kind, shares, 0).sum((0, 2)) for kind in range(len(KINDS))], dim=-1)
        sinks_in_bins = sinks.to(means.dtype) @ self.batch.bin_shares.to(means)
        self._add_to_heads("sinks", sinks.sum((0, 2)))
        self._add_to_heads("documents_with_sinks", sinks.any(-1).sum(0))
        self._add_to_heads("received", received)
        self._add_to_heads("mean_histogram", _histogram(means, kinds, real))
        self._add_to_heads("positions", sinks_in_bins.sum(0))
        self.sinks_of_keys = sinks.sum(1).cpu().numpy()

    def _add_maps(self, row_heads: RowHeadPairs, means: Tensor, log_normalizer: Tensor) -> None:
        """Add the maps of some heads of some documents, averaged over the layer's heads, as they are and calibrated."""
        sinks = find_prefill_sinks(means, row_heads.visibility, row_heads.rows, row_heads.heads, self._settings)
        sinks &= self._is_calibrated[self._own_heads].to(sinks.device)[row_heads.heads, None]
        has_sinks = bool(sinks.any())
        # Matrices that sum over a document's heads, average its queries and distribute its keys over bins.
        documents = range(int(row_heads.rows[0]), int(row_heads.rows[-1]) + 1)
        of_document = row_heads.rows == torch.tensor(documents, device=sinks.device)[:, None]
        heads = of_document.to(means) / len(self._is_calibrated)
        keys = self.batch.bin_shares[documents.start : documents.stop].to(means)
        queries = keys.mT * (keys.shape[-1] / keys.sum((1, 2)))[:, None, None]
        for block in row_heads.blocks(_COPIES * row_heads.key.shape[1]):
            weights = row_heads.scores(block).sub_(log_normalizer[:, block, None]).exp_()
            masks = (mask[:, None, : weights.shape[-1]] for mask in (sinks, row_heads.first_token))
            after = self._settings.method.rewrite(weights, *masks) if has_sinks else weights
            for name, maps in (("before", weights), ("after", after)):
                of_documents = (heads @ maps.flatten(1)).view(-1, *maps.shape[1:])
                self.sums[name] += (queries[..., block] @ of_documents @ keys[:, : maps.shape[-1]]).sum(0).cpu().numpy()

    def _add_to_heads(self, name: str, values: Tensor) -> None:
        self.sums[name][self._own_heads] += values.cpu().numpy()


@dataclass
class _ObservedLayer(LayerCalibration):
    """Leaves the base backend's output as it is, and shows each call to a counter."""

    always_runs_base: ClassVar[bool] = True
    counter: _Counter | None = None

    def calibrate_prefill(self, call: AttentionCall, chosen: ChosenHeads) -> Tensor:
        assert self.counter is not None
        rows, heads = chosen.indices
        self.counter.count(call, rows, heads, self)
        return chosen.mask.new_zeros(len(rows), call.key.shape[-2])


class _Observer(ACT):
    """ACT that changes nothing and counts sinks instead."""

    layer_class: ClassVar[type[LayerCalibration]] = _ObservedLayer


def _start_counting(pretrained: PreTrainedModel, act: ACT, bins: int, maps: bool) -> list[_Counter]:
    """Give a counter to each layer that the active `_Observer` looks at. Returns them in the order of the layers."""
    _, num_heads = model_shape(pretrained.config)
    if not isinstance(act.profile, (str, HeadProfile)):
        raise InputError("sinks are counted with one head profile for all documents, not with one for each row.")
    profile = resolve_for_model(act.profile, pretrained.config, pretrained.name_or_path)
    counters = []
    for module in pretrained.modules():
        layer = getattr(module, MODULE_ATTRIBUTE, None)
        if isinstance(layer, _ObservedLayer) and layer.calibrates:
            layer.counter = _Counter(act, num_heads, profile.heads.get(layer.layer, ()), bins, maps)
            counters.append(layer.counter)
    return counters


def _histogram(means: Tensor, kinds: Tensor, real: Tensor) -> Tensor:
    """Count keys by head, kind and mean attention: int64 `[heads, kinds, len(MEAN_EDGES) - 1]`.

    Args:
        means: `[documents, heads, k]`.
        kinds: int64, of the same shape.
        real: bool `[documents, 1, k]`, False for padding.
    """
    shape = means.shape[1], len(KINDS), len(MEAN_EDGES) - 1
    edges = torch.as_tensor(MEAN_EDGES).to(means)
    intervals = (torch.bucketize(means, edges, right=True) - 1).clamp(0, shape[-1] - 1)
    heads = torch.arange(shape[0], device=means.device)[:, None]
    place = (heads * shape[1] + kinds) * shape[2] + intervals
    return torch.bincount(place[real.expand_as(place)], minlength=shape[0] * shape[1] * shape[2]).view(shape)
