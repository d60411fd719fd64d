"""Packed contexts and continuations get the scores that they get one after the other, in every model that can be packed."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
import transformers
from helpers.families import FAMILIES, VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from act_eval.attention import gptj
from act_eval.attention.act import ACT
from act_eval.demo import MODEL_PATH
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.harness.packed_contexts import PackedContexts
from act_eval.harness.scoring import Context, Scorer
from act_eval.profiles import HeadProfile

pytestmark = pytest.mark.tier("model")


def scorer_of(model, packs=False):
    return Scorer(model, 0, torch.device("cpu"), torch.float64, packs)


def contexts_of(lengths, vocabulary, seed=0):
    """Contexts and continuations of random tokens, of these lengths."""
    rng, index, contexts = random.Random(seed), iter(range(10_000)), []
    for context, continuations in lengths:
        tokens = [tuple(rng.randrange(3, vocabulary) for _ in range(length)) for length in (context, *continuations)]
        contexts.append(Context(tokens[0], [(next(index), continuation) for continuation in tokens[1:]]))
    return contexts


LENGTHS = [(24, (3, 1, 7, 4)), (9, (2,)), (31, (1, 1)), (1, (5, 1, 2)), (17, (11, 12))]


def both_ways(model, contexts, act):
    with act(model):
        plain = scorer_of(model).score_contexts(contexts, 3)
        packed = scorer_of(model, packs=True).score_contexts(contexts, 3)
    assert list(packed) == [index for context in contexts for index, _ in context.continuations]
    return plain, packed


def assert_same(plain, packed, tolerance):
    assert plain.keys() == packed.keys()
    for index, (log_prob, is_greedy) in plain.items():
        assert packed[index][0] == pytest.approx(log_prob, abs=tolerance)
        assert packed[index][1] == is_greedy


@pytest.fixture(scope="module")
def demo():
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float64).eval()


SETTINGS = {
    "nothing": ACT("none"),
    "all heads": ACT("all", alpha=2),
    "some heads": ACT("1:3+5;3:0", alpha=2),
    "threshold": ACT("all", threshold=0.05),
    "each row decides": ACT("all", alpha=2, decode="row"),
    "published decode": ACT("all", alpha=2, decode="official"),
    "another method": ACT("all", method="temperature"),
    "heads switched off": ACT("2:1+4", method="mask-head"),
    "a profile for each context": ACT([HeadProfile({2: (row, row + 3)}) for row in range(len(LENGTHS))], alpha=2),
}


@pytest.mark.parametrize("act", SETTINGS.values(), ids=SETTINGS)
def test_every_setting(demo, act):
    contexts = contexts_of(LENGTHS, demo.config.vocab_size)
    plain, packed = both_ways(demo, contexts, act)
    assert_same(plain, packed, 1e-10)
    if act is not SETTINGS["nothing"]:
        uncalibrated, _ = both_ways(demo, contexts, ACT("none"))
        assert max(abs(plain[index][0] - uncalibrated[index][0]) for index in plain) > 1e-4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=6))
def test_any_lengths(demo, lengths):
    assert_same(*both_ways(demo, contexts_of(lengths, 300), ACT("all", alpha=2)), 1e-10)


@given(st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=6))
def test_what_is_packed(lengths):
    """Each token once and no padding; logits of contexts' last tokens and of continuations; nothing after the last target."""
    contexts = [(context.tokens, [tokens for _, tokens in context.continuations]) for context in contexts_of(lengths, 300)]
    run = PackedContexts.pack(contexts, torch.device("cpu"))
    fed = [
        [*context, *(token for continuation in continuations for token in continuation[:-1])]
        for context, continuations in contexts
    ]
    assert run.ids.tolist() == [[token for tokens in fed for token in tokens]]
    assert run.targets.tolist() == [token for _, continuations in contexts for tokens in continuations for token in tokens]
    before = run.ids[0, run.kept[run.foreseen_at]].tolist()
    assert before == [
        token for context, continuations in contexts for tokens in continuations for token in (context[-1], *tokens[:-1])
    ]
    place = iter(run.positions[0].tolist())
    for context, continuations in contexts:
        assert [next(place) for _ in context] == list(range(len(context)))
        for tokens in continuations:
            assert [next(place) for _ in tokens[:-1]] == list(range(len(context), len(context) + len(tokens) - 1))
    real = run.packing.is_real
    assert run.packing.token[real.flatten()].tolist() == list(range(run.ids.shape[1]))
    assert bool(real[:, run.packing.context_length - 1].all())


