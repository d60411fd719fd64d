"""Parts of prompts: in whole models, in the text of prompts, and through lm-eval's tasks."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from helpers.family_runs import all_heads, family_named, mask_of, run
from helpers.models import ALL, log_prob_token_by_token, logits_of, random_ids
from helpers.naive_methods import rewrite
from helpers.reference import naive_act
from lm_eval.api.instance import Instance

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings, calibrate
from act_eval.attention.spans import span_tokens
from act_eval.errors import InputError
from act_eval.harness import prompt_parts
from act_eval.harness.asked_tasks import load_asked_tasks
from act_eval.harness.documents import render
from act_eval.harness.lm import ACTLM
from act_eval.harness.prompt_parts import PromptParts, TaskParts, find_part
from act_eval.harness.requests import RequestError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.methods.act import ToOtherTokens
from act_eval.methods.bias_span import BiasSpan
from act_eval.methods.pasta import Pasta
from act_eval.methods.per_head_group import PerHeadGroup
from act_eval.methods.target_span import TargetSpan
from act_eval.profiles import HeadGroup, HeadProfile

pytestmark = pytest.mark.tier("model")

CASES = [BiasSpan(1.5), BiasSpan(-3), TargetSpan(0.4), Pasta(0.05)]
every_method = pytest.mark.parametrize(
    "method", CASES, ids=lambda method: "-".join(map(str, [method.name, *method.parameters.values()]))
)


def some_tokens(mask):
    """A part of each row, none of it padding: bool `[rows, n]`."""
    real = mask.bool()
    place = real.cumsum(-1) - 1
    return real & (place >= 4) & (place < 9 + torch.arange(len(mask))[:, None])


# --- on maps and in whole models


@every_method
@pytest.mark.parametrize("decode", [False, True])
def test_calibrate(method, decode):
    scores = torch.randn(3, 14, 14, generator=torch.Generator().manual_seed(1)) * 2
    attention = scores.masked_fill(torch.ones(14, 14).triu(1).bool(), -torch.inf).softmax(-1)
    attention = attention[:, -2:] if decode else attention
    span = torch.zeros(3, 12, dtype=torch.bool)
    span[:, 3:6] = True
    expected = rewrite(method.name, attention.numpy(), np.pad(span, ((0, 0), (0, 2))), np.arange(14) == 0, **method.parameters)
    result = calibrate(attention, method=method, sinks=span)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="pass its tokens as `sinks`"):
        calibrate(attention, method=method)


@every_method
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma 2", "gpt-oss"])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_families_equal_the_naive_reference(method, name, side):
    """Prefill and new tokens on a cache, padded on either side, with sliding windows, soft caps and learned sink logits."""
    family = family_named(name)
    model, mask = family.make_model(), mask_of(side)
    span, new = some_tokens(mask), () if side == "right" else (3, 1)
    heads = {layer: layer_heads[side == "left" :: 2] for layer, layer_heads in all_heads(model).items()}
    with naive_act(model, heads, CalibrationSettings(method=method), mask, span):
        expected = run(model, mask, new)
    with ACT(HeadProfile(heads), method=method)(model), span_tokens(model, span):
        result = run(model, mask, new)
    assert (expected[0] - run(model, mask)[0]).abs().max() > 1e-3 * expected[0].abs().max()
    for got, wanted in zip(result, expected, strict=True):
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


@every_method
def test_logits_in_float64(gqa_model, method):
    model, ids = copy.deepcopy(gqa_model).double(), random_ids(40, seed=2, rows=2)
    span = some_tokens(torch.ones_like(ids))
    with naive_act(model, ALL, CalibrationSettings(method=method), None, span):
        expected = logits_of(model, ids)
    with torch.no_grad(), ACT("all", method=method)(model), span_tokens(model, span):
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-10)


def test_beside_sinks_in_other_heads(gqa_model):
    """A method per group of heads: one by sinks, one by a part of the prompt."""
    ids = random_ids(40, seed=2, rows=2)
    span, some, others = some_tokens(torch.ones_like(ids)), {1: (0, 3), 2: (2,)}, {1: (1,), 3: (4, 5)}
    settings = CalibrationSettings(method=PerHeadGroup((ToOtherTokens(0.1), Pasta(0.05))), threshold=0.05)
    with naive_act(gqa_model, some, settings.of_groups[0]), naive_act(gqa_model, others, settings.of_groups[1], None, span):
        expected = logits_of(gqa_model, ids)
    act = ACT(HeadProfile.of_groups([HeadGroup(some), HeadGroup(others)]), method=settings.method, threshold=0.05)
    with act(gqa_model), span_tokens(gqa_model, span):
        torch.testing.assert_close(logits_of(gqa_model, ids), expected, rtol=0, atol=5e-5)


def test_beams_share_the_part_of_their_prompt(gqa_model):
    ids = random_ids(30, seed=4, rows=2)
    span, act = some_tokens(torch.ones_like(ids)), ACT("all", method=BiasSpan(2))
    options = {"max_new_tokens": 4, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with act(gqa_model):
        with span_tokens(gqa_model, span):
            together = gqa_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        for row in range(2):
            with span_tokens(gqa_model, span[row : row + 1]):
                alone = gqa_model.generate(ids[row : row + 1], attention_mask=torch.ones(1, 30, dtype=torch.long), **options)
            assert together[row].tolist() == alone[0].tolist()


def test_what_python_must_say(gqa_model):
    ids, act = random_ids(20, seed=1), ACT("all", method=BiasSpan(2))
    with act(gqa_model), pytest.raises(RuntimeError, match="not said which tokens these are"):
        gqa_model(ids)
    of_others = torch.ones(3, 20, dtype=torch.bool)
    refusal = pytest.raises(RuntimeError, match="given for 3 rows of 20 tokens, but the prompt has 1 rows of 20")
    with act(gqa_model), span_tokens(gqa_model, of_others), refusal:
        gqa_model(ids)
    with pytest.raises(ValueError, match=r"bool \[rows, tokens\]"), span_tokens(gqa_model, torch.ones(20)):
        pass
    with pytest.raises(ValueError, match=r"is a tensor, .*, not list"), span_tokens(gqa_model, [[True]]):
        pass
    plain = logits_of(gqa_model, ids)
    with act(gqa_model), span_tokens(gqa_model, None):
        torch.testing.assert_close(logits_of(gqa_model, ids), plain, rtol=0, atol=5e-5)
    assert logits_of(gqa_model, ids, ACT("all")).isfinite().all()  # and nothing of it is left


# --- in texts


PROMPT = "Say what it is.\n\nText: a dog. It is: pet\n\nText: a car. It is:"


@pytest.mark.parametrize(
    ("span", "found"),
    [
        (r"Text: [^.]*", ["Text: a dog", "Text: a car"]),
        (r"Text: ([^.]*)\. It is:$", ["a car"]),
        (r"cat", []),
        (r"z*", []),
    ],
)
def test_a_regular_expression(span, found):
    assert [PROMPT[start:end] for start, end in find_part(span, PROMPT)] == found


def test_an_expression_that_would_take_for_ever_is_refused(monkeypatch):
    monkeypatch.setattr(prompt_parts, "_SECONDS_TO_MATCH", 0.2)
    prompt = "a" * 40 + "b"
    with pytest.raises(InputError, match=r"act_span=\(a\|aa\)\+\$ did not get through the prompt 'aaa.*: write it so"):
        find_part("(a|aa)+$", prompt)
    assert find_part("a+", prompt) == [(0, 40)]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (
            TaskParts(("", "Say what it is.\n\n"), "Say what it is.\n\n", "Text: a car. It is:", 1),
            {"description": "Say what it is.", "question": "Text: a car. It is:", "examples": "Text: a dog. It is: pet"},
        ),
        (
            TaskParts(("Say what it is.", ""), "", "Text: a car. It is:", 1),
            {"description": None, "question": "Text: a car. It is:", "examples": "Text: a dog. It is: pet"},
        ),
        (TaskParts(("", ""), "", "not there", 1), {"description": None, "question": None, "examples": None}),
        (TaskParts(("", ""), "", "Text: a car. It is:", 0), {"question": "Text: a car. It is:", "examples": None}),
    ],
)
def test_parts_of_tasks(parts, found):
    for part, text in found.items():
        assert [PROMPT[start:end] for start, end in parts.find(part, PROMPT)] == ([] if text is None else [text])


class TestTokens:
    @pytest.fixture(scope="class")
    def lm(self):
        return ACTLM(act_profile="none", device="cpu", dtype="float32")

    @pytest.mark.parametrize("prompt", [PROMPT, " " + PROMPT, "naïve café, 東京 is a city. Text: a dog.", "a\n\n\nText: b"])
    def test_they_cover_the_part_and_no_more_than_a_token_beside(self, lm, prompt):
        tokens = tuple(lm.tok_encode(prompt))
        parts = PromptParts(lm.tokenizer, r"Text: \w+", False)
        with nullcontext() if "Text" in prompt else pytest.raises(RequestError, match="has nothing that act_span=Text"):
            parts.note(prompt, tokens)
        if "Text" in prompt:
            (row,) = parts.mask([tokens])
            text = lm.tokenizer.decode([token for token, is_part in zip(tokens, row, strict=True) if is_part])
            assert prompt[prompt.index("Text") :].split(".")[0].split(" ")[0] in text
            assert row.any()
            assert not row.all()

    def test_of_a_prompt_that_was_cut(self, lm):
        tokens = tuple(lm.tok_encode(PROMPT))
        parts = PromptParts(lm.tokenizer, "Text", False)
        parts.note(PROMPT, tokens)
        (whole,) = parts.mask([tokens])
        kept = tokens[int(whole.nonzero()[-1]) - 1 :]
        parts.note_cut(tokens, kept)
        both = parts.mask([tokens, kept])
        assert torch.equal(both[0], whole)
        assert torch.equal(both[1, -len(kept) :], whole[-len(kept) :])
        assert not both[1, : -len(kept)].any()
        with pytest.raises(RequestError, match="has nothing within the model's window that act_span=Text"):
            parts.note_cut(tokens, tokens[-1:])
        with pytest.raises(RuntimeError, match="was not looked for"):
            parts.mask([(1, 2, 3)])

    def test_white_space_at_the_end_counts_to_the_continuation(self, lm):
        parts = PromptParts(lm.tokenizer, r"is:\s$", False)
        tokens = tuple(lm.tok_encode(PROMPT))
        parts.note(f"{PROMPT} ", tokens)
        assert parts.mask([tokens]).any()

    def test_a_slow_tokenizer_is_refused(self, lm):
        class Slow:
            is_fast = False

        with pytest.raises(InputError, match=r"needs a fast tokenizer, .* but Slow is none"):
            PromptParts(Slow(), "x", False)


# --- through lm-eval's tasks


SHOTS = PromptSettings(("demo_topic",), limit=4, num_fewshot=2)


def requests_of(lm, prompts=SHOTS):
    asked = load_asked_tasks(prompts, ModelSettings())
    (task,) = asked.loaded.tasks.values()
    return [instance for of_document in render(lm, task, range(4), asked.prompts) for instance in of_document]


def lm_with(**arguments):
    return ACTLM(act_profile="1:0+1+2;2:3", device="cpu", dtype="float32", **arguments)


@pytest.mark.parametrize("span", ["question", "examples", r"(\w+)\W*$"])
def test_scores_are_those_of_naive_maps(span):
    """Batched, packed and padded by act-hf, and context by context on full maps."""
    lm = lm_with(act_method="bias-span", act_bias=2, act_span=span, batch_size=8)
    requests = requests_of(lm)
    scores = [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]
    settings, heads = CalibrationSettings(method=BiasSpan(2)), {1: (0, 1, 2), 2: (3,)}
    for request, score in list(zip(requests, scores, strict=True))[::3]:
        context, continuation = lm.encode_request(*request.args)
        part = lm._parts.mask([context])
        with naive_act(lm.model, heads, settings, None, part), torch.no_grad():
            total = log_prob_token_by_token(lm.model, context, continuation)
        assert score == pytest.approx(total, abs=5e-5)
    alone = [lm.loglikelihood([request], disable_tqdm=True)[0][0] for request in requests[:3]]
    assert alone == pytest.approx(scores[:3], abs=5e-5)
    plain = [score for score, _ in lm_with(act_beta=1).loglikelihood(requests, disable_tqdm=True)]
    assert np.abs(np.array(plain) - scores).max() > 1e-3


def test_generations_are_those_of_naive_maps():
    """In one batch of prompts of several lengths, padded on the left."""
    lm = lm_with(act_method="bias-span", act_bias=6, act_span=r"^\W*(\w+)", batch_size=3)
    prompts = ["Text: a dog and a cat went to the music hall.", "It is: sport", "Say what it is. Text: the team won the game."]
    settings = {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (prompt, settings), 0, ("demo", number, 1)) for number, prompt in enumerate(prompts)
    ]
    texts = lm.generate_until(requests, disable_tqdm=True)
    heads = {1: (0, 1, 2), 2: (3,)}
    for prompt, text in zip(prompts, texts, strict=True):
        ids = torch.tensor([lm.tok_encode(prompt)])
        part = lm._parts.mask([tuple(ids[0].tolist())])
        assert 0 < part.sum() < part.numel()
        with naive_act(lm.model, heads, CalibrationSettings(method=BiasSpan(6)), None, part):
            new = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert lm.tok_decode(new[0, ids.shape[1] :].tolist()).startswith(text)


def test_what_is_asked_without_a_prompt_stays():
    """As tasks do that subtract what a choice has without its context."""
    lm, plain = lm_with(act_method="pasta", act_span="dog"), lm_with(act_beta=1)
    requests = [
        Instance("loglikelihood", {}, (context, " music"), number, ("demo", 0, 1))
        for number, context in enumerate(("a dog", ""))
    ]
    scores, expected = ([score for score, _ in model.loglikelihood(requests, disable_tqdm=True)] for model in (lm, plain))
    assert scores[1] == pytest.approx(expected[1], abs=5e-5)
    assert abs(scores[0] - expected[0]) > 1e-4


def test_whole_texts_are_refused():
    lm = lm_with(act_method="pasta", act_span="x")
    with pytest.raises(InputError, match="is a text that is scored as a whole"):
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("a text",), 0, ("demo", 0, 1))], disable_tqdm=True)


def test_a_prompt_without_the_part(caplog):
    arguments = {"act_method": "pasta", "act_span": "examples"}
    lm, without = lm_with(**arguments), PromptSettings(("demo_topic",), limit=4, num_fewshot=0)
    requests = requests_of(lm, without)
    with pytest.raises(RequestError, match="has nothing that act_span=examples names: choose another act_span, or leave"):
        lm.loglikelihood(requests, disable_tqdm=True)
    alone = lm_with(**arguments, act_span_missing="skip").loglikelihood(requests, disable_tqdm=True)
    plain = lm_with(act_beta=1).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([score for score, _ in alone], [score for score, _ in plain], atol=5e-5)
    assert "4 of 4 prompts have nothing that act_span=examples names, and are left as they are." in caplog.messages


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"act_method": "pasta"}, "pasta is about a part of the prompt: name it with act_span"),
        ({"act_method": "bias-span", "act_span": "question"}, "needs bias"),
        ({"act_method": "bias-span", "act_bias": 30, "act_span": "question"}, r"bias is 30, .* in \[-20, 20\]"),
        ({"act_method": "target-span", "act_span": "question"}, "needs psi"),
        ({"act_method": "target-span", "act_psi": 0, "act_span": "question"}, "psi is 0, .* above 0 and at most 0.99"),
        ({"act_method": "pasta", "act_outside": 0, "act_span": "question"}, r"outside is 0, .* in \[0.0001, 1\]"),
        ({"act_method": "pasta", "act_span": ""}, "span is empty, and no part of a prompt is"),
        ({"act_method": "pasta", "act_span": "(x"}, "span is '.x', which is no regular expression"),
        (
            {"act_method": "pasta", "act_span": "x", "act_span_missing": "never"},
            "span_missing is 'never': choose one of error, skip",
        ),
        ({"act_method": "pasta", "act_span": "x", "act_alpha": 5}, "alpha is about attention sinks"),
        ({"act_method": "pasta", "act_span": "x", "act_decode": "row"}, "decode=row lets each row find its sinks"),
        ({"act_span": "question"}, "span is about a part of the prompt, which the method act does not use"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(monkeypatch, arguments, culprit):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=culprit) as error:
        ACTLM(act_profile="all", **arguments)
    assert "\n" not in str(error.value)
