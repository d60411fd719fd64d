"""Much work, several models, several threads, the same command twice."""

import random
import threading

import psutil
import pytest
import torch
from helpers.thorough import THOROUGH
from transformers import LlamaConfig, LlamaForCausalLM

from act_eval import ACT
from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM

pytestmark = pytest.mark.tier("slow")


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def test_many_requests():
    """Memory stays flat after the first tenth, and every request is answered once, in order."""
    lm = ACTLM(tiny_model(), act_profile="all", act_alpha=2, tokenizer=str(MODEL_PATH), batch_size=1000, max_length=32)
    rng = random.Random(0)
    requests = [
        (("", ""), rng.choices(range(500), k=rng.randint(1, 24)), rng.choices(range(500), k=rng.randint(1, 2)))
        for _ in range(100_000 if THOROUGH else 20_000)
    ]
    memory, original, answered = [], lm._score_contexts, 0

    def score_and_measure(contexts, batch_size):
        nonlocal answered
        batch = original(contexts, batch_size)
        answered += len(batch)
        memory.append(psutil.Process().memory_info().rss)
        return batch

    lm._score_contexts = score_and_measure
    answers = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(answers) == answered == len(requests)
    warm = memory[: len(memory) // 10]
    # The answers themselves take some 20 MB.
    assert max(memory) - max(warm) < 60 * 2**20
    for index in rng.sample(range(len(requests)), 100):
        (alone,) = lm._loglikelihood_tokens([requests[index]], disable_tqdm=True)
        assert answers[index] == pytest.approx(alone, abs=1e-4)


def test_two_models_in_one_process_do_not_meet():
    """One inside the other's context, with other heads and settings; each as it is alone, and plain again afterwards."""
    models = [tiny_model(seed) for seed in (0, 1)]
    methods = [ACT("all", alpha=1.5, beta=0.1), ACT("1:0", alpha=2, beta=0.5)]
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain = [model(ids).logits for model in models]
        alone = []
        for model, act in zip(models, methods, strict=True):
            with act(model):
                alone.append(model(ids).logits)
        assert all((one - other).abs().max() > 1e-3 for one, other in zip(plain, alone, strict=True))
        with methods[0](models[0]), methods[1](models[1]):
            for number, model in enumerate(models):
                assert torch.equal(model(ids).logits, alone[number])
        with methods[0](models[0]):
            assert torch.equal(models[1](ids).logits, plain[1])
        for number, model in enumerate(models):
            assert torch.equal(model(ids).logits, plain[number])


def test_threads_with_models_of_their_own():
    methods = [ACT("all", alpha=1.5, beta=0.1), ACT("1:0", alpha=2, beta=0.5), ACT("none"), ACT("0:1", threshold=0.05)]
    models = [tiny_model(seed) for seed in range(len(methods))]
    inputs = [torch.randint(500, (2, 5 + 3 * step), generator=torch.Generator().manual_seed(step)) for step in range(8)]

    @torch.no_grad()
    def run(number):
        outputs = []
        for ids in inputs:
            with methods[number](models[number]):
                outputs.append(models[number](ids).logits)
        return outputs

    expected = [run(number) for number in range(len(methods))]
    found = [None] * len(methods)
    threads = [
        threading.Thread(target=lambda number=number: found.__setitem__(number, run(number))) for number in range(len(methods))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(len(methods)):
        for one, other in zip(found[number], expected[number], strict=True):
            assert torch.equal(one, other)