def test_the_model_sees_no_padding(demo):
    contexts, shapes = contexts_of(LENGTHS, 300), []
    hook = demo.model.embed_tokens.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    with ACT("all", alpha=2)(demo):
        scorer_of(demo, packs=True).score_contexts(contexts, 3)
    hook.remove()
    assert shapes == [(1, sum(context + sum(continuations) - len(continuations) for context, continuations in LENGTHS))]


def shared_contexts(beginning):
    contexts = contexts_of(LENGTHS, 300)
    first = contexts_of([(beginning, (1,))], 300, seed=1)[0].tokens
    return [Context(first + context.tokens[:-1], context.continuations) for context in contexts]


@pytest.mark.parametrize("act", [ACT("none"), SETTINGS["another method"], SETTINGS["heads switched off"]])
def test_a_common_beginning_runs_once(demo, act):
    contexts, shapes = shared_contexts(12), []
    hook = demo.model.embed_tokens.register_forward_pre_hook(lambda _, args: shapes.append(args[0].numel()))
    with act(demo):
        plain = scorer_of(demo).score_contexts(contexts, 3)
        shapes.clear()
        packed = replace(scorer_of(demo, packs=True), shares_beginnings=True).score_contexts(contexts, 3)
    hook.remove()
    assert_same(plain, packed, 1e-10)
    assert shapes == [12 + sum(context - 1 + sum(continuations) - len(continuations) for context, continuations in LENGTHS)]


def test_beginnings_are_shared_where_nothing_that_follows_changes_them(monkeypatch):
    lm = ACTLM(act_profile="none", act_alpha=2, dtype="float64", batch_size=8)
    asked, score = [], Scorer.score_packed

    def noting(self, *args):
        asked.append(self.shares_beginnings)
        return score(self, *args)

    monkeypatch.setattr(Scorer, "score_packed", noting)
    lm.scorer()  # tries once whether the model can be packed
    requests = [Instance("loglikelihood", {}, (f"The cat is {word}", " the cat"), 0) for word in ("small", "a dog", "here")]
    for arguments, shares in (
        ({"act_profile": "none"}, True),
        ({"act_profile": "all", "act_beta": 1}, True),
        ({"act_profile": "all", "act_method": "temperature"}, True),
        ({"act_profile": "all", "act_alpha": 2}, False),
        ({"act_profile": "1:3", "act_method": "to-first-token"}, False),
    ):
        lm.set_act(ACTArguments.from_model_args(arguments))
        asked.clear()
        together = lm.loglikelihood(requests, disable_tqdm=True)
        assert asked == [shares]
        alone = [lm.loglikelihood([request], disable_tqdm=True)[0] for request in requests]
        assert [log_prob for log_prob, _ in together] == pytest.approx([log_prob for log_prob, _ in alone], abs=1e-10)


@pytest.mark.parametrize("act", [{"act_profile": "none"}, {"act_profile": "all", "act_alpha": 2}], ids=["none", "all"])
def test_the_measured_batch_is_as_large_as_the_largest_that_runs(monkeypatch, act):
    """With automatic batch sizes: contexts that begin differently, and choices of the same length."""
    lm = ACTLM(batch_size="auto", max_batch_size=8, device="cpu", **act)
    tokens, run = [], Scorer.run_packed
    lm.scorer()  # tries once whether the model can be packed

    def noting(self, packed):
        tokens.append(packed.ids.numel())
        return run(self, packed)

    monkeypatch.setattr(Scorer, "run_packed", noting)
    contexts = [
        f"The {word} is in the " + "red house " * 9 for word in ("cat", "dog", "mouse", "bear", "cow", "bird", "fox", "man")
    ]
    choices = [" the cat is small", " the dog is small", " the bear is small"]
    lm.loglikelihood(
        [Instance("loglikelihood", {}, pair, 0) for pair in itertools.product(contexts, choices)], disable_tqdm=True
    )
    measured, *batches = tokens
    assert len(batches) == 1
    assert batches[0] <= measured <= 1.2 * batches[0]


def test_the_same_continuation_again_costs_nothing(demo):
    once, twice = (contexts_of([(9, (3, 4))], 300)[0] for _ in range(2))
    twice.continuations += [(index + 2, tokens) for index, tokens in twice.continuations]
    counted = []
    hook = demo.model.embed_tokens.register_forward_pre_hook(lambda _, args: counted.append(args[0].numel()))
    answers = [scorer_of(demo, packs=True).score_contexts([context], 3) for context in (once, twice)]
    hook.remove()
    assert counted[0] == counted[1]
    assert answers[1] == {**answers[0], 2: answers[0][0], 3: answers[0][1]}


