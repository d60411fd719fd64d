"""Methods: each equals its definition, on maps and in whole models; shares of sinks and heads; what users meet of them."""

import copy
import itertools
from dataclasses import dataclass, fields, make_dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers.family_runs import all_heads, family_named, mask_of, run
from helpers.models import ALL, SOME, act_of, logits_of, prefill_and_decode, random_ids
from helpers.naive_methods import NAIVE, rewrite
from helpers.reference import naive_act
from helpers.search import evaluator, naive_scores, random_documents
from helpers.thorough import pairs
from hypothesis import given
from hypothesis import strategies as st

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings, calibrate, column_means, find_sinks, first_token_mask
from act_eval.attention.limits import ComputeLimits
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.methods import available_methods, make_method
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.base import Method, SelectiveMethod
from act_eval.methods.bias_span import BiasSpan
from act_eval.methods.boost import Boost
from act_eval.methods.mask_head import MaskHead
from act_eval.methods.pasta import Pasta
from act_eval.methods.per_head_group import MethodOfGroups
from act_eval.methods.remove import Remove
from act_eval.methods.scale_first_token import ScaleFirstToken
from act_eval.methods.target_span import TargetSpan
from act_eval.methods.temperature import Temperature
from act_eval.methods.to_first_token import ToFirstToken
from act_eval.profiles import HeadProfile
from act_eval.report.older_files import current_form
from act_eval.report.settings_text import describe_settings

pytestmark = pytest.mark.tier("model")

CASES = [
    ToOtherTokens(0.4),
    Remove(),
    Boost(1.5),
    Boost(30),
    ToFirstToken(0.2),
    Temperature(1.1),
    Temperature(0.4),
    ScaleFirstToken(0.2),
    ScaleFirstToken(5),
    MaskHead(),
]
OF_SPANS = [BiasSpan(1.5), BiasSpan(-3), TargetSpan(0.4), Pasta(0.05)]  # in whole models: test_spans.py
NOTHING = [ToOtherTokens(1), ToFirstToken(1), Temperature(1), ScaleFirstToken(1)]
NO_ARGUMENTS = {"settings", "parameters"}  # fields of ACTArguments that hold arguments
NOTHING_ON_ROWS = [*NOTHING, BiasSpan(0), Pasta(1)]


def name_of(method):
    return "-".join(map(str, [method.name, *method.parameters.values()]))


every_method = pytest.mark.parametrize("method", CASES, ids=name_of)
every_method_on_rows = pytest.mark.parametrize("method", [*CASES, *OF_SPANS], ids=name_of)


def settings_of(method, **settings):
    if method.uses_sinks:
        return CalibrationSettings(method=method, **{"threshold": 0.05, **settings})
    return CalibrationSettings(method=method)


def test_every_method_is_among_the_cases():
    of_groups = {name for name, method in available_methods().items() if issubclass(method, MethodOfGroups)}
    assert {method.name for method in (*CASES, *OF_SPANS)} == set(NAIVE) == set(available_methods()) - of_groups
    assert of_groups == {"zerotuning"}  # see test_groups_of_heads.py
    assert next(iter(available_methods())) == "act"


# --- on maps


