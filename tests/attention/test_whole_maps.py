"""Prefills from whole maps against prefills in blocks of queries, and against the base backend where it need not run."""

from dataclasses import replace

import pytest
import torch

from act_eval.attention import blockwise, layer, whole_maps
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import ChosenHeads
from act_eval.attention.shared_heads import rewrite_rows
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.registry import built_in_methods, make_method

pytestmark = pytest.mark.tier("unit")

BATCH, HEADS, N, DIM = 3, 6, 37, 8
SOME = torch.tensor([1, 2, 5])
SETTINGS = CalibrationSettings(method=ToOtherTokens(0.2), alpha=1.5)
PARAMETERS = {"scale-first-token": {"gamma": 1.5}, "bias-span": {"bias": 2.0}, "target-span": {"psi": 0.3}}
GROUPS = {"zerotuning"}  # methods of heads of several groups, each of which has one of the others
METHODS = sorted({*built_in_methods()} - GROUPS)


def make_call(key_heads=2, keys=N, padding=0, window=None, slope=0.0, heads_of_mask=1, **others):
    """A prefill with a few attractive keys; row 1 is padded on the left, and keys beyond the queries are an empty cache's."""
    generator = torch.Generator().manual_seed(0)

    def states(heads, n):  # as models make them: not contiguous
        return torch.randn(BATCH, n, heads, DIM, generator=generator, dtype=torch.float64).transpose(1, 2)

    query, key, value = states(HEADS, N) + 0.7, states(key_heads, keys), states(key_heads, keys)
    key[:, :, 3::11] += 0.7
    distance = torch.arange(N)[:, None] - torch.arange(keys)
    visible = ((distance >= 0) & (distance < (window or N))).expand(BATCH, heads_of_mask, N, keys).clone()
    visible[1, :, :, :padding] = False
    bias = (-slope * distance.double()).expand_as(visible).masked_fill(~visible, torch.finfo(torch.float64).min)
    plain = not padding and window is None and keys == N and not slope
    visibility = Visibility.from_mask(None if plain else bias if slope else visible, query, key)
    call = AttentionCall(query, key, value, torch.empty(BATCH, N, HEADS, DIM).double(), visibility, DIM**-0.5, None)
    call = replace(call, **others)
    scores = query @ key.repeat_interleave(HEADS // key_heads, 1).mT * call.scaling
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    scores = scores + bias
    if call.learned_sinks is not None:
        scores = torch.cat([scores, call.learned_sinks[:, None, None].expand(BATCH, -1, N, 1)], -1)
    weights = scores.softmax(-1)[..., :keys]
    call.output.copy_((weights @ value.repeat_interleave(HEADS // key_heads, 1)).transpose(1, 2))
    return call


CALLS = {
    "plain": {},
    "each head has its keys": {"key_heads": 6},
    "padding": {"padding": 9},
    "window": {"window": 7},
    "padding and window": {"padding": 5, "window": 9},
    "empty cache": {"keys": N + 5},
    "mask that adds": {"slope": 0.1, "padding": 4},
    "mask of each head": {"slope": 0.1, "heads_of_mask": 6},
    "soft cap": {"softcap": 2.0},
    "learned sinks": {"learned_sinks": torch.linspace(-2, 2, HEADS).double(), "padding": 3},
    "several parts": {"limits": ComputeLimits(block_elements_on_cpu=2 * 3 * N * N)},
    "a part for each row and key/value head": {"limits": ComputeLimits(block_elements_on_cpu=1)},
}


def pairs(heads):
    return ChosenHeads(torch.zeros(BATCH, HEADS, dtype=torch.bool).index_fill_(1, heads, True)).indices


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("heads", [SOME, torch.arange(HEADS)], ids=["some", "all"])
def test_equal_to_blocks(name, heads):
    call, expected = make_call(**CALLS[name]), make_call(**CALLS[name])
    before, real = call.output.clone(), call.visibility.real.expand(BATCH, -1)
    sinks = whole_maps.calibrate_prefill(call, *pairs(heads), SETTINGS)
    assert torch.equal(sinks, blockwise.calibrate_prefill(expected, *pairs(heads), SETTINGS))
    torch.testing.assert_close(call.output[real], expected.output[real], rtol=0, atol=1e-11)
    changed = (call.output != before).transpose(1, 2).flatten(2).any(-1)
    assert changed.any()
    without_sinks = ~torch.zeros(BATCH, HEADS, dtype=torch.bool).index_put_(pairs(heads), sinks.any(-1))
    assert not (changed & without_sinks).any(), "a head that has no sinks is left as it is, bit for bit"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("heads", [SOME, torch.arange(HEADS)], ids=["some", "all"])
def test_without_a_base_backend(name, heads):
    """All heads are computed, and those that were not chosen get what the base backend gives."""
    expected = make_call(**CALLS[name])
    call = replace(expected, output=torch.full_like(expected.output, torch.nan), has_base_output=False)
    sinks = whole_maps.calibrate_prefill(call, *pairs(heads), SETTINGS)
    assert torch.equal(sinks, blockwise.calibrate_prefill(expected, *pairs(heads), SETTINGS))
    real = call.visibility.real.expand(BATCH, -1)
    torch.testing.assert_close(call.output[real], expected.output[real], rtol=0, atol=1e-11)
    assert not call.output.isnan().any()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("has_base_output", [True, False])
def test_every_method(name, has_base_output):
    method = make_method(name, PARAMETERS.get(name, {}))
    settings = CalibrationSettings(method=method, **({"alpha": 1.5} if method.uses_sinks else {}))
    expected = make_call(padding=9, span=(torch.arange(N) % 5 == 2).expand(BATCH, -1))
    call = replace(expected, output=expected.output.clone(), has_base_output=has_base_output)
    everything = pairs(torch.arange(HEADS))
    whole_maps.calibrate_prefill(call, *everything, settings)
    blockwise.calibrate_prefill(expected, *everything, settings)
    real = call.visibility.real.expand(BATCH, -1)
    torch.testing.assert_close(call.output[real], expected.output[real], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_rewrite_rows_is_the_rewriting_of_the_method(name, share):
    method = make_method(name, PARAMETERS.get(name, {}))
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 3, 5, 11, generator=generator).double().softmax(-1)
    sinks = torch.rand(2, 3, 11, generator=generator) < share
    first = (torch.arange(11) == 0).expand_as(sinks)
    sinks = sinks & ~first
    weights[0, 0, 0] = sinks[0, 0] / sinks[0, 0].sum().clamp(min=1)  # a row with nothing outside its sinks
    expected = method.rewrite(weights, sinks[:, :, None], first[:, :, None])
    torch.testing.assert_close(rewrite_rows(method, weights.clone(), sinks, first), expected, rtol=0, atol=1e-14)


def test_gradients_pass():
    weights = torch.rand(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    sinks = torch.tensor([False, True, True, False]).expand(1, 2, -1)
    torch.autograd.gradcheck(lambda w: rewrite_rows(ToOtherTokens(), w.softmax(-1), sinks, torch.zeros_like(sinks)), weights)


class TestWhenTheyAreUsed:
    """What is chosen follows from sizes and from who calibrates what."""

    def choose(self, mask, **limits):
        call = replace(make_call(), limits=ComputeLimits(**limits))
        return layer.choose_kernels(call, ToOtherTokens(), ChosenHeads(mask))

    def test_small_maps_of_the_same_heads(self):
        mask = torch.zeros(BATCH, HEADS, dtype=torch.bool).index_fill_(1, SOME, True)
        assert self.choose(mask) is whole_maps
        assert self.choose(mask, map_elements=3 * N * N - 1) is blockwise
        assert self.choose(mask, block_elements_on_cpu=3 * N * N - 1) is blockwise

    def test_rows_with_heads_of_their_own(self):
        mask = torch.zeros(BATCH, HEADS, dtype=torch.bool)
        mask[0, 1] = True
        assert self.choose(mask) is blockwise
