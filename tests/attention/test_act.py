"""ACT on whole models: golden logits, the naive reference, invariances, and what the context leaves behind."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import ALL, SOME, LargestTensor, act_of, golden_act, logits_of, prefill_and_decode, random_ids
from helpers.reference import naive_act
from helpers.thorough import pairs
from torch.nn.functional import log_softmax
from transformers import (
    FalconConfig,
    FalconForCausalLM,
)

from act_eval.attention.act import ACT
from act_eval.attention.cache import CACHE_ATTRIBUTE, select_cache_rows
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.layer import MODULE_ATTRIBUTE, LayerCalibration
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.model_structure import UnsupportedModelError
from act_eval.attention.pairs import RowHeadPairs
from act_eval.attention.shared_heads import SharedHeads
from act_eval.methods.act import ToOtherTokens
from act_eval.profiles import HeadProfile, ProfileError

pytestmark = pytest.mark.tier("model")

SETTINGS = [
    CalibrationSettings(),
    CalibrationSettings(method=ToOtherTokens(0), threshold=0.05),
    CalibrationSettings(method=ToOtherTokens(0.7), alpha=3, keep="first-token"),
]

both_ways_to_prefill = pytest.mark.parametrize(
    "limits", [ComputeLimits(), ComputeLimits(map_elements=0)], ids=["whole maps", "blocks"]
)


class TestGolden:
    """Numbers of the published implementation (tests/golden/README.md)."""

    @pytest.fixture(scope="class")
    def cases(self, golden_folder):
        return json.loads((golden_folder / "cases.json").read_text())

    @pytest.fixture(scope="class")
    def expected(self, golden_folder):
        return np.load(golden_folder / "logits.npz")

    @both_ways_to_prefill
    def test_every_case(self, cases, expected, golden_model, limits):
        sequences = {sequence["id"]: torch.tensor([sequence["input_ids"]]) for sequence in cases["sequences"]}
        assert len(cases["cases"]) == 132
        for case in cases["cases"]:
            act = replace(golden_act(cases, case["setting"]), limits=limits)
            logits = logits_of(golden_model, sequences[case["sequence"]], act)[0].numpy()
            np.testing.assert_allclose(logits[-1], expected[case["last_key"]][case["last_row"]], rtol=0, atol=5e-5)
            if case["full_key"]:
                np.testing.assert_allclose(logits, expected[case["full_key"]], rtol=0, atol=5e-5)

    @pytest.mark.tier("slow")
    def test_generation(self, cases, expected, golden_model):
        assert len(cases["generation"]) == 15
        for case in cases["generation"]:
            ids = torch.tensor([case["prompt_ids"]])
            with torch.no_grad(), golden_act(cases, case["setting"] or "none", decode="official")(golden_model):
                output = golden_model.generate(
                    ids,
                    max_new_tokens=16,
                    do_sample=False,
                    use_cache=case["use_cache"],
                    return_dict_in_generate=True,
                    output_logits=True,
                    pad_token_id=0,
                )
            assert output.sequences[0, ids.shape[1] :].tolist() == case["new_ids"]
            np.testing.assert_allclose(torch.cat(output.logits).numpy(), expected[case["logits_key"]], rtol=0, atol=5e-5)


@pytest.mark.tier("slow")
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "beta0", "alpha"])
@pytest.mark.parametrize("heads", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-11)], ids=str)
def test_equals_naive_reference(golden_model, settings, heads, dtype, tolerance):
    model = copy.deepcopy(golden_model).to(dtype)
    ids = random_ids(90, seed=1, rows=2)
    with naive_act(model, heads, settings):
        expected = logits_of(model, ids)
    result = logits_of(model, ids, act_of(settings, heads))
    assert (expected - logits_of(model, ids)).abs().max() > 0.05
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "beta0", "alpha"])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
@both_ways_to_prefill
def test_padding_and_batch_change_nothing(gqa_model, side, settings, base, limits):
    lengths = [40, 61, 9]
    width = max(lengths)
    rows = [random_ids(length, seed=length)[0] for length in lengths]
    ids, mask = torch.full((3, width), 77), torch.zeros(3, width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[row, place], mask[row, place] = tokens, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    act = act_of(settings, base=base, limits=limits)
    together = logits_of(gqa_model, ids, act, attention_mask=mask, position_ids=positions)
    for row, tokens in enumerate(rows):
        alone = logits_of(gqa_model, tokens[None], act)[0]
        torch.testing.assert_close(together[row][mask[row].bool()], alone, rtol=0, atol=5e-5)


@pytest.mark.parametrize("decode", ["prefill", "row", "official"])
@pytest.mark.parametrize("step", [1, 4])
def test_several_new_tokens_equal_one_at_a_time(gqa_model, decode, step):
    ids = random_ids(60, seed=3)
    act = ACT("all", decode=decode)

    def decode_in_steps(step):
        with torch.no_grad(), act(gqa_model):
            output = gqa_model(ids[:, :40], use_cache=True)
            logits = [output.logits]
            for start in range(40, 60, step):
                output = gqa_model(ids[:, start : start + step], past_key_values=output.past_key_values, use_cache=True)
                logits.append(output.logits)
        return torch.cat(logits, dim=1)

    torch.testing.assert_close(decode_in_steps(step), decode_in_steps(20), rtol=0, atol=5e-5)


def test_decode_uses_the_sinks_of_the_prompt(gqa_model):
    """A token decoded with the prompt's sinks is not what a prefill over prompt and token would give."""
    ids = random_ids(50, seed=5)
    act = ACT("all")
    with torch.no_grad(), act(gqa_model):
        output = gqa_model(ids[:, :49], use_cache=True)
        sinks = getattr(output.past_key_values, CACHE_ATTRIBUTE)
        assert set(sinks) == {(layer, 0) for layer in range(6)}
        assert all(layer.sinks.shape == (1, 8, 49) and layer.sinks.any() for layer in sinks.values())
        decoded = gqa_model(ids[:, 49:], past_key_values=output.past_key_values).logits
    assert (decoded - logits_of(gqa_model, ids, act)[:, -1:]).abs().max() > 1e-3