@st.composite
def maps(draw, sum_to_one=False):
    """Rows of weights with sinks and a first token, of all sizes: float32 `[rows, k]`, bool `[k]` and `[k]`."""
    k, rows = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scores = draw(st.sampled_from([1.0, 5.0, 30.0, 80.0])) * torch.randn(rows, k, generator=generator)
    scores = scores.masked_fill(torch.rand(rows, k, generator=generator) < draw(st.sampled_from([0.0, 0.3])), -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0)
    weights[weights < 1e-30] = 0  # so that no multiple of a row has other zeros
    if not sum_to_one:
        weights = weights * (torch.rand(rows, 1, generator=generator) if draw(st.booleans()) else 1)
    sinks = torch.rand(k, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    first = torch.zeros(k, dtype=torch.bool)
    first[draw(st.integers(0, k - 1))] = draw(st.booleans()) or sum_to_one
    return weights, sinks & ~first, first


@every_method_on_rows
@given(maps())
def test_rows_equal_the_definition(method, case):
    weights, sinks, first = case
    expected = rewrite(method.name, weights.numpy(), sinks.numpy(), first.numpy(), **method.parameters)
    np.testing.assert_allclose(method.rewrite(weights, sinks, first).numpy(), expected, rtol=0, atol=1e-6)


@every_method_on_rows
@given(maps())
def test_rows_keep_their_sums(method, case):
    """Or lose all of it, where a head is switched off."""
    weights, sinks, first = case
    result = method.rewrite(weights, sinks, first)
    total = torch.zeros(len(weights)) if isinstance(method, MaskHead) else weights.sum(-1)
    torch.testing.assert_close(result.sum(-1), total, rtol=1e-5, atol=1e-6)
    assert (result >= 0).all()
    assert (result[weights == 0] == 0).all()


@every_method_on_rows
@given(maps(), st.floats(0.01, 1))
def test_rows_are_alike_up_to_a_factor(method, case, factor):
    """As learned sink logits need it: the share of a row that its keys have is a factor."""
    weights, sinks, first = case
    result = method.rewrite(weights * factor, sinks, first)
    torch.testing.assert_close(result, method.rewrite(weights, sinks, first) * factor, rtol=1e-4, atol=1e-6)


@every_method_on_rows
@given(maps(sum_to_one=True))
def test_selected_keys_and_a_factor_are_the_whole_row(method, case):
    """What `rewrite_selected` gets in a prefill, the selected keys packed together, says the same as `rewrite`."""
    if not isinstance(method, SelectiveMethod):
        return
    weights, sinks, first = case
    selected = method.selected(sinks, first)
    other_mass = weights[:, ~selected].sum(-1, keepdim=True)
    packed = torch.nn.functional.pad(weights[:, selected], (0, 2))
    is_first = torch.nn.functional.pad(first[selected], (0, 2))
    new, factor = method.rewrite_selected(packed, is_first, other_mass)
    assert (new[:, -2:] == 0).all()
    expected = method.rewrite(weights, sinks, first)
    torch.testing.assert_close(new[:, :-2], expected[:, selected])
    torch.testing.assert_close(weights[:, ~selected] * factor, expected[:, ~selected])


@pytest.mark.parametrize("method", NOTHING_ON_ROWS, ids=lambda method: method.name)
@given(maps())
def test_some_parameters_change_nothing(method, case):
    assert method.changes_nothing
    weights, sinks, first = case
    torch.testing.assert_close(method.rewrite(weights, sinks, first), weights, rtol=1e-5, atol=1e-7)


def test_remove_is_act_with_beta_0():
    weights = torch.rand(6, 9).softmax(-1)
    sinks, first = torch.arange(9) % 3 == 2, torch.arange(9) == 0
    torch.testing.assert_close(Remove().rewrite(weights, sinks, first), ToOtherTokens(0).rewrite(weights, sinks, first))


def random_prefill(n, seed):
    scores = torch.randn(3, n, n, generator=torch.Generator().manual_seed(seed)) * 2
    return scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)