@pytest.mark.parametrize("act", [ACT("none"), ACT("all", alpha=2)], ids=["nothing", "all heads"])
def test_a_context_with_very_many_continuations_is_run_in_parts(demo, act, monkeypatch):
    """As where tasks score whole sentences after one token: no row, and no pass, grows with the number of requests."""
    contexts = contexts_of([(1, [7] * 60), (20, [3, 90, 2]), (9, (2,))], demo.config.vocab_size)
    monkeypatch.setattr("act_eval.harness.scoring._TOKENS_AFTER_A_CONTEXT", 64)
    packed = []

    def pack(rows, *others, run=PackedContexts.pack):
        packed.append([(len(context), [len(tokens) for tokens in continuations]) for context, continuations in rows])
        return run(rows, *others)

    monkeypatch.setattr(PackedContexts, "pack", pack)
    with act(demo):
        in_parts = scorer_of(demo, packs=True).score_contexts(contexts, 3)
    rows = [row for of_pass in packed for row in of_pass]
    assert max(map(len, packed)) == 3
    assert all(sum(lengths) <= 64 or len(lengths) == 1 for _, lengths in rows)
    assert sum(len(lengths) for _, lengths in rows) == 64
    assert len([row for row in rows if row[0] == 1]) == 7
    with act(demo):
        one_by_one = scorer_of(demo).score_contexts(contexts, 3)
    assert_same(one_by_one, in_parts, 1e-9)


def test_nothing_is_left_behind(demo):
    before = vars(demo.config).copy(), [list(vars(module)) for module in demo.modules()]
    both_ways(demo, contexts_of(LENGTHS, 300), ACT("all", alpha=2))
    assert (vars(demo.config), [list(vars(module)) for module in demo.modules()]) == before


# --- which models


def test_a_model_that_counts_positions_itself_is_found_out(demo):
    class CountsItself(transformers.LlamaForCausalLM):
        def forward(self, *args, position_ids=None, logits_to_keep=0, **kwargs):
            return super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)

    model = CountsItself.from_pretrained(MODEL_PATH, dtype=torch.float32).eval()
    assert scorer_of(transformers.LlamaForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32).eval()).packs_well()
    assert not scorer_of(model).packs_well()


def test_a_model_with_masks_of_its_own_is_found_out(demo, monkeypatch):
    modelling = transformers.models.llama.modeling_llama
    monkeypatch.setattr(modelling, "create_causal_mask", lambda *_, **__: None)
    assert not scorer_of(demo).packs_well()


def test_an_error_in_the_trial_is_said(demo, monkeypatch, caplog):
    monkeypatch.setattr(demo.lm_head, "forward", lambda _: int("many"))
    with caplog.at_level("INFO", "act_eval"):
        assert not scorer_of(demo).packs_well()
    assert "not packed, since this model cannot run packed ones: ValueError" in caplog.text


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_no_memory_in_the_trial_says_nothing_of_the_model(monkeypatch, caplog, batch_size):
    """What runs meanwhile is padded, and the trial comes again."""
    lm = ACTLM(act_profile="none", dtype="float64", device="cpu", batch_size=batch_size, max_batch_size=4)
    run, packed = Scorer.run_packed, []

    def twice_out_of_memory(self, contexts):
        packed.append(contexts.ids.numel())
        if len(packed) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return run(self, contexts)

    monkeypatch.setattr(Scorer, "run_packed", twice_out_of_memory)
    requests = [Instance("loglikelihood", {}, (f"The cat is {word}", " the cat"), 0) for word in ("small", "a dog", "here")]
    answers = [answer for _ in range(3) for answer in lm.loglikelihood(requests, disable_tqdm=True)]
    assert len(set(packed[:3])) == 1
    assert len(packed) > 3
    assert caplog.text.count("too little memory to try whether contexts can be packed") == 2
    for first, *again in zip(answers[:3], answers[3:6], answers[6:], strict=True):
        assert all(answer == (pytest.approx(first[0], abs=1e-10), first[1]) for answer in again)


# Hybrid models, and chunks that transformers counts from the first real token of each row of the model's input.
NOT_PACKED = {"Llama 4", "Qwen3-Next", "Qwen3.5", "LFM2", "LFM3"}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_families(family):
    """Where a model is packed, scores are those of the other way; and most can be."""
    if not family.is_known or family.is_newer_than_transformers:
        pytest.skip(f"not in transformers {transformers.__version__}")
    model = family.make_model()
    scorer = scorer_of(model)
    is_packed = scorer.packs_well()
    assert is_packed == (family.name not in NOT_PACKED and not gptj.is_adapted(type(model)))
    if not is_packed:
        return
    contexts = contexts_of(LENGTHS, VOCABULARY)
    for act in (ACT("none"), ACT("all", threshold=0.1)):
        plain, packed = both_ways(model, contexts, act)
        scale = max(abs(log_prob) for log_prob, _ in plain.values())
        assert_same(plain, packed, 1e-4 * scale)