@pytest.mark.parametrize("decode", ["prefill", "row", "official"])
def test_generation_without_a_cache_finds_the_sinks_anew_at_every_step(gqa_model, decode):
    """Each step is a prefill over prompt and new tokens, in which new tokens can be sinks, whatever `decode` is."""
    ids, act = random_ids(40, seed=5), ACT("all", beta=0, decode=decode)

    def generate(use_cache):
        options = {"do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True, "output_logits": True}
        with torch.no_grad(), act(gqa_model):
            output = gqa_model.generate(ids, max_new_tokens=6, use_cache=use_cache, **options)
        return output.sequences, torch.stack(output.logits, dim=1)

    sequences, logits = generate(use_cache=False)
    for step in range(6):
        block = logits_of(gqa_model, sequences[:, : 40 + step], act)
        torch.testing.assert_close(logits[:, step], block[:, -1], rtol=0, atol=5e-5)
    with_cache, cached_logits = generate(use_cache=True)
    torch.testing.assert_close(cached_logits[:, 0], logits[:, 0], rtol=0, atol=5e-5)
    assert (cached_logits[:, 1] - logits[:, 1]).abs().max() > 1e-3 or with_cache[0, 40] != sequences[0, 40]


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["all heads", "those with sinks"])
def test_both_ways_to_decode_equal_the_reference(gqa_model, monkeypatch, share):
    """A step computes all heads anew, or only those with sinks; either way it is the map that the definition gives."""
    computed = []
    original = AttentionCall.write_heads
    monkeypatch.setattr(
        AttentionCall, "write_heads", lambda call, heads, *args: computed.append(heads) or original(call, heads, *args)
    )
    ids, settings = random_ids(60, seed=4, rows=2), CalibrationSettings(method=ToOtherTokens(0.1), threshold=0.04)
    with torch.no_grad(), naive_act(gqa_model, SOME, settings):
        expected = gqa_model(ids[:, :50], use_cache=True)
        expected = gqa_model(ids[:, 50:], past_key_values=expected.past_key_values).logits
    with torch.no_grad(), act_of(settings, SOME, limits=ComputeLimits(share_of_heads_to_pick=share))(gqa_model):
        result = gqa_model(ids[:, :50], use_cache=True)
        result = gqa_model(ids[:, 50:], past_key_values=result.past_key_values).logits
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-5)
    assert computed
    assert all((heads is None) == (share == 0) for heads in computed)