@every_method
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 4)])
def test_calibrate_prefill(method, left, right):
    """Sinks are found, the first real token is the first token, and padding neither counts nor changes."""
    n, k = 14, left + 14 + right
    attention = random_prefill(n, seed=1)
    padded = torch.rand(3, k, k)
    padded[:, left : left + n] = 0
    padded[:, left : left + n, left : left + n] = attention
    valid = torch.zeros(k, dtype=torch.bool)
    valid[left : left + n] = True
    settings = settings_of(method)
    sinks = find_sinks(column_means(attention), n, settings) if method.uses_sinks else torch.zeros(3, n, dtype=torch.bool)
    expected = rewrite(method.name, attention.numpy(), sinks.numpy(), np.arange(n) == 0, **method.parameters)
    result = calibrate(padded, method=method, threshold=settings.threshold, valid=valid.expand(3, -1))
    np.testing.assert_allclose(result[:, left : left + n, left : left + n].numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(result[:, ~valid], padded[:, ~valid])
    assert np.abs(expected - attention.numpy()).max() > 0.01


@every_method
@pytest.mark.parametrize("decode", ["prefill", "row"])
def test_calibrate_decode_rows(method, decode):
    attention = random_prefill(12, seed=2)
    rows, settings = attention[:, -2:], settings_of(method, decode=decode)
    given = torch.rand(3, 10) < 0.4
    given[:, 0] = False
    if not method.uses_sinks:
        sinks = np.zeros((3, 2, 12), bool)
    elif decode == "prefill":
        sinks = np.repeat(np.pad(given.numpy(), ((0, 0), (0, 2)))[:, None], 2, axis=1)
    else:
        sinks = find_sinks(rows, torch.tensor([11, 12]), settings).numpy()
    first = np.broadcast_to(np.arange(12) == 0, sinks.shape)
    expected = rewrite(method.name, rows.numpy()[:, :, None], sinks, first, **method.parameters)[:, :, 0]
    result = calibrate(rows, method=method, threshold=settings.threshold, decode=decode, sinks=given)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)


# --- in whole models


@pytest.mark.tier("slow")
@every_method
@pytest.mark.parametrize("heads", [ALL, SOME], ids=["all", "some"])
def test_logits_equal_the_naive_reference(golden_model, method, heads):
    ids, settings = random_ids(50, seed=1, rows=2), settings_of(method)
    with naive_act(golden_model, heads, settings):
        expected = logits_of(golden_model, ids)
    assert (expected - logits_of(golden_model, ids)).abs().max() > 0.01
    torch.testing.assert_close(logits_of(golden_model, ids, act_of(settings, heads)), expected, rtol=0, atol=5e-5)


@pytest.mark.tier("slow")
@every_method
def test_logits_in_float64(gqa_model, method):
    model = copy.deepcopy(gqa_model).double()
    ids, settings = random_ids(40, seed=2), settings_of(method)
    with naive_act(model, ALL, settings):
        expected = logits_of(model, ids)
    torch.testing.assert_close(logits_of(model, ids, act_of(settings)), expected, rtol=0, atol=1e-10)


@pytest.mark.tier("slow")
@every_method
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma 2", "Gemma 4", "gpt-oss"])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_families_equal_the_naive_reference(method, name, side):
    """Prefill and new tokens on a cache, padded on either side, with sliding windows, soft caps and learned sink logits."""
    family = family_named(name)
    model, mask = family.make_model(), mask_of(side)
    settings, new = settings_of(method, threshold=0.1), () if side == "right" else (3, 1)
    heads = {layer: layer_heads[side == "left" :: 2] for layer, layer_heads in all_heads(model).items()}
    with naive_act(model, heads, settings, mask):
        expected = run(model, mask, new)
    with act_of(settings, heads)(model):
        result = run(model, mask, new)
    assert (expected[0] - run(model, mask)[0]).abs().max() > 1e-3 * expected[0].abs().max()
    for got, wanted in zip(result, expected, strict=True):
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.tier("slow")
@every_method
def test_a_batch_equals_its_rows(gqa_model, method):
    act = act_of(settings_of(method))
    lengths = (44, 31, 7)
    ids, mask = torch.full((3, 44), 77), torch.zeros(3, 44, dtype=torch.long)
    rows = [random_ids(length, seed=length)[0] for length in lengths]
    for row, tokens in enumerate(rows):
        ids[row, -len(tokens) :], mask[row, -len(tokens) :] = tokens, 1
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "output_logits": True}
    with act(gqa_model):
        together = gqa_model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)
        for row, tokens in enumerate(rows):
            alone = gqa_model.generate(tokens[None], return_dict_in_generate=True, **options)
            assert together.sequences[row, 44:].tolist() == alone.sequences[0, len(tokens) :].tolist()
            logits = torch.stack([step[row] for step in together.logits])
            torch.testing.assert_close(logits, torch.cat(alone.logits), rtol=0, atol=5e-5)


