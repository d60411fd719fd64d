"""A method per group of heads: in whole models, in what users write, and in results."""

import json

import pytest
import torch
from helpers.family_runs import family_named, mask_of, run
from helpers.models import log_prob_token_by_token, logits_of, random_ids
from helpers.reference import naive_act

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings, calibrate
from act_eval.attention.model_structure import model_shape
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.boost import Boost
from act_eval.methods.mask_head import MaskHead
from act_eval.methods.per_head_group import PerHeadGroup
from act_eval.methods.registry import make_method
from act_eval.methods.scale_first_token import ScaleFirstToken
from act_eval.methods.temperature import Temperature
from act_eval.methods.zerotuning import ZeroTuning
from act_eval.profiles import HeadGroup, HeadProfile, ProfileError
from act_eval.report.settings_text import describe_settings
from act_eval.study.controls import random_profiles
from act_eval.sweep.grid import Axis, points

pytestmark = pytest.mark.tier("model")

CASES = [
    PerHeadGroup((ToOtherTokens(0.2), MaskHead())),
    ZeroTuning(3, 0.2),
    PerHeadGroup((ToOtherTokens(0.2), Boost(4), Temperature(2))),
]


def divided(model, parts):
    """All heads of a model but the first, dealt out to groups: heads by layer, for each group."""
    layers, heads = model_shape(model.config)
    return [{layer: tuple(range(1 + part, heads, parts)) for layer in range(layers)} for part in range(parts)]


@pytest.mark.parametrize("method", CASES, ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "gpt-oss"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_groups_equal_naive_methods_one_above_the_other(method, name, side):
    """Prefill and new tokens on a cache, padded, with windows, soft caps and learned sink logits."""
    family = family_named(name)
    model, mask, new = family.make_model(), mask_of(side), () if side == "right" else (3, 1)
    groups = divided(model, len(method.parts))
    settings = CalibrationSettings(method=method, threshold=0.1 if method.uses_sinks else None)

    def naive(number):
        if number == len(groups):
            return run(model, mask, new)
        with naive_act(model, groups[number], settings.of_groups[number], mask):
            return naive(number + 1)

    expected = naive(0)
    profile = HeadProfile.of_groups(HeadGroup(heads) for heads in groups)
    with ACT(profile, method=method, threshold=settings.threshold)(model):
        result = run(model, mask, new)
    assert (expected[0] - run(model, mask)[0]).abs().max() > 1e-3 * expected[0].abs().max()
    for got, wanted in zip(result, expected, strict=True):
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_one_method_in_all_groups_is_that_method(gqa_model):
    ids, profile = (
        random_ids(40, seed=1, rows=2),
        HeadProfile.of_groups([HeadGroup({1: (0, 3)}), HeadGroup({1: (2,), 4: (5,)})]),
    )
    alone = logits_of(gqa_model, ids, ACT(profile, threshold=0.05))
    twice = logits_of(gqa_model, ids, ACT(profile, method=PerHeadGroup((ToOtherTokens(), ToOtherTokens())), threshold=0.05))
    torch.testing.assert_close(twice, alone, rtol=0, atol=5e-5)
    assert (alone - logits_of(gqa_model, ids)).abs().max() > 0.01


def test_a_batch_equals_its_rows_and_beams(gqa_model):
    profile = HeadProfile.of_groups(HeadGroup(heads) for heads in divided(gqa_model, 2))
    act, ids = (
        ACT(profile, method=PerHeadGroup((ToOtherTokens(0.2), ScaleFirstToken(3))), threshold=0.05),
        random_ids(30, seed=4, rows=2),
    )
    options = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with act(gqa_model):
        together = gqa_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        alone = [gqa_model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options) for row in ids]
    assert together.tolist() == [row.tolist()[0] for row in alone]