@pytest.mark.parametrize("decode", ["prefill", "row"])
def test_left_padded_generation_equals_single(gqa_model, decode):
    rows = [random_ids(length, seed=length)[0] for length in (25, 40)]
    ids, mask = torch.full((2, 40), 5), torch.zeros(2, 40, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, 40 - len(tokens) :], mask[row, 40 - len(tokens) :] = tokens, 1
    act = ACT("all", alpha=3, decode=decode)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with act(gqa_model):
        together = gqa_model.generate(ids, attention_mask=mask, **options)[:, 40:]
        alone = [gqa_model.generate(tokens[None], **options)[0, len(tokens) :] for tokens in rows]
    assert together.tolist() == [tokens.tolist() for tokens in alone]


def test_beams_share_the_sinks_of_their_prompt(gqa_model):
    ids = random_ids(30, seed=9, rows=2)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with ACT("all")(gqa_model):
        together = gqa_model.generate(ids, **options)
        alone = torch.cat([gqa_model.generate(row[None], **options) for row in ids])
    assert torch.equal(together, alone)


def test_selected_cache_rows_keep_their_sinks(gqa_model):
    ids = random_ids(30, seed=11, rows=3)
    act = ACT("all")
    with torch.no_grad(), act(gqa_model):
        prefilled = gqa_model(ids, use_cache=True).past_key_values
        chosen = torch.tensor([2, 0, 0])
        new = random_ids(5, seed=12, rows=3)
        result = gqa_model(new, past_key_values=select_cache_rows(prefilled, chosen)).logits
        assert prefilled.get_seq_length() == 30
        for row, source in enumerate(chosen):
            cache = gqa_model(ids[source][None], use_cache=True).past_key_values
            alone = gqa_model(new[row][None], past_key_values=cache).logits
            torch.testing.assert_close(result[row], alone[0], rtol=0, atol=5e-5)