@pytest.mark.tier("slow")
@every_method
@pytest.mark.parametrize("decode", ["prefill", "row"])
def test_several_new_tokens_equal_one_at_a_time(gqa_model, method, decode):
    ids, act = random_ids(40, seed=3), act_of(settings_of(method), decode=decode)

    def decode_in_steps(step):
        with torch.no_grad(), act(gqa_model):
            output = gqa_model(ids[:, :30], use_cache=True)
            logits = [output.logits]
            for start in range(30, 40, step):
                output = gqa_model(ids[:, start : start + step], past_key_values=output.past_key_values, use_cache=True)
                logits.append(output.logits)
        return torch.cat(logits, dim=1)

    torch.testing.assert_close(decode_in_steps(1), decode_in_steps(10), rtol=0, atol=5e-5)


@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    ("method", "limits"), pairs(CASES, list(itertools.product([1e30, 0.0, 2.0], [300, 1, 2**22]))), ids=lambda value: str(value)
)
def test_neither_blocks_nor_the_form_of_the_output_matter(gqa_model, method, limits):
    limit, block = limits
    expected = prefill_and_decode(gqa_model, act_of(settings_of(method)), (30, 17))
    limits = ComputeLimits(block_elements_on_cpu=block, map_elements=0, safe_factor=limit)
    result = prefill_and_decode(gqa_model, act_of(settings_of(method), limits=limits), (30, 17))
    if limit < 1e30 or not isinstance(method, (ToOtherTokens, Remove)):
        torch.testing.assert_close(result, expected, rtol=0, atol=5e-5)
    else:  # what the limit is for: these methods lose digits without it
        assert (result - expected).abs().max() > 5e-5


@dataclass(frozen=True)
class ToLastToken(Method):
    """Somebody's own: all attention goes to the query's own token, at the share that sinks had."""

    name: ClassVar[str] = "to-last-token"
    share: float = 0.5

    def rewrite(self, attention, sinks, first_token_mask):
        freed = (attention * sinks).sum(-1, keepdim=True) * self.share
        own = (attention > 0).cumsum(-1) == (attention > 0).sum(-1, keepdim=True)
        own &= attention > 0
        return attention * (1 - self.share * sinks.to(attention.dtype)) + own * freed


def test_a_method_of_somebody_else(gqa_model):
    """The attention function needs no name: any `Method` works, with nothing registered."""
    act = ACT("all", method=ToLastToken(0.7), threshold=0.05)
    assert act.settings["method"] == "to-last-token"
    ids = random_ids(30, seed=6, rows=2)
    settings = act.calibration

    def naive(row, sinks, first_token, share):
        new = [weight * (1 - share if key in sinks else 1) for key, weight in enumerate(row)]
        last = max(key for key, weight in enumerate(row) if weight > 0)
        new[last] += share * sum(row[key] for key in sinks)
        return new

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NAIVE, "to-last-token", naive)
        with naive_act(gqa_model, ALL, settings):
            expected = logits_of(gqa_model, ids)
    torch.testing.assert_close(logits_of(gqa_model, ids, act), expected, rtol=0, atol=5e-5)
    assert (expected - logits_of(gqa_model, ids)).abs().max() > 0.01


@pytest.mark.parametrize("method", NOTHING, ids=lambda method: method.name)
def test_parameters_that_change_nothing_are_bit_identical(gqa_model, method):
    ids = random_ids(30, seed=7)
    assert torch.equal(logits_of(gqa_model, ids, ACT("all", method=method)), logits_of(gqa_model, ids))


@pytest.mark.tier("slow")
@pytest.mark.parametrize("method", [ToFirstToken(0.1), Temperature(2), Boost(4)], ids=lambda method: method.name)
@pytest.mark.parametrize("decode", ["prefill", "row"])
def test_a_search_scores_heads_exactly(gqa_model, method, decode):
    """Exact scores of single heads, from layers on and skipping heads without sinks, equal whole evaluations."""
    lm = ACTLM(pretrained=gqa_model, tokenizer=ACTLM(act_profile="none", device="cpu").tokenizer, act_profile="none")
    act = act_of(settings_of(method), {}, decode=decode)
    documents, heads = random_documents(3, 1), [(0, 2), (3, 5), (5, 0)]
    scores = evaluator(lm, act).score_heads(documents, heads)
    for place, (layer, head) in enumerate(heads):
        correct, margin = naive_scores(lm, act, documents, HeadProfile({layer: (head,)}))
        assert scores.calibrated.correct[place].tolist() == correct.tolist()
        np.testing.assert_allclose(scores.calibrated.margin[place], margin, atol=1e-4)
    assert np.abs(scores.calibrated.margin - scores.baseline.margin).max() > 1e-3


