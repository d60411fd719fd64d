"""The method on attention maps: golden numbers of the published code, and properties."""

import json

import numpy as np
import pytest
import torch
from helpers.models import GOLDEN
from hypothesis import example, given
from hypothesis import strategies as st

from act_eval.attention.calibration import CalibrationSettings, calibrate, column_means, find_sinks
from act_eval.methods.act import ToOtherTokens

pytestmark = pytest.mark.tier("unit")

CASES = json.loads((GOLDEN / "attention_maps.json").read_text())["cases"]
MAPS = np.load(GOLDEN / "attention_maps.npz")


def redistribute(attention: torch.Tensor, sinks: torch.Tensor, beta: float) -> torch.Tensor:
    return ToOtherTokens(beta).rewrite(attention, sinks, torch.zeros_like(sinks))


def random_map(n: int, k: int, seed: int, peak: float = 3.0) -> torch.Tensor:
    """A causal attention map float32 [n, k] with uneven columns."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, k, generator=generator) + peak * torch.randn(k, generator=generator)
    visible = torch.arange(k) <= torch.arange(k - n, k)[:, None]
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


maps = st.builds(random_map, n=st.integers(1, 24), k=st.just(24), seed=st.integers(0, 10_000), peak=st.floats(0, 8))
prefills = st.integers(1, 24).flatmap(lambda n: st.builds(random_map, n=st.just(n), k=st.just(n), seed=st.integers(0, 10_000)))
betas = st.floats(0, 1)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_maps(case):
    before, expected = torch.tensor(MAPS[case["in_key"]]), torch.tensor(MAPS[case["out_key"]])
    result = calibrate(before, beta=case["beta"], threshold=case["threshold"], decode="official")
    undefined = expected.isnan().any(-1)
    assert undefined.nonzero().flatten().tolist() == case["nan_rows"]
    assert torch.equal(result[undefined], before[undefined])
    assert (result - expected)[~undefined].abs().max() <= 1e-6


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "prefill"], ids=lambda case: case["id"])
def test_golden_sinks(case):
    attention = torch.tensor(MAPS[case["in_key"]])
    sinks = find_sinks(column_means(attention), case["N"], CalibrationSettings(threshold=case["threshold"]))
    assert sinks.nonzero().flatten().tolist() == case["calibrated"]


@given(prefills, betas, st.sampled_from(["first-sink", "first-token"]))
def test_rows_sum_to_one(attention, beta, keep):
    result = calibrate(attention, beta=beta, threshold=0.1, keep=keep)
    torch.testing.assert_close(result.sum(-1), torch.ones(len(attention)))
    assert (result >= 0).all()


@given(prefills, betas)
def test_mass_moves_from_sinks_to_the_rest_in_proportion(attention, beta):
    sinks = find_sinks(column_means(attention), len(attention), CalibrationSettings())
    result = calibrate(attention, beta=beta)
    others = attention.masked_fill(sinks, 0)
    movable = others.sum(-1) > 1e-6
    torch.testing.assert_close(result[movable][:, sinks], beta * attention[movable][:, sinks])
    share = result.masked_fill(sinks, 0) / result.masked_fill(sinks, 0).sum(-1, keepdim=True)
    torch.testing.assert_close(share[movable], (others / others.sum(-1, keepdim=True))[movable], rtol=1e-4, atol=1e-6)


@given(prefills)
def test_beta_one_changes_nothing(attention):
    torch.testing.assert_close(calibrate(attention, beta=1), attention)


@given(prefills, betas, st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_padding_changes_nothing(attention, beta, left, right, relative):
    n = len(attention)
    setting = {"alpha": 2.0} if relative else {"threshold": 0.1}
    padded = torch.full((left + n + right,) * 2, 0.5)
    padded[left : left + n] = 0
    padded[left : left + n, left : left + n] = attention
    valid = torch.zeros(left + n + right, dtype=torch.bool)
    valid[left : left + n] = True
    for keep in ("first-sink", "first-token"):
        result = calibrate(padded, beta=beta, keep=keep, valid=valid, **setting)
        expected = calibrate(attention, beta=beta, keep=keep, **setting)
        torch.testing.assert_close(result[left : left + n, left : left + n], expected)
        torch.testing.assert_close(result[~valid], padded[~valid])


@given(maps, betas)
def test_decode_rows_use_the_prefills_sinks(attention, beta):
    n, k = attention.shape
    sinks = torch.zeros(k - n, dtype=torch.bool)
    sinks[1 : (k - n) // 2] = True
    if n == k:
        return
    result = calibrate(attention, beta=beta, sinks=sinks)
    everywhere = torch.cat([sinks, torch.zeros(n, dtype=torch.bool)])
    torch.testing.assert_close(result, redistribute(attention, everywhere, beta))


@given(maps, betas, st.sampled_from(["row", "official"]))
def test_decode_rows_are_independent_of_each_other(attention, beta, decode):
    n, k = attention.shape
    if n == k:
        return
    together = calibrate(attention, beta=beta, decode=decode)
    for row in range(n):
        seen = k - n + row + 1
        alone = calibrate(attention[row : row + 1, :seen], beta=beta, decode=decode)
        torch.testing.assert_close(together[row : row + 1, :seen], alone)


def test_decode_row_alpha_counts_the_keys_the_row_sees():
    row = torch.tensor([[0.1, 0.3, 0.3, 0.3]])
    assert not torch.equal(calibrate(row, beta=0, alpha=1.1, decode="row"), row)
    valid = torch.tensor([False, True, True, True])
    assert torch.equal(calibrate(row, beta=0, alpha=1.1, decode="row", valid=valid), row)


@pytest.mark.parametrize(
    ("threshold", "keep", "calibrated"),
    [(0.2, "first-sink", [1, 2]), (0.2, "first-token", [1, 2]), (0.3, "first-sink", [2]), (0.3, "first-token", [1, 2])],
)
def test_which_sink_is_spared(threshold, keep, calibrated):
    attention = torch.tensor([[1.0, 0, 0, 0], [0.05, 0.95, 0, 0], [0.02, 0.48, 0.5, 0], [0.03, 0.3, 0.6, 0.07]])
    sinks = find_sinks(column_means(attention), 4, CalibrationSettings(threshold=threshold, keep=keep))
    assert sinks.nonzero().flatten().tolist() == calibrated


@given(prefills, st.integers(1, 12), st.sampled_from(["first-sink", "first-token"]), st.integers(0, 3), st.integers(0, 3))
def test_a_sink_is_seen_by_so_many_queries(attention, least, keep, left, right):
    """Keys that too few queries see are no sinks, and not the spared one either; padding does not count as a query."""
    n, settings = len(attention), {"threshold": 0.08, "keep": keep}
    means = column_means(attention)
    enough = torch.arange(n, 0, -1) >= least
    expected = find_sinks(means.masked_fill(~enough, 0), n, CalibrationSettings(**settings))
    assert torch.equal(find_sinks(means, n, CalibrationSettings(**settings, min_queries=least)), expected)
    padded = torch.nn.functional.pad(means, (left, right), value=0.5)
    valid = torch.nn.functional.pad(torch.ones(n, dtype=torch.bool), (left, right))
    found = find_sinks(padded, n, CalibrationSettings(**settings, min_queries=least), valid)
    assert torch.equal(found, torch.nn.functional.pad(expected, (left, right)))


def test_a_decode_row_counts_the_queries_so_far():
    """Where each row decides alone, a key has been seen by the tokens from its own to the row's."""
    row = torch.tensor([[0.1, 0.3, 0.3, 0.3]])
    settings = {"beta": 0, "threshold": 0.2, "decode": "row", "keep": "first-token"}
    changed = [(calibrate(row, min_queries=least, **settings) == 0).squeeze(0).tolist() for least in (1, 2, 3, 4)]
    assert changed == [[False, True, True, True], [False, True, True, False], [False, True, False, False], [False] * 4]


