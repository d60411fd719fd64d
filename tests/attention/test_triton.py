"""The Triton kernels against the torch path: interpreted on a CPU (see conftest.py), compiled where there is a CUDA device."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: it comes with torch's CUDA builds")

from helpers.golden_logits import GOLDEN_TOLERANCE, golden_error, short_sequences
from helpers.kernel_cases import KernelCase, Prefill, kernel_cases, triton_where_supported, try_kernels
from helpers.thorough import some

from act_eval.attention import blockwise, triton_kernels, whole_maps
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.layer import choose_kernels
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import ChosenHeads
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.to_first_token import ToFirstToken

pytestmark = pytest.mark.tier("model")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_call(**case):
    """A prefill with a few attractive keys; row 1 is padded on the left."""
    kernel_case = KernelCase("", **case)
    return Prefill.of_case(kernel_case).call(kernel_case, DEVICE)


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
    """With a low limit on the factor, most rows are computed over the other keys.

    What is near a high limit may be off by as many times the last digits of the base backend's output.
    """
    call = replace(make_call(**CALLS[name]), limits=ComputeLimits(safe_factor=limit))
    before = call.output.clone()
    expected = replace(call, output=before.clone())
    sinks = triton_kernels.calibrate_prefill(call, *some_heads(), settings)
    assert torch.equal(sinks, blockwise.calibrate_prefill(expected, *some_heads(), settings))
    torch.testing.assert_close(call.output, expected.output, rtol=0, atol=3e-5)
    assert name == "one token" or not torch.equal(call.output, before)


def test_more_pairs_than_one_launch_takes(monkeypatch):
    """Parts of the pairs give what all of them give: no launch goes beyond what a grid may have."""
    call, settings = make_call(n=40, padding=9), CalibrationSettings(alpha=1.5)
    again = replace(call, output=call.output.clone())
    means, log_normalizer = triton_kernels.attention_statistics(call, *some_heads())
    sinks = triton_kernels.calibrate_prefill(call, *some_heads(), settings)
    launched = []
    packed = triton_kernels._packed
    monkeypatch.setattr(triton_kernels, "_packed", lambda sinks: launched.append(len(sinks)) or packed(sinks))
    monkeypatch.setattr(triton_kernels, "_MOST_PAIRS", 2)
    in_parts = triton_kernels.attention_statistics(again, *some_heads())
    assert torch.equal(in_parts[0], means)
    assert torch.equal(in_parts[1], log_normalizer)
    assert torch.equal(triton_kernels.calibrate_prefill(again, *some_heads(), settings), sinks)
    assert torch.equal(again.output, call.output)
    assert launched == [2, 2, 1]


@pytest.mark.tier("slow")
@pytest.mark.parametrize("case", some(list(kernel_cases(torch.float32, 80)), 5), ids=lambda case: case.name)
def test_outputs_by_definition(case):
    """What `benchmarks/gpu.sh` tries on a device, with few tokens."""
    outcome = try_kernels(case.cut(37), DEVICE, triton_where_supported)
    assert outcome.is_right, outcome
    assert outcome.sinks > 0
    assert outcome.kernels == ("blockwise" if case.window or case.learned_sinks else "triton_kernels")


def test_a_wrong_kernel_is_found(monkeypatch):
    """Of a case that is tried, each number counts."""
    case = KernelCase("")
    right = try_kernels(case, DEVICE, triton_where_supported)
    assert right.is_right
    assert not replace(right, means_error=float("nan")).is_right
    monkeypatch.setattr(triton_kernels, "calibrate_prefill", lambda call, rows, heads, _: torch.zeros(len(rows), 70).bool())
    wrong = try_kernels(case, DEVICE, triton_where_supported)
    assert wrong.sinks_differ == wrong.sinks > 0
    assert wrong.output_error > wrong.output_tolerance
    assert not wrong.is_right


@pytest.mark.tier("slow")
def test_they_compile_for_devices_and_fit_into_their_shared_memory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "helpers.kernel_compilation"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    sizes = json.loads(ended.stdout)
    assert len(sizes) == 6
    assert max(sizes.values()) <= 99 * 2**10, sizes


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
    used = []

    def always(call, method, chosen):
        used.append(call)
        return triton_kernels

    monkeypatch.setattr("act_eval.attention.layer.choose_kernels", always)
    monkeypatch.setattr("act_eval.attention.layer.LayerCalibration.always_runs_base", True)
    sequences = some(short_sequences(golden_folder.name), 1)
    error, cases = golden_error(golden_folder.name, golden_model, DEVICE, sequences)
    assert error <= GOLDEN_TOLERANCE
    assert len(used) > 1.5 * cases


def test_only_cuda_uses_them():
    call = make_call()
    everything = ChosenHeads(torch.ones(call.query.shape[:2], dtype=torch.bool))
    expected = triton_kernels if torch.cuda.is_available() else whole_maps
    assert choose_kernels(call, ToOtherTokens(), everything) is expected


def test_what_is_supported():
    call = make_call()
    assert triton_kernels.is_supported(call, ToOtherTokens())
    window = Visibility.from_mask(None, call.query, call.key, window=8)
    assert not triton_kernels.is_supported(replace(call, visibility=window), ToOtherTokens())
    assert not triton_kernels.is_supported(call, ToFirstToken())
    assert not triton_kernels.is_supported(make_call(dtype=torch.float64), ToOtherTokens())
    assert call.limits.largest_safe_factor(torch.bfloat16) < call.limits.largest_safe_factor(torch.float32)