# --- shares


@given(maps(), st.floats(0, 1), st.sampled_from(["first-sink", "first-token"]))
def test_the_sinks_with_most_attention_are_calibrated(case, share, keep):
    means = case[0]
    settings = CalibrationSettings(threshold=0.02, keep=keep)
    every = find_sinks(means, means.shape[-1], settings)
    some = find_sinks(means, means.shape[-1], CalibrationSettings(threshold=0.02, keep=keep, sink_share=share))
    for row in range(len(means)):
        among = sorted(np.flatnonzero(every[row]).tolist(), key=lambda key: (-float(means[row, key]), key))
        assert np.flatnonzero(some[row]).tolist() == sorted(among[: int(share * len(among) + 0.5)])


def test_a_share_of_the_sinks_in_a_model(gqa_model):
    ids = random_ids(40, seed=8)
    logits = [logits_of(gqa_model, ids, ACT("all", threshold=0.03, sink_share=share)) for share in (0, 0.5, 1)]
    assert torch.equal(logits[0], logits_of(gqa_model, ids))
    assert torch.equal(logits[2], logits_of(gqa_model, ids, ACT("all", threshold=0.03)))
    settings = CalibrationSettings(threshold=0.03, sink_share=0.5)
    with naive_act(gqa_model, ALL, settings):
        expected = logits_of(gqa_model, ids)
    torch.testing.assert_close(logits[1], expected, rtol=0, atol=5e-5)
    assert (logits[1] - logits[2]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma 4", "gpt-oss"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_sinks_that_enough_queries_see_in_families(name, side):
    """Padded, with sliding windows shorter than the prompt, and on a cache."""
    family = family_named(name)
    model, mask, new = family.make_model(), mask_of(side), () if side == "right" else (2,)
    results = []
    for least in (1, 6):
        settings = CalibrationSettings(threshold=0.05, min_queries=least)
        with naive_act(model, all_heads(model), settings, mask):
            expected = run(model, mask, new)
        with act_of(settings, all_heads(model))(model):
            results.append(run(model, mask, new))
        for got, wanted in zip(results[-1], expected, strict=True):
            assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (results[0][0] - results[1][0]).abs().max() > 1e-3 * results[0][0].abs().max()


profiles = st.dictionaries(st.integers(0, 8), st.sets(st.integers(0, 9), min_size=1).map(tuple), max_size=6).map(HeadProfile)


@given(profiles, st.floats(0, 1), st.floats(0, 1))
def test_shares_of_heads_are_nested(profile, one, other):
    smaller, larger = (profile.share(share) for share in sorted((one, other)))
    assert smaller.size == int(min(one, other) * profile.size + 0.5)
    for layer, heads in smaller.heads.items():
        assert set(heads) <= set(larger.heads[layer]) <= set(profile.heads[layer])


def test_the_best_heads_come_first():
    scores = {"0:1": 0.1, "0:2": -0.3, "3:0": 0.7, "3:5": 0.2}
    alone = {name: {"accuracy_change": 0.0, "margin_change": change} for name, change in scores.items()}
    profile = HeadProfile({0: (1, 2), 3: (0, 5)}, provenance={"heads_alone": alone})
    assert [profile.share(share).heads for share in (0.25, 0.5, 0.75)] == [{3: (0,)}, {3: (0, 5)}, {0: (1,), 3: (0, 5)}]
    for damaged in (None, [], {"0:1": None}, {**alone, "3:0": {"margin_change": "x"}}):
        assert HeadProfile(profile.heads, provenance={"heads_alone": damaged}).share(0.5).size == 2


def test_a_share_of_the_heads_of_the_model():
    lm = ACTLM(act_profile="all", act_head_share=0.25, device="cpu")
    assert lm.profile.size == 8
    assert lm.get_model_info()["act"]["num_heads"] == 8
    lm.set_act(ACTArguments("all"))
    assert lm.profile.size == 32


# --- what users meet


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"act_method": "louder"}, "no method 'louder': choose one of act, bias-span, boost"),
        ({"act_method": None}, "no method None"),
        ({"act_method": 3}, "no method 3"),
        ({"act_beta": 1.5}, r"beta is 1.5, but for the method act it is .* in \[0, 1\]"),
        ({"act_beta": -0.1}, "beta is -0.1"),
        ({"act_beta": "x"}, r"beta is 'x', but .*: give a number in \[0, 1\]"),
        ({"act_beta": True}, r"beta is True, but .*: give a number in \[0, 1\]"),
        ({"act_beta": float("nan")}, "beta is nan"),
        ({"act_method": "boost", "act_beta": 1}, "beta is 1, .* above 1 and at most 1000"),
        ({"act_method": "boost", "act_beta": 10**400}, "beta is"),
        ({"act_method": "to-first-token", "act_beta": 2}, "beta is 2"),
        (
            {"act_method": "remove", "act_beta": 0},
            "remove takes no parameters, so no beta, which belongs to act, boost.*: leave beta out",
        ),
        ({"act_method": "temperature", "act_theta": 0}, "theta is 0"),
        ({"act_method": "temperature", "act_gamma": 2}, "temperature takes theta, not gamma"),
        ({"act_method": "scale-first-token"}, "needs gamma"),
        ({"act_method": "scale-first-token", "act_gamma": 0}, "gamma is 0"),
        ({"act_method": "temperature", "act_alpha": 5}, "alpha is about attention sinks, which the method temperature"),
        ({"act_method": "temperature", "act_threshold": 0.1}, "threshold is about"),
        ({"act_method": "temperature", "act_sink_share": 0.5}, "sink_share is about"),
        ({"act_method": "to-first-token", "act_decode": "official"}, "decode=official .*: choose decode prefill or row"),
        ({"act_sink_share": 1.2}, "sink_share is 1.2"),
        ({"act_sink_share": None}, r"sink_share is None, but it is a share of the sinks: give a number in \[0, 1\]"),
        ({"act_threshold": 1}, r"threshold is 1, but it is the mean attention weight .*: give a number in \[0, 1\)"),
        ({"act_threshold": "x"}, r"threshold is 'x', but .*: give a number in \[0, 1\)"),
        ({"act_threshold": True}, r"threshold is True, but .*: give a number in \[0, 1\)"),
        ({"act_threshold": float("nan")}, r"threshold is nan, but .*: give a number in \[0, 1\)"),
        ({"act_alpha": 0}, "alpha is 0, but it is the multiple of 1 / n .*: give a finite number above 0"),
        ({"act_alpha": float("inf")}, "alpha is inf, but .*: give a finite number above 0"),
        ({"act_alpha": "x"}, "alpha is 'x', but .*: give a finite number above 0"),
        ({"act_head_share": -1}, "head_share is -1"),
        ({"act_head_share": "half"}, "head_share is 'half'"),
        ({"act_head_share": float("nan")}, r"head_share is nan, .*: give a number in \[0, 1\]"),
        ({"act_head_share": 0.01}, "head_share is 0.01, which is no head of a profile that has 32: ask for a greater share"),
        ({"act_heads": 2}, "no argument 'act_heads': choose among .*act_beta.*act_gamma"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(monkeypatch, arguments, culprit):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=culprit) as error:
        ACTLM(act_profile="all", **arguments)
    assert "\n" not in str(error.value)