def windowed_map(n, window, seed):
    """A causal attention map float32 [n, n] of a layer with a sliding window, with uneven columns."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n, generator=generator) + 2 * torch.randn(n, generator=generator)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return scores.masked_fill((distance < 0) | (distance >= window), -torch.inf).softmax(-1)


windowed = [st.integers(1, 20), st.integers(1, 24), st.integers(0, 10_000)]


@given(*windowed, st.integers(0, 4))
def test_in_a_window_the_mean_is_over_the_queries_that_see_a_key(n, window, seed, padding):
    attention = windowed_map(n, window, seed)
    expected = [attention[key : key + window, key].mean().item() for key in range(n)]
    torch.testing.assert_close(column_means(attention, window=window), torch.tensor(expected))
    padded = torch.nn.functional.pad(attention, (padding, 0, padding, 0), value=0.5)
    valid = torch.nn.functional.pad(torch.ones(n, dtype=torch.bool), (padding, 0))
    torch.testing.assert_close(column_means(padded, valid, window), torch.tensor([0.0] * padding + expected))


@given(*windowed, st.integers(1, 4))
@example(n=20, window=3, seed=0, least=4)
def test_calibration_in_a_window_goes_by_those_means(n, window, seed, least):
    attention = windowed_map(n, window, seed)
    means = torch.tensor([attention[key : key + window, key].mean() for key in range(n)])
    seen_by = torch.tensor([min(window, n - key) for key in range(n)])
    settings = CalibrationSettings(threshold=0.4, min_queries=least)
    sinks = find_sinks(means.masked_fill(seen_by < least, 0), n, settings, seen_by=seen_by)
    expected = redistribute(attention, sinks, 0.3)
    torch.testing.assert_close(calibrate(attention, beta=0.3, threshold=0.4, min_queries=least, window=window), expected)


@given(*windowed)
def test_a_decode_row_sees_its_window(n, window, seed):
    """Where each row decides alone, the first key of its window is its token 0, and alpha is divided by the keys it sees."""
    row = windowed_map(n + 2, window, seed)[-1:]
    hidden = max(0, n + 2 - window)
    settings = {"beta": 0.3, "alpha": 1.2, "decode": "row", "keep": "first-token"}
    in_window = torch.arange(n + 2) >= hidden
    torch.testing.assert_close(calibrate(row, window=window, **settings), calibrate(row, valid=in_window, **settings))


@pytest.mark.parametrize("window", [0, -4, 2.0, True, "8"])
@pytest.mark.parametrize("function", [column_means, calibrate])
def test_a_window_is_a_number_of_keys(function, window):
    with pytest.raises(ValueError, match=r"window is .*, but it is how many keys a query sees: give a whole number above 0"):
        function(random_map(4, 4, 0), window=window)


def test_a_row_with_all_mass_on_sinks_stays():
    attention = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    sinks = torch.tensor([False, True, True])
    assert torch.equal(redistribute(attention, sinks, 0.4), attention)


def test_tiny_rest_keeps_its_digits():
    attention = torch.tensor([[1e-7, 1 - 1e-7, 0.0]])
    result = redistribute(attention, torch.tensor([False, True, False]), 0.4)
    torch.testing.assert_close(result[0, 0].item(), 0.6, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"sink_share": 1.5}, "sink_share"),
        ({"sink_share": "x"}, "sink_share"),
        ({"min_queries": 0}, "min_queries is 0, but it is the number of queries .*: give a whole number from 1 to"),
        ({"min_queries": 2.5}, "min_queries"),
        ({"min_queries": True}, "min_queries"),
        ({"min_queries": float("inf")}, "min_queries"),
        ({"min_queries": 10**400}, "min_queries"),
        ({"min_queries": 2, "method": "temperature"}, "min_queries is about attention sinks"),
        ({"min_queries": 2, "decode": "official"}, "published code, which has no min_queries"),
        ({"threshold": 0.1, "alpha": 5}, "threshold and alpha"),
        ({"threshold": 1.0}, "threshold"),
        ({"alpha": 0}, "alpha"),
        ({"keep": "last"}, "keep"),
        ({"decode": "never"}, "decode"),
    ],
)
def test_settings_out_of_range(settings, culprit):
    with pytest.raises(ValueError, match=culprit):
        CalibrationSettings(**settings)


def test_decode_rows_without_sinks_are_an_error():
    with pytest.raises(ValueError, match="sinks"):
        calibrate(random_map(1, 5, 0), beta=0.4)


def test_sinks_of_a_prefill_are_its_own():
    sinks = torch.tensor([False, True, False, False])
    with pytest.raises(ValueError, match=r"a square map finds its own: leave sinks out\."):
        calibrate(random_map(4, 4, 0), beta=0.4, sinks=sinks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype):
    attention = random_map(9, 9, 1)
    result = calibrate(attention.to(dtype), beta=0.4)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), calibrate(attention.to(dtype).float(), beta=0.4), rtol=1e-2, atol=1e-3)