def test_scores_are_those_of_token_by_token():
    """Through act-hf, packed, with continuations of several tokens."""
    arguments = {"act_profile": "1:0+2;2:1|2:0;3:3", "act_method": "act+mask-head", "act_alpha": 3}
    lm, plain = (ACTLM(**given, dtype="float32", device="cpu") for given in (arguments, {"act_profile": "none"}))
    context, continuation = tuple(lm.tok_encode("The quick brown fox jumps over")), tuple(lm.tok_encode(" the lazy dog"))
    ((score, _),) = lm._loglikelihood_tokens([(None, context, continuation)], disable_tqdm=True)
    with torch.no_grad(), lm.act(lm.model):
        total = log_prob_token_by_token(lm.model, context, continuation)
    assert score == pytest.approx(total, abs=5e-5)
    ((without, _),) = plain._loglikelihood_tokens([(None, context, continuation)], disable_tqdm=True)
    assert abs(score - without) > 1e-3


def test_parameters_side_by_side():
    two = make_method("scale-first-token+scale-first-token", {"gamma": "2+0.5"})
    assert two == PerHeadGroup((ScaleFirstToken(2), ScaleFirstToken(0.5)))
    assert two.parameters == {"gamma": "2+0.5"}
    assert make_method(two, {"gamma": 3}) == PerHeadGroup((ScaleFirstToken(3), ScaleFirstToken(3)))
    mixed = make_method("act+mask-head", {"beta": 0.1})
    assert mixed == PerHeadGroup((ToOtherTokens(0.1), MaskHead()))
    assert mixed.parameters == {"beta": 0.1}
    assert CalibrationSettings(method=mixed, alpha=5).text == "act+mask-head, beta 0.1, alpha 5"
    assert [settings.alpha for settings in CalibrationSettings(method=mixed, alpha=5).of_groups] == [5, None]


def test_what_changes_nothing():
    assert CalibrationSettings(method=PerHeadGroup((ToOtherTokens(1), Temperature(1)))).changes_nothing
    assert not CalibrationSettings(method=PerHeadGroup((ToOtherTokens(1), MaskHead()))).changes_nothing
    assert not CalibrationSettings(method=PerHeadGroup((ToOtherTokens(0.4), MaskHead())), sink_share=0).changes_nothing
    assert CalibrationSettings(method=PerHeadGroup((ToOtherTokens(0.4), Boost(2))), sink_share=0).changes_nothing


def test_a_profile_says_what_is_done_in_its_groups(tmp_path):
    file = tmp_path / "groups.json"
    groups = [HeadGroup({1: (0,)}, "scale-first-token", {"gamma": 2}), HeadGroup({2: (1, 2)}, "mask-head")]
    HeadProfile.of_groups(groups).save(file)
    arguments = ACTArguments(str(file))
    assert arguments.calibration.method == PerHeadGroup((ScaleFirstToken(2), MaskHead()))
    assert ACTArguments(str(file), parameters={"gamma": 3}).calibration.method.parts[0] == ScaleFirstToken(3)
    assert ACTArguments(str(file), settings={"method": "mask-head"}).calibration.method == MaskHead()
    assert ACTArguments.from_model_args(arguments.model_args).model_args == arguments.model_args
    lm = ACTLM(act_profile=str(file), device="cpu")
    recorded = lm.get_model_info()["act"]
    assert recorded["method"] == "scale-first-token+mask-head"
    assert recorded["parameters"] == {"gamma": 2}
    assert recorded["groups"] == [{"1": [0]}, {"2": [1, 2]}]
    assert json.loads(json.dumps(recorded)) == recorded
    assert describe_settings(recorded).endswith("(3 heads), scale-first-token+mask-head, gamma 2")