def test_a_method_object_keeps_its_parameters():
    assert make_method(Boost(3), {}) == Boost(3)
    assert make_method(Boost(3), {"beta": 2}) == Boost(2)
    assert ACT("all", method=Temperature(1.3)).calibration.method == Temperature(1.3)
    assert ACT("all", method="boost", beta=2.5).beta == 2.5
    assert ACT("all", method="temperature").beta is None
    assert ACT("all").beta == 0.4


@every_method
def test_settings_in_results(method):
    """All that results say of the settings is there to read again, and the line that names them differs where they differ."""
    arguments = ACTArguments("all", settings={"method": method.name}, parameters=method.parameters)
    assert ACTArguments.from_model_args(arguments.model_args).model_args == arguments.model_args
    lm = ACTLM(**arguments.model_args, device="cpu")
    act = lm.get_model_info()["act"]
    assert act["method"] == method.name
    assert current_form(act)["parameters"] == method.parameters
    assert act["changes_nothing"] is False
    described = describe_settings(act)
    parameters = [f"{name} {value:g}" for name, value in method.parameters.items()]
    sinks = ["threshold 0.1"] if method.uses_sinks else []
    name = [] if method.name == "act" else [method.name]
    assert described == ", ".join(["all (32 heads)", *name, *parameters, *sinks])


