"""The log-sum-exp of the base backend's kernel: noted, and used in place of the first pass over the scores."""

from dataclasses import replace

import pytest
import torch
from helpers.models import SOME, act_of, logits_of, random_ids
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from act_eval.attention import blockwise, log_sum_exp
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.log_sum_exp import LogSumExp
from act_eval.attention.masks import Visibility
from act_eval.methods.act import ToOtherTokens

pytestmark = pytest.mark.tier("model")

BATCH, HEADS, KEY_HEADS, N, DIM = 2, 4, 2, 70, 24
# In half precision, the kernel for CPUs has an exponential function of its own.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-4, torch.float16: 1e-4}


@pytest.fixture(autouse=True)
def kernel_of_cpus(monkeypatch):
    """Notes of the kernel that runs here what is noted of those of devices."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    monkeypatch.setattr(log_sum_exp, "_KERNELS", {*log_sum_exp._KERNELS, kernel})


def make_states(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (HEADS, KEY_HEADS, KEY_HEADS)
    query, key, value = (torch.randn(BATCH, heads, N, DIM, generator=generator).to(dtype) for heads in shapes)
    key[:, :, 3::11] += 0.7
    return query + 0.7, key, value


def causal_mask(padding):
    mask = torch.ones(N, N, dtype=torch.bool).tril().expand(BATCH, 1, N, N).clone()
    mask[1, :, :, :padding] = False
    return mask


def attend(query, key, value, mask):
    return scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padding", [None, 0, 9])
def test_it_is_that_of_the_scores(dtype, padding):
    states, mask = make_states(dtype), None if padding is None else causal_mask(padding)
    with LogSumExp() as noted:
        output = attend(*states, mask)
    assert torch.equal(output, attend(*states, mask)), "noting changes nothing"
    result = noted.of_queries(states[0])
    query, key, _ = (tensor.double() for tensor in states)
    scores = query @ key.repeat_interleave(HEADS // KEY_HEADS, 1).mT * DIM**-0.5
    visible = causal_mask(padding or 0)
    expected = scores.masked_fill(~visible, -torch.inf).logsumexp(-1)
    real = visible.any(-1).expand_as(expected)
    assert result.shape == (BATCH, HEADS, N)
    torch.testing.assert_close(result[real].double(), expected[real], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_nothing_is_noted_of_other_kernels_and_of_several():
    states = make_states(torch.float32)
    with LogSumExp() as noted, sdpa_kernel(SDPBackend.MATH):
        attend(*states, None)
    assert noted.of_queries(states[0]) is None
    with LogSumExp() as noted:
        attend(*states, None)
        attend(*states, None)
    assert noted.of_queries(states[0]) is None
    with LogSumExp() as noted:
        attend(*(tensor[:1] for tensor in states), None)
    assert noted.of_queries(states[0]) is None


@pytest.mark.parametrize("shape", [(N,), (96,), (N, 1)], ids=["flash attention", "efficient attention", "cuDNN"])
def test_what_kernels_of_devices_give(shape, monkeypatch):
    """They are asked for it, and their results have other shapes."""
    asked, given = [], torch.randn(BATCH, HEADS, *shape)

    def kernel(*args):
        asked.append(args)
        return None, given

    monkeypatch.setattr(log_sum_exp, "_KERNELS", {kernel})
    monkeypatch.setattr(log_sum_exp, "_GIVE_IT_WHERE_ASKED", {kernel})
    noted = LogSumExp()
    noted.__torch_dispatch__(kernel, (), ("query", "key", "value", None, False, 0.0))
    assert asked == [("query", "key", "value", None, True, 0.0)]
    assert torch.equal(noted.of_queries(make_states(torch.float32)[0]), given.reshape(BATCH, HEADS, -1)[..., :N])


def test_gradients_pass():
    states = [tensor.requires_grad_() for tensor in make_states(torch.float64)]
    with LogSumExp():
        output = attend(*states, None)
    expected = torch.autograd.grad(attend(*states, None).sum(), states)
    for gradient, wanted in zip(torch.autograd.grad(output.sum(), states), expected, strict=True):
        assert torch.equal(gradient, wanted)


class TestTriton:
    @pytest.fixture
    def triton_kernels(self, monkeypatch):
        """The kernels without the one that computes log-sum-exps."""
        pytest.importorskip("triton", reason="Triton is not installed: it comes with torch's CUDA builds")
        from act_eval.attention import triton_kernels

        monkeypatch.setattr(triton_kernels, "_log_normalizer_kernel", None)
        return triton_kernels

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    @pytest.mark.parametrize("padding", [None, 9])
    def test_the_same_statistics_and_outputs_in_one_pass(self, triton_kernels, dtype, padding):
        states, mask = make_states(dtype), None if padding is None else causal_mask(padding)
        with LogSumExp() as noted:
            output = attend(*states, mask).transpose(1, 2).contiguous()
        visibility = Visibility.from_mask(mask, *states[:2])
        two_passes = AttentionCall(*states, output.clone(), visibility, DIM**-0.5, None)
        call = replace(two_passes, output=output, log_sum_exp=noted.of_queries(states[0]))
        pairs = torch.tensor([[0, 0], [0, 2], [0, 3], [1, 1], [1, 3]]).unbind(-1)
        means, _ = triton_kernels.attention_statistics(call, *pairs)
        expected, _ = blockwise.attention_statistics(two_passes, *pairs)
        torch.testing.assert_close(means, expected, rtol=0, atol=TOLERANCE[dtype])
        settings = CalibrationSettings(alpha=1.5)
        sinks = triton_kernels.calibrate_prefill(call, *pairs, settings)
        assert torch.equal(sinks, blockwise.calibrate_prefill(two_passes, *pairs, settings))
        tolerance = 2e-5 if dtype == torch.float32 else 2e-3
        torch.testing.assert_close(call.output, two_passes.output, rtol=0, atol=tolerance)
        assert sinks.any()

    @pytest.mark.parametrize("padded", [False, True])
    def test_a_whole_model(self, triton_kernels, gqa_model, monkeypatch, padded):
        """Layers give what their base backend's kernel says of all heads to the kernels that calibrate some."""
        ids, act = random_ids(20, seed=3, rows=2), act_of(CalibrationSettings(method=ToOtherTokens(0.2), alpha=2), SOME)
        mask = torch.ones_like(ids)
        mask[1, : 6 if padded else 0] = 0
        expected = logits_of(gqa_model, ids, act, attention_mask=mask)
        monkeypatch.setattr("act_eval.attention.layer.can_be_noted", lambda *_: True)
        monkeypatch.setattr("act_eval.attention.layer.choose_kernels", lambda *_: triton_kernels)
        monkeypatch.setattr("act_eval.attention.layer.LayerCalibration.always_runs_base", True)
        result = logits_of(gqa_model, ids, act, attention_mask=mask)
        torch.testing.assert_close(result[mask.bool()], expected[mask.bool()], rtol=0, atol=5e-5)
        assert (logits_of(gqa_model, ids, attention_mask=mask) - expected).abs().max() > 0.01


def test_where_it_is_worth_while(monkeypatch):
    query = torch.empty(1, 32, 2048, 64, device="meta", dtype=torch.bfloat16)
    assert not log_sum_exp.can_be_noted(query, "sdpa")
    monkeypatch.setattr(log_sum_exp, "_DEVICES", {"meta"})
    assert log_sum_exp.can_be_noted(query, "sdpa")
    assert not log_sum_exp.can_be_noted(query, "flash_attention_2")
    assert not log_sum_exp.can_be_noted(query[:, :, :512], "sdpa")
    assert not log_sum_exp.can_be_noted(query.float(), "sdpa")