class TestInPython:
    """`ACT` does what a profile says is to be done in its heads, as the command line does."""

    GROUPS = (HeadGroup({1: (0,)}, "scale-first-token", {"gamma": 2}), HeadGroup({2: (1,)}, "mask-head"))

    @pytest.mark.parametrize("groups", [GROUPS, GROUPS[:1]])
    @pytest.mark.parametrize("of", ["file", "profile", "rows"])
    def test_equals_the_methods_themselves(self, gqa_model, tmp_path, groups, of):
        profile, file = HeadProfile.of_groups(groups), tmp_path / "profile.json"
        profile.save(file)
        methods = (ScaleFirstToken(2), MaskHead())
        method = PerHeadGroup(methods) if len(groups) > 1 else methods[0]
        by_itself = ACT({"file": str(file), "profile": profile, "rows": [profile]}[of])
        ids = random_ids(2, 12)
        assert by_itself.method == method
        assert ACTArguments(str(file)).calibration.method == method
        torch.testing.assert_close(
            logits_of(gqa_model, ids, by_itself), logits_of(gqa_model, ids, ACT(profile, method=method)), rtol=0, atol=0
        )

    def test_a_method_that_is_given_goes_before(self):
        assert ACT(HeadProfile.of_groups(self.GROUPS), method="act+boost").method.name == "act+boost"
        assert ACT(HeadProfile.of_groups(self.GROUPS[:1]), method=Temperature(2)).method == Temperature(2)

    def test_rows_that_disagree(self):
        profiles = [HeadProfile.of_groups(self.GROUPS[:1]), HeadProfile({1: (0,)})]
        with pytest.raises(InputError, match="profiles of rows name different methods"):
            ACT(profiles)
        assert ACT(profiles, method="act").method == ToOtherTokens()


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ({}, {"method": "act", "beta": 0.4, "threshold": None, "alpha": 5, "min_queries": 2}, "act_alpha=5, act_min_queries=2"),
        ({"act_alpha": 3}, {"method": "act", "alpha": 5, "threshold": None, "min_queries": 1}, ""),
        ({"act_threshold": 0.2}, {"method": "act", "alpha": 5, "beta": 0.1}, "act_beta=0.1"),
        ({"act_beta": 0.3, "act_alpha": 5}, {"method": "act", "alpha": 5, "beta": 0.1, "base": "eager"}, ""),
        ({}, {"method": "temperature", "theta": 1.1, "alpha": None}, "act_method=temperature"),
        ({"act_method": "zerotuning"}, {"method": "zerotuning", "gamma_up": 5.0, "gamma_down": 0.5}, "act_gamma_up=5.0"),
        ({"act_method": "mask-head"}, {"method": "act", "alpha": 5, "beta": 0.2}, ""),
        ({}, {}, ""),
    ],
)
def test_what_was_found_otherwise_and_is_not_repeated(tmp_path, given, settings, expected):
    file = tmp_path / "profile.json"
    HeadProfile({1: (0,)}, settings=settings).save(file)
    assert ACTArguments.from_model_args({**given, "act_profile": str(file)}).not_repeated == expected


def test_what_a_profile_says_itself_is_repeated():
    groups = (HeadGroup({1: (0,)}, "act", {"beta": 0}), HeadGroup({2: (1,)}, "mask-head"))
    found = {"method": "act+mask-head", "beta": 0, "alpha": 3, "gamma_up": 2}
    assert ACTArguments(HeadProfile.of_groups(groups, settings=found)).not_repeated == "act_alpha=3"
    found = {"method": "zerotuning", "gamma_up": 5, "gamma_down": 0.5}  # whose groups have methods by another name
    assert ACTArguments(HeadProfile.of_groups(groups, settings=found)).not_repeated == ""


def test_a_run_says_once_what_it_does_not_repeat(tmp_path, caplog):
    file = tmp_path / "profile.json"
    HeadProfile({1: (0,)}, settings={"method": "act", "alpha": 5}).save(file)
    lm = ACTLM(act_profile=str(file))
    lm.set_act(ACTArguments("none"))
    lm.set_act(ACTArguments(str(file)))
    said = [record.getMessage() for record in caplog.records if "were found with" in record.getMessage()]
    assert len(said) == 1
    assert f"The heads of {file} were found with act_alpha=5" in said[0]