def test_settings_of_shares():
    act = ACTLM(act_profile="all", act_sink_share=0.4, act_alpha=5, device="cpu").get_model_info()["act"]
    assert describe_settings(act) == "all (32 heads), beta 0.4, alpha 5, 40% of sinks"
    nothing = ACTLM(act_profile="all", act_sink_share=0, device="cpu").get_model_info()["act"]
    assert describe_settings(nothing) == "baseline"


@pytest.mark.parametrize(
    ("arguments", "backend"),
    [({}, "sdpa"), ({"attn_implementation": "eager"}, "eager"), ({"act_base": "eager"}, "eager")],
)
def test_results_say_on_which_attention_backend_a_model_ran(arguments, backend):
    for profile in ("all", "none"):
        act = ACTLM(act_profile=profile, device="cpu", **arguments).get_model_info()["act"]
        assert act["attention"] == backend
        text = "all (32 heads), beta 0.4, threshold 0.1" + (", base eager" if "act_base" in arguments else "")
        assert describe_settings(act) == ("baseline" if profile == "none" else text)


def test_results_of_before_there_were_available_methods():
    act = {"beta": 0.4, "threshold": 0.1, "alpha": None, "keep": "first-sink", "decode": "prefill", "base": None}
    act |= {"profile": "all", "profile_hash": "0", "num_heads": 32, "heads": {}}
    assert describe_settings(act) == "all (32 heads), beta 0.4, threshold 0.1"
    assert describe_settings({**act, "beta": 1}) == "baseline"


def test_no_parameter_is_called_like_a_setting():
    """Settings and parameters lie side by side in results and model arguments."""
    settings = set(ACTLM(act_profile="none", device="cpu").get_model_info()["act"]) - {"beta"}
    settings |= {name.removeprefix("act_") for name in ACTArguments.__dataclass_fields__}
    for method in available_methods().values():
        assert not settings & {field.name for field in fields(method)}


def with_parameter(name, value=2.0):
    """A method of somebody else with one parameter."""
    body = {"name": "mine", "rewrite": lambda self, attention, *_: attention}
    return make_dataclass("Mine", [(name, float, value)], bases=(Method,), namespace=body, frozen=True)()


@pytest.mark.parametrize("name", sorted({*ACT.setting_names(), *(field.name for field in fields(ACTArguments))} - NO_ARGUMENTS))
def test_a_parameter_called_like_a_setting_is_refused(name):
    """`act_alpha` would be the setting's, and the method's own would be missing in results."""
    with pytest.raises(InputError, match=f"the method mine has a parameter {name}, .*: rename the field of Mine"):
        ACT("all", method=with_parameter(name))


@pytest.mark.parametrize("value", [True, "two", None, (1, 2)])
def test_a_parameter_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match=r"share is .*, but parameters of methods are numbers"):
        CalibrationSettings(method=with_parameter("share", value))


def test_first_token_mask_of_padding():
    valid = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    first = first_token_mask(valid.shape, valid, valid.device)
    assert first.tolist() == [[False, True, False], [True, False, False], [False] * 3]
