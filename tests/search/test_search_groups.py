"""Searches for methods with groups of heads, and by accuracy or entropy."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from act_eval.attention.act import ACT
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.methods.scale_first_token import ScaleFirstToken
from act_eval.profiles import HeadProfile
from act_eval.search.documents import CalibrationDocument
from act_eval.search.groups import Division, divide
from act_eval.search.objective import LabelPriors
from act_eval.search.plan import plan_search
from act_eval.search.run import run_search
from act_eval.search.scores import Scores
from act_eval.search.selection import ranked_candidates
from act_eval.search.settings import SearchSettings

pytestmark = pytest.mark.tier("model")

DOCUMENTS = [
    CalibrationDocument("a", tuple(((1, 2), (3 + choice,)) for choice in range(choices)), (0,)) for choices in (2, 3, 4, 2)
]


def settings_of(method, **search):
    model = ModelSettings({"act_method": method, "dtype": "float32", **search.pop("model_args", {})}, "cpu", 16)
    prompts = PromptSettings(("demo_topic",), limit=search.pop("limit", 6))
    return SearchSettings(model, prompts, **{"layers": "2", "mode": "exact", **search})


def log_probs(seed=0):
    values = np.full((4, len(DOCUMENTS)), np.nan)
    for number, document in enumerate(DOCUMENTS):
        values[: len(document.requests), number] = np.random.default_rng(seed + number).normal(-3, 1.5, len(document.requests))
    return values


def entropies(values):
    return [-sum(p * np.log(p) for p in softmax(column[~np.isnan(column)])) for column in values.T]


class TestEntropy:
    def test_of_the_choices_in_place_of_the_margin(self):
        priors = LabelPriors.of_search("entropy", DOCUMENTS)
        values = log_probs()
        scores = priors.correct(DOCUMENTS, Scores(np.array([True, False, True, False]), np.zeros(4), values))
        np.testing.assert_allclose(scores.margin, [-entropy for entropy in entropies(values)])
        assert scores.correct.tolist() == [True, False, True, False]
        assert not priors.uses_labels

    def test_of_several_sets_at_once_and_of_sure_answers(self):
        values = np.stack([log_probs(), log_probs(7)])
        values[0, :2, 0] = 0, -1000
        scores = Scores(np.zeros((2, 4), bool), np.zeros((2, 4)), values)
        margin = LabelPriors.of_search("entropy", DOCUMENTS).correct(DOCUMENTS, scores).margin
        assert margin[0, 0] == 0
        np.testing.assert_allclose(margin[1], [-entropy for entropy in entropies(values[1])])

    def test_slopes_are_its_derivative(self):
        values, step = log_probs(), 1e-6
        slopes = LabelPriors.of_search("entropy", DOCUMENTS).slopes(DOCUMENTS, values)
        for number, document in enumerate(DOCUMENTS):
            for choice in range(len(document.requests)):
                moved = [values.copy(), values.copy()]
                moved[0][choice, number] -= step
                moved[1][choice, number] += step
                before, after = (-entropies(of_moved)[number] for of_moved in moved)
                assert slopes[number][choice] == pytest.approx((after - before) / (2 * step), abs=1e-6)

    @pytest.mark.filterwarnings("error")
    def test_a_choice_without_any_probability_counts_nothing(self):
        priors, values = LabelPriors.of_search("entropy", DOCUMENTS), log_probs()
        values[1, 1:3] = -np.inf
        expected = [-entropy for entropy in entropies(np.where(np.isneginf(values), np.nan, values))]
        margin = priors.correct(DOCUMENTS, Scores(np.zeros(4, bool), np.zeros(4), values)).margin
        np.testing.assert_allclose(margin, expected)
        slopes = priors.slopes(DOCUMENTS, values)
        assert slopes[1][1] == slopes[2][1] == 0
        assert all(np.isfinite(of_document).all() for of_document in slopes)

    def test_a_document_without_any_probability_has_no_entropy(self):
        values = log_probs()
        values[:2, 0] = -np.inf
        with np.errstate(invalid="ignore"):
            scores = LabelPriors.of_search("entropy", DOCUMENTS).correct(
                DOCUMENTS, Scores(np.zeros(4, bool), np.zeros(4), values)
            )
        assert np.isnan(scores.margin).tolist() == [True, False, False, False]

    def test_documents_without_choices_are_refused(self):
        with pytest.raises(InputError, match="documents of words have none"):
            LabelPriors.of_search("entropy", [*DOCUMENTS, CalibrationDocument("words", (((1,), (2,)),), ())])


@pytest.mark.parametrize(
    ("search", "culprit"),
    [
        ({"objective": "accuracy", "mode": "estimated"}, "objective accuracy goes by exact scores"),
        ({"objective": "entropy", "selection": "improving"}, "objective entropy does without labels"),
        ({"objective": "loss"}, "objective 'loss' is unknown: choose one of margin, corrected-margin, accuracy, entropy"),
    ],
)
def test_objectives_that_do_not_go_together(search, culprit):
    with pytest.raises(InputError, match=culprit):
        settings_of("act", **search)


def table(values, documents=10):
    return pd.DataFrame(
        [{"layer": 0, "head": head, "documents": documents, "accuracy_change": accuracy, "margin_change": margin}
         for head, (accuracy, margin) in enumerate(values)]
    )  # fmt: skip


def test_each_head_belongs_where_it_does_best():
    more, less = table([(0.1, 0.5), (0.2, -0.1), (0.0, 0.0)]), table([(0.2, 0.4), (0.2, 0.1), (0.0, 0.0)])
    by_margin, part_of = divide([more, less], "margin")
    assert part_of == {(0, 0): 0, (0, 1): 1, (0, 2): 0}
    assert by_margin["margin_change"].tolist() == [0.5, 0.1, 0.0]
    assert divide([more, less], "accuracy")[1] == {(0, 0): 1, (0, 1): 1, (0, 2): 0}
    less.loc[1, "documents"] = 4  # dropped by an earlier round
    assert divide([more, less], "margin")[1][0, 1] == 0
    assert ranked_candidates(by_margin, 10, "validated", None, "accuracy") == [(0, 1), (0, 0)]
    assert ranked_candidates(by_margin, 10, "validated", None) == [(0, 0), (0, 1)]


def test_a_division_says_what_is_done_in_each_group():
    method = ACT("all", method="zerotuning").method
    profile = Division(method, {(1, 0): 0, (1, 2): 1, (2, 3): 1}).profile([(1, 0), (2, 3), (1, 2)])
    assert [(group.method, group.parameters, group.heads) for group in profile.groups] == [
        ("scale-first-token", {"gamma": 2.0}, {1: (0,)}),
        ("scale-first-token", {"gamma": 0.5}, {1: (2,), 2: (3,)}),
    ]


@pytest.mark.parametrize(("mode", "objective"), [("exact", "accuracy"), ("exact", "entropy"), ("estimated", "margin")])
def test_zerotuning(tmp_path, mode, objective):
    """Heads are divided as two searches, one up and one down, measure them; gammas are of the grid; the profile says it all."""
    search = {"mode": mode, "objective": objective, "selection": "top-k", "k": 5}
    result = run_search(settings_of("zerotuning", **search), tmp_path / "both")
    alone = [
        run_search(settings_of("scale-first-token", model_args={"act_gamma": gamma}, **search), tmp_path / f"{gamma}").heads
        for gamma in (2.0, 0.5)
    ]
    if mode == "exact":
        by = ["accuracy_change", "margin_change"] if objective == "accuracy" else ["margin_change"]
        for row in range(len(result.heads)):
            values = [tuple(of_gamma[by].iloc[row]) for of_gamma in alone]
            assert tuple(result.heads[by].iloc[row]) == pytest.approx(max(values), abs=1e-9)
            if values[0] != values[1]:
                assert result.heads["group"][row] == (0 if values[0] > values[1] else 1)
    assert set(result.heads["group"]) <= {0, 1}
    assert result.profile.size == 5
    up, down = (group.parameters["gamma"] for group in result.profile.groups)
    assert up in (1.25, 1.5, 2, 3, 5)
    assert down in (0.8, 0.65, 0.5, 0.35, 0.2)
    assert result.profile.provenance["tuned"].keys() == {"gamma_up", "gamma_down"}
    assert result.profile.settings["gamma_up"] == up
    loaded = ACTArguments(str(tmp_path / "both" / "profile.json"))
    assert loaded.calibration.method.parts == (ScaleFirstToken(up), ScaleFirstToken(down))
    asked = {"act_method": "zerotuning", "act_gamma_up": 7, "pretrained": "x"}
    assert ACTArguments.with_profile(asked, str(tmp_path / "both" / "profile.json")).calibration == loaded.calibration
    again = run_search(settings_of("zerotuning", **search), tmp_path / "both")
    assert again.profile == result.profile


@pytest.mark.parametrize("objective", ["margin", "entropy"])
@pytest.mark.parametrize("limit", [6, 11, 40])
def test_tuning_costs_what_is_said_at_most(tmp_path, objective, limit):
    """Documents that parameters are tried on may be longer than others."""
    search = settings_of("zerotuning", mode="estimated", objective=objective, selection="top-k", k=3, limit=limit)
    result = run_search(search, tmp_path)
    assert 0 < result.full_passes["total"] <= plan_search(search).costs.total + 1e-9


def test_given_parameters_stay(tmp_path):
    search = settings_of("zerotuning", model_args={"act_gamma_up": 4}, selection="validated", limit=12)
    assert search.tuned.keys() == {"gamma_down"}
    result = run_search(search, tmp_path)
    assert result.profile.settings["gamma_up"] == 4
    assert len(result.head_sets) > 1
    assert HeadProfile.load(tmp_path / "profile.json") == result.profile


def test_nothing_is_tuned_for_most_methods():
    assert settings_of("act").tuned == {}
    assert settings_of("act+mask-head").tuned == {}


@pytest.mark.parametrize("mode", ["exact", "screened", "estimated"])
def test_a_part_of_prompts_is_known_to_the_model_that_scores_them(tmp_path, mode):
    """Documents are encoded before weights are loaded, by another object than the one that scores them."""
    settings = settings_of("bias-span", model_args={"act_bias": 3, "act_span": "question"}, mode=mode, selection="top-k", k=1)
    result = run_search(settings, tmp_path / mode)
    of_heads = result.heads[{"estimated": "estimate"}.get(mode, "margin_change")]
    assert of_heads.abs().max() > 0