def test_a_profile_that_is_not_there_yet():
    """As those of random heads, which a study names before it writes them."""
    more, less = (HeadGroup({layer: (0,)}, "scale-first-token", {"gamma": gamma}) for layer, gamma in ((1, 3), (2, 0.2)))
    asked = {"pretrained": "x", "act_method": "zerotuning", "act_gamma_up": 7}
    arguments = ACTArguments.with_profile(asked, "later.json", HeadProfile.of_groups([more, less]))
    assert arguments.profile == "later.json"
    assert arguments.calibration.method.parts == (ScaleFirstToken(3), ScaleFirstToken(0.2))
    assert ACTArguments.from_model_args(arguments.model_args).calibration == arguments.calibration
    assert ACTArguments.with_profile(asked, "1:0|2:0").calibration.method == ZeroTuning(7)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (
            {"act_method": "act+louder"},
            "there is no method 'louder', which 'act\\+louder' names: choose one of act, bias-span, boost",
        ),
        ({"act_method": "act+mask-head"}, "needs 2 groups of heads, .* does not divide its heads into groups"),
        ({"act_method": "act+mask-head", "act_profile": "1:0|2:0|3:0"}, "needs 2 groups of heads, .* has 3 groups"),
        ({"act_profile": "1:0|2:0"}, "has groups of heads, but act is one method: name one for each group"),
        ({"act_profile": "1:0|1:0", "act_method": "act+remove"}, "head 0 of layer 1 is in group 2"),
        ({"act_method": "act+mask-head", "act_profile": "1:0|2:0", "act_gamma": 2}, "none of the methods .* takes gamma"),
        (
            {"act_method": "act+mask-head", "act_profile": "1:0|2:0", "act_beta": "0.1+0.2"},
            "has 2 values, but 1 of the methods takes it",
        ),
        ({"act_method": "act+boost", "act_profile": "1:0|2:0", "act_beta": "0.1+x"}, "beta is 'x'"),
        ({"act_method": "zerotuning"}, "zerotuning needs 2 groups of heads"),
        ({"act_method": "zerotuning", "act_profile": "1:0|2:0", "act_gamma_up": 0.5}, r"gamma_up is 0.5, .* in \[1, 1000\]"),
        ({"act_method": "zerotuning", "act_profile": "1:0|2:0", "act_gamma_down": 2}, r"gamma_down is 2, .* in \[0.001, 1\]"),
        ({"act_method": "zerotuning", "act_profile": "1:0|2:0", "act_alpha": 5}, "alpha is about attention sinks"),
        ({"act_method": "zerotuning+act", "act_profile": "1:0|2:0"}, "none of which has groups itself"),
        ({"act_method": "act+act", "act_profile": "1:0|2:0", "act_decode": "official"}, "published code, which has no method"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(monkeypatch, arguments, culprit):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=culprit) as error:
        ACTLM(**{"act_profile": "all", **arguments})
    assert "\n" not in str(error.value)


def test_where_one_method_is_needed(gqa_model):
    with pytest.raises(InputError, match="take one of its methods"):
        calibrate(torch.eye(3), method="act+mask-head")
    with pytest.raises(InputError, match="two methods or more"):
        PerHeadGroup((MaskHead(),))
    with pytest.raises(InputError, match="two methods or more"):
        PerHeadGroup((MaskHead(), PerHeadGroup((MaskHead(), MaskHead()))))
    act = ACT(HeadProfile({1: (0,)}), method="act+mask-head")
    with pytest.raises(ProfileError, match="does not divide"), act(gqa_model):
        pass


def test_in_a_sweep():
    axes = [Axis("method", ("act+mask-head", "act+temperature")), Axis("theta", (1.1, 2))]
    grid = points({"act_profile": "1:0|2:1", "act_alpha": 5}, axes)
    assert [point.label for point in grid] == ["act+mask-head", "act+temperature, theta 1.1", "act+temperature, theta 2"]


def test_random_heads_are_divided_alike():
    groups = [HeadGroup({0: (1, 2), 3: (0,)}, "remove"), HeadGroup({0: (0,)}, "mask-head")]
    found = HeadProfile.of_groups(groups, num_layers=4, num_heads=8)
    drawn = random_profiles(found, 3, seed=1)
    assert len(drawn) == 3
    for profile in drawn:
        assert [group.method for group in profile.groups] == ["remove", "mask-head"]
        assert [{layer: len(heads) for layer, heads in group.heads.items()} for group in profile.groups] == [
            {0: 2, 3: 1},
            {0: 1},
        ]