def test_a_copied_and_repeated_cache_keeps_its_sinks(gqa_model):
    ids = random_ids(30, seed=13, rows=2)
    new = random_ids(4, seed=14, rows=4)
    with torch.no_grad(), ACT("all")(gqa_model):
        prefilled = gqa_model(ids, use_cache=True).past_key_values
        repeated = copy.deepcopy(prefilled)
        repeated.batch_repeat_interleave(2)
        together = gqa_model(new, past_key_values=repeated).logits
        for row in range(4):
            cache = gqa_model(ids[row // 2][None], use_cache=True).past_key_values
            alone = gqa_model(new[row][None], past_key_values=cache).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=5e-5)


def test_static_cache_equals_dynamic_cache(gqa_model):
    ids = random_ids(30, seed=15)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with ACT("all")(gqa_model):
        dynamic = gqa_model.generate(ids, **options)
        static = gqa_model.generate(ids, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(dynamic, static)


def test_a_cache_filled_outside_is_an_error(gqa_model):
    ids = random_ids(20, seed=16)
    with torch.no_grad():
        cache = gqa_model(ids, use_cache=True).past_key_values
        with ACT("all")(gqa_model), pytest.raises(RuntimeError, match="outside this ACT context"):
            gqa_model(ids[:, :1], past_key_values=cache)
        with ACT("all", beta=0.1)(gqa_model):
            cache = gqa_model(ids, use_cache=True).past_key_values
        with ACT("all", threshold=0.2)(gqa_model), pytest.raises(RuntimeError, match="other ACT settings"):
            gqa_model(ids[:, :1], past_key_values=cache)


def test_rows_may_calibrate_different_heads(gqa_model):
    profiles = [HeadProfile(ALL), HeadProfile({}), HeadProfile(SOME)]
    ids = random_ids(50, seed=17, rows=3)
    new = random_ids(3, seed=18, rows=3)

    @torch.no_grad()
    def run(profile, rows):
        with ACT(profile)(gqa_model):
            output = gqa_model(ids[rows], use_cache=True)
            return output.logits, gqa_model(new[rows], past_key_values=output.past_key_values).logits

    together = run(profiles, slice(0, 3))
    for row, profile in enumerate(profiles):
        alone = run(profile, slice(row, row + 1))
        for result, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(result[row], expected[0], rtol=0, atol=5e-5)
    with ACT(profiles)(gqa_model), pytest.raises(ValueError, match="3 rows"):
        gqa_model(ids[:2])


@pytest.mark.tier("slow")
@pytest.mark.parametrize("block", [1, 300, 2**14, 2**22])
def test_row_blocks_and_chunks_of_heads_change_nothing(gqa_model, block):
    expected = prefill_and_decode(gqa_model, ACT("all", beta=0))
    act = ACT("all", beta=0, limits=ComputeLimits(block_elements_on_cpu=block))
    torch.testing.assert_close(prefill_and_decode(gqa_model, act), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("limit", [0.0, 2.0, 10.0])
def test_both_forms_of_the_output_agree(gqa_model, limit):
    """Rows computed from the base output, rows computed from their weights and whole maps give the same."""
    expected = prefill_and_decode(gqa_model, ACT("all", threshold=0.02))
    act = ACT("all", threshold=0.02, limits=ComputeLimits(map_elements=0, safe_factor=limit))
    torch.testing.assert_close(prefill_and_decode(gqa_model, act), expected, rtol=0, atol=5e-5)


@both_ways_to_prefill
def test_both_readings_of_a_mask_agree(gqa_model, monkeypatch, limits):
    """A causal mask with padding is kept as one row per sequence; any other mask as it is."""
    act = ACT("all", threshold=0.02, limits=limits)
    expected = prefill_and_decode(gqa_model, act)
    original, read = Visibility.from_mask, []

    def in_full(mask, *args):
        visibility = original(mask, *args)
        read.append(visibility)
        hidden = visibility.hidden if mask is None else ~mask.expand(2, -1, -1, -1)
        return replace(visibility, padding=None, hidden=hidden)

    monkeypatch.setattr(Visibility, "from_mask", in_full)
    torch.testing.assert_close(prefill_and_decode(gqa_model, act), expected, rtol=0, atol=5e-5)
    assert all(visibility.hidden is None and visibility.padding is not None for visibility in read)


@pytest.mark.parametrize(
    ("act", "runs"),
    [
        (ACT("all"), False),
        (ACT("all", decode="row"), False),
        (ACT("all", method="temperature"), False),
        (ACT("2:0"), False),
        (ACT("2:0", limits=ComputeLimits(share_of_heads_to_pick=0.9)), True),
        (ACT("2:0", decode="row"), True),
        (ACT("2:0", method="temperature"), True),
        (ACT("all", limits=ComputeLimits(map_elements=0)), True),
        (ACT([HeadProfile({2: (0,)}), HeadProfile({2: (1,)})]), True),
    ],
)
def test_whether_the_base_backend_runs(gqa_model, act, runs):
    """Not where all heads of a layer are computed anew, which is where they are many, the same in all rows, and short."""
    calls = []
    ids = random_ids(30, seed=33, rows=2)
    with act(gqa_model):
        layer = getattr(gqa_model.model.layers[2].self_attn, MODULE_ATTRIBUTE)
        base = layer.base
        layer.base = lambda *args, **kwargs: calls.append(1) or base(*args, **kwargs)
        logits = logits_of(gqa_model, ids)
    assert len(calls) == runs
    expected = logits_of(gqa_model, ids, replace(act, limits=ComputeLimits(map_elements=0)))
    torch.testing.assert_close(logits, expected, rtol=0, atol=5e-5)


HIDING = [torch.finfo(torch.float32).min, -torch.inf, -1e9, -1e4]


@pytest.mark.parametrize(("slope", "hiding"), [*((0.0, hiding) for hiding in HIDING), (0.1, HIDING[0]), (0.1, -1e4)])
@both_ways_to_prefill
def test_masks_that_add_to_the_scores(gqa_model, slope, hiding, limits):
    """As ALiBi does; with slope 0 the mask only hides."""
    n, settings = 40, SETTINGS[1]
    distance = torch.arange(n)[:, None] - torch.arange(n)
    mask = (-slope * distance).masked_fill(distance < 0, hiding)[None, None]
    ids = random_ids(n, seed=31)
    with naive_act(gqa_model, SOME, settings), torch.no_grad():
        expected = gqa_model(ids, attention_mask=mask).logits
    calibrated = logits_of(gqa_model, ids, act_of(settings, SOME, limits=limits), attention_mask=mask)
    torch.testing.assert_close(calibrated, expected, rtol=0, atol=5e-5)
    assert (logits_of(gqa_model, ids, attention_mask=mask) - expected).abs().max() > 0.01


@pytest.mark.parametrize("hiding", HIDING[1:])
@both_ways_to_prefill
def test_padding_is_hidden_by_whatever_number(gqa_model, hiding, limits):
    """Numbers that hide are added up where a key is both padding and later."""
    act, ids = ACT("all", threshold=0.02, limits=limits), random_ids(30, seed=35, rows=2)
    real = torch.ones(2, 30, dtype=torch.bool)
    real[1, :12] = False

    def run(hiding: float) -> torch.Tensor:
        hides = torch.zeros(2, 1, 30, 30).masked_fill(~torch.ones(30, 30, dtype=torch.bool).tril(), hiding)
        hides += torch.zeros(2, 1, 1, 30).masked_fill(~real[:, None, None], hiding)
        return logits_of(gqa_model, ids, act, attention_mask=hides.clamp(min=torch.finfo(torch.float32).min))[real]

    torch.testing.assert_close(run(hiding), run(HIDING[0]), rtol=0, atol=5e-5)


@pytest.mark.parametrize("heads", ["all", "1:0+2", "0:0|2:1"])
@both_ways_to_prefill
def test_a_mask_written_over_between_prefills(gqa_model, heads, limits):
    ids, mask = random_ids(30, seed=36), torch.ones(1, 1, 30, 30, dtype=torch.bool).tril()
    act = ACT(heads, method="act+mask-head" if "|" in heads else "act", alpha=1.2, limits=limits)
    with act(gqa_model), torch.no_grad():
        gqa_model(ids, attention_mask=mask)
        mask[..., :12] = torch.eye(30, dtype=torch.bool)[:, :12]
        result = gqa_model(ids, attention_mask=mask).logits
    torch.testing.assert_close(result, logits_of(gqa_model, ids, act, attention_mask=mask.clone()), rtol=0, atol=0)


def test_a_mask_is_read_once_in_a_forward_pass(gqa_model, monkeypatch):
    original, read = Visibility.from_mask, []
    monkeypatch.setattr(Visibility, "from_mask", lambda *args: read.append(1) or original(*args))
    with ACT("0:0+1;1:0;2:0|0:2;2:1", method="act+mask-head")(gqa_model), torch.no_grad():
        for number in (1, 2):
            gqa_model(random_ids(30, seed=36), attention_mask=torch.ones(1, 1, 30, 30, dtype=torch.bool).tril())
            assert len(read) == number


def test_biases_hide_nothing():
    """Those of ALiBi in both its forms, growing towards the own token or from it, hide no key that is near the rest."""
    n, empty = 600, torch.zeros(1, 1, 600, 4)
    key = torch.arange(n, dtype=torch.float32)
    later = key > key[:, None]
    for bias in (key - key[:, None], key + 1 - n):
        mask = torch.where(later, torch.finfo(torch.float32).min, 1.5 * bias)[None, None]
        visibility = Visibility.from_mask(mask, empty, empty)
        assert torch.equal(visibility.hidden[0, 0], later)
        assert visibility.all_real


@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    ("act", "padded"),
    pairs([ACT("all", alpha=2), ACT("all", alpha=2, method="to-first-token"), ACT("all", method="temperature")], [True, False]),
    ids=lambda value: value if isinstance(value, bool) else value.method.name,
)
def test_extra_memory_is_linear(fresh_model, monkeypatch, act, padded):
    """Beside the masks that transformers makes, nothing is as large as an n x n map."""
    act = replace(act, limits=ComputeLimits(block_elements_on_cpu=2**14))
    largest = {}
    for n in (512, 1024):
        ids = torch.randint(3, 64, (1, n), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[:, : n // 4 if padded else 0] = 0
        tensors = LargestTensor()
        original = LayerCalibration._prefill

        def watched(self, call, chosen, original=original, tensors=tensors):
            with tensors:
                original(self, call, chosen)

        with monkeypatch.context() as patch, torch.no_grad(), act(fresh_model):
            patch.setattr(LayerCalibration, "_prefill", watched)
            fresh_model(ids, attention_mask=mask)
        largest[n] = tensors.elements
    assert 0 < largest[1024] <= max(2**15, 2 * largest[512])
    assert largest[1024] < 1024 * 1024 / 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(gqa_model, dtype):
    ids = random_ids(60, seed=21)
    act = act_of(CalibrationSettings(method=ToOtherTokens(0.2), threshold=0.02), SOME)
    expected = log_softmax(logits_of(gqa_model, ids, act), -1)
    baseline = log_softmax(logits_of(gqa_model, ids), -1)
    half = copy.deepcopy(gqa_model).to(dtype)
    error = (log_softmax(logits_of(half, ids, act).float(), -1) - expected).abs().mean()
    error_of_baseline = (log_softmax(logits_of(half, ids).float(), -1) - baseline).abs().mean()
    assert error < 3 * error_of_baseline
    assert (expected - baseline).abs().mean() > 3 * error


@pytest.mark.parametrize(
    ("limits", "method"), [(ComputeLimits(), SharedHeads.weights), (ComputeLimits(map_elements=0), RowHeadPairs.scores)]
)
def test_autocast_does_not_reach_the_calibration(gqa_model, monkeypatch, limits, method):
    dtypes = []

    def recorded(*args):
        tensor = method(*args)
        dtypes.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(SharedHeads if method is SharedHeads.weights else RowHeadPairs, method.__name__, recorded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_of(gqa_model, random_ids(40, seed=27), ACT("all", limits=limits))
    assert set(dtypes) == {torch.float32}


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize(
        "act",
        [ACT("all", beta=1), ACT("none"), ACT("all", beta=1, decode="row"), ACT([HeadProfile({}), HeadProfile({})])],
        ids=["beta1", "empty", "beta1-row", "rows"],
    )
    def test_nothing_to_do_is_bit_identical(self, gqa_model, act):
        ids = random_ids(40, seed=22, rows=2)
        assert torch.equal(logits_of(gqa_model, ids, act), logits_of(gqa_model, ids))

    @pytest.mark.parametrize("base", [None, "eager"])
    def test_leaving_restores(self, gqa_model, base):
        ids = random_ids(40, seed=23)
        before = logits_of(gqa_model, ids)
        act = ACT("all", base=base)
        assert not torch.equal(logits_of(gqa_model, ids, act), before)
        assert torch.equal(logits_of(gqa_model, ids), before)
        self.assert_untouched(gqa_model)

    def test_an_exception_restores(self, gqa_model):
        ids = random_ids(40, seed=24)
        before = logits_of(gqa_model, ids)
        with pytest.raises(ZeroDivisionError), ACT("all")(gqa_model):
            raise ZeroDivisionError
        assert torch.equal(logits_of(gqa_model, ids), before)
        self.assert_untouched(gqa_model)

    @staticmethod
    def assert_untouched(model):
        assert model.config._attn_implementation == "sdpa"
        for module in model.modules():
            assert not hasattr(module, MODULE_ATTRIBUTE)
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_layers_without_heads_are_bit_identical(self, gqa_model):
        ids = random_ids(40, seed=25)
        states = {}
        for name, act in {"baseline": ACT("none"), "act": ACT("4:1")}.items():
            with torch.no_grad(), act(gqa_model):
                states[name] = gqa_model(ids, output_hidden_states=True).hidden_states
        for layer in range(5):
            assert torch.equal(states["baseline"][layer], states["act"][layer])
        assert not torch.equal(states["baseline"][5], states["act"][5])

    def test_two_models_do_not_meet(self, gqa_model, fresh_model):
        ids = random_ids(20, seed=26) % 64
        baseline = logits_of(fresh_model, ids)
        with ACT("all")(gqa_model):
            assert torch.equal(logits_of(fresh_model, ids), baseline)


class TestRefusals:
    def test_nested_contexts(self, fresh_model):
        with ACT("all")(fresh_model), pytest.raises(UnsupportedModelError, match="already"), ACT("all")(fresh_model):
            pass

    @pytest.mark.parametrize(("profile", "culprit"), [("7:0", "layer 7"), ("0:9", "head 9"), ("nonsense", "nonsense")])
    def test_profile_that_does_not_fit(self, fresh_model, profile, culprit):
        with pytest.raises(ProfileError, match=culprit), ACT(profile)(fresh_model):
            pass

    def test_unknown_base(self):
        with pytest.raises(ValueError, match="base attention 'fast'"):
            ACT("all", base="fast")

    def test_a_model_that_pretends_to_use_the_interface(self, monkeypatch):
        config = FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
        model = FalconForCausalLM(config)
        monkeypatch.setattr(FalconForCausalLM, "_can_set_attn_implementation", classmethod(lambda cls: True))
        with ACT("all", base="sdpa")(model), pytest.raises(RuntimeError, match="without calling"):
            model(torch.tensor([[3, 4, 5]]))
