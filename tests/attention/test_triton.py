"""The Triton kernels against the torch path: interpreted on a CPU (see conftest.py), compiled where there is a CUDA device."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: it comes with torch's CUDA builds")

from helpers.models import golden_act, logits_of

from act_eval.attention import blockwise, triton_kernels, whole_maps
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.layer import choose_kernels
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import ChosenHeads
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.to_first_token import ToFirstToken

pytestmark = pytest.mark.tier("model")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, HEADS = 2, 4


def make_call(n=70, key_heads=4, dim=24, padding=0, softcap=None, dtype=torch.float32, seed=0):
    """A prefill with a few attractive keys; row 1 is padded on the left."""
    generator = torch.Generator().manual_seed(seed)

    def states(heads):
        return torch.randn(BATCH, n, heads, dim, generator=generator).transpose(1, 2)

    query, key, value = states(HEADS) + 0.7, states(key_heads), states(key_heads)
    key[:, :, 3::11] += 0.7
    mask = torch.ones(n, n, dtype=torch.bool).tril().expand(BATCH, 1, n, n).clone()
    mask[1, :, :, :padding] = False
    query, key, value, mask = (tensor.to(DEVICE) for tensor in (query, key, value, mask))
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    visibility = Visibility.from_mask(mask if padding else None, query, key)
    scores = query.float() @ key.float().repeat_interleave(HEADS // key_heads, 1).mT * dim**-0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(-1)
    output = (weights @ value.float().repeat_interleave(HEADS // key_heads, 1)).transpose(1, 2).contiguous().to(dtype)
    return AttentionCall(query, key, value, output, visibility, dim**-0.5, softcap)


def some_heads():
    """Some heads of each row, by row index and head index."""
    rows, heads = torch.tensor([[0, 0], [0, 2], [0, 3], [1, 1], [1, 3]], device=DEVICE).unbind(-1)
    return rows, heads


CALLS = {
    "several blocks": {},
    "one token": {"n": 1},
    "one block": {"n": 64},
    "grouped heads": {"key_heads": 2},
    "head dimension of a power of two": {"dim": 32},
    "padding": {"padding": 9},
    "padding and grouped heads": {"padding": 30, "key_heads": 1},
    "soft cap": {"softcap": 2.0},
}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("name", CALLS)
def test_statistics(name):
    call = make_call(**CALLS[name])
    rows, heads = some_heads()
    means, log_normalizer = triton_kernels.attention_statistics(call, rows, heads)
    expected_means, expected_normalizer = blockwise.attention_statistics(call, rows, heads)
    torch.testing.assert_close(means, expected_means, rtol=0, atol=1e-6)
    real = call.visibility.real[call.visibility.places_of_rows(rows)]
    torch.testing.assert_close(log_normalizer[real], expected_normalizer[real], rtol=1e-6, atol=1e-5)


@pytest.mark.tier("slow")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "settings", [CalibrationSettings(alpha=1.5), CalibrationSettings(method=ToOtherTokens(0), threshold=0.03)]
)
@pytest.mark.parametrize("limit", [1.2, 10.0])
def test_outputs(name, settings, limit):
    """With a low limit on the factor, most rows are computed over the other keys."""
    call = replace(make_call(**CALLS[name]), limits=ComputeLimits(safe_factor=limit))
    before = call.output.clone()
    expected = replace(call, output=before.clone())
    sinks = triton_kernels.calibrate_prefill(call, *some_heads(), settings)
    assert torch.equal(sinks, blockwise.calibrate_prefill(expected, *some_heads(), settings))
    torch.testing.assert_close(call.output, expected.output, rtol=0, atol=2e-5)
    assert name == "one token" or not torch.equal(call.output, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_accumulated_in_float32(dtype):
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter computes in numpy, which has no bfloat16")
    call = make_call(dtype=dtype)
    means, expected = (module.attention_statistics(call, *some_heads())[0] for module in (triton_kernels, blockwise))
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-6)


@pytest.mark.tier("slow")
def test_golden_logits_through_whole_models(golden_folder, golden_model, monkeypatch):
    """Short sequences under every setting of the published implementation; the interpreter is slow."""
    cases = json.loads((golden_folder / "cases.json").read_text())
    expected = np.load(golden_folder / "logits.npz")
    sequences = {sequence["id"]: torch.tensor([sequence["input_ids"]]) for sequence in cases["sequences"]}
    used = []

    def always(call, method, chosen):
        used.append(call)
        return triton_kernels

    monkeypatch.setattr("act_eval.attention.layer.choose_kernels", always)
    monkeypatch.setattr("act_eval.attention.layer.LayerCalibration.always_runs_base", True)
    model = golden_model.to(DEVICE)
    for case in cases["cases"]:
        if not 9 <= len(sequences[case["sequence"]][0]) <= 17:
            continue
        act = golden_act(cases, case["setting"])
        logits = logits_of(model, sequences[case["sequence"]].to(DEVICE), act)[0, -1].cpu().numpy()
        np.testing.assert_allclose(logits, expected[case["last_key"]][case["last_row"]], rtol=0, atol=5e-5)
    assert len(used) > 50
    golden_model.to("cpu")


def test_only_cuda_uses_them():
    everything = ChosenHeads(torch.ones(BATCH, HEADS, dtype=torch.bool))
    expected = triton_kernels if torch.cuda.is_available() else whole_maps
    assert choose_kernels(make_call(), ToOtherTokens(), everything) is expected


def test_what_is_supported():
    call = make_call()
    assert triton_kernels.is_supported(call, ToOtherTokens())
    window = Visibility.from_mask(None, call.query, call.key, window=8)
    assert not triton_kernels.is_supported(replace(call, visibility=window), ToOtherTokens())
    assert not triton_kernels.is_supported(call, ToFirstToken())
    assert not triton_kernels.is_supported(make_call(dtype=torch.float64), ToOtherTokens())
    assert call.limits.largest_safe_factor(torch.bfloat16) < call.limits.largest_safe_factor(torch.float32)
