"""Scores of real models on rows of the paper's tasks: those of `hf` with nothing calibrated, and the same in any batch."""

import json
from pathlib import Path

import pytest
import torch
from helpers.full_maps import FullMaps, attention_function
from helpers.models import GOLDEN
from helpers.requests import requests
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from act_eval.harness.lm import ACTLM

pytestmark = pytest.mark.tier("real")

PUBLISHED = json.loads((GOLDEN / "prompts.json").read_text())
PARAGRAPH = json.loads((Path(__file__).parents[1] / "hub/rajpurkar/squad/plain_text/validation.jsonl").read_text())["context"]
ALPHA, BETA = 5, 0.4
# Of the rows of these tasks, in the prompts that the tasks give:
DOCUMENTS = [
    [(case["prompt"], choice) for choice in PUBLISHED[task]["label_choices"]]
    for task in ("act_sst2", "act_cb", "act_trec", "act_agnews")
    for case in PUBLISHED[task]["cases"][:1]
]


@pytest.fixture(scope="module")
def make(real_model):
    """Makes an lm-eval model of the real one."""
    loaded = {}

    def make(cls, dtype, **arguments):
        if dtype not in loaded:
            loaded[dtype] = AutoModelForCausalLM.from_pretrained(real_model, dtype=dtype).eval()
        tokenizer = AutoTokenizer.from_pretrained(real_model)
        return cls(loaded[dtype], tokenizer=tokenizer, device="cpu", **arguments)

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_contexts_are_packed(make, dtype):
    """In half precision, too, where rounding alone moves the log-probabilities of the trial by several tenths."""
    assert make(ACTLM, dtype, batch_size=4, act_profile="none").scorer().packs


class TestSameAsHF:
    """With nothing calibrated, in float32: scores to 1e-3, also where they sum over 80 tokens, and the same texts."""

    @pytest.fixture(scope="class")
    def lms(self, make):
        return make(HFLM, torch.float32, batch_size=4), make(ACTLM, torch.float32, batch_size=4, act_profile="none")

    def test_pairs(self, lms):
        middle = PARAGRAPH.index(" ", len(PARAGRAPH) // 2)
        pairs = [pair for document in DOCUMENTS for pair in document] + [(PARAGRAPH[:middle], PARAGRAPH[middle:])]
        hf, act_hf = (lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True) for lm in lms)
        assert [greedy for _, greedy in act_hf] == [greedy for _, greedy in hf]
        assert [score for score, _ in act_hf] == pytest.approx([score for score, _ in hf], rel=0, abs=1e-3)

    def test_whole_texts(self, lms):
        texts = [(PARAGRAPH,), (DOCUMENTS[0][0][0],)]
        hf, act_hf = (lm.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True) for lm in lms)
        assert act_hf == pytest.approx(hf, rel=0, abs=1e-3)

    def test_generation(self, lms):
        prompts = [(document[0][0], {"until": ["\n\n"], "max_gen_toks": 8}) for document in DOCUMENTS[:2]]
        hf, act_hf = (lm.generate_until(requests("generate_until", prompts), disable_tqdm=True) for lm in lms)
        assert act_hf == hf
        assert any(text.strip() for text in hf)


def test_scores_do_not_depend_on_the_batch(make):
    """In float64, all heads calibrated: to 1e-4, but for documents of which a key's mean comes within 1e-6 of the threshold.

    There what else is in the batch may decide, by its rounding, whether the key is a sink. At most one document may be so near.
    """
    settings = {"act_profile": "all", "act_alpha": ALPHA, "act_beta": BETA}
    lms = [make(ACTLM, torch.float64, batch_size=size, **settings) for size in (1, 8)]
    pairs = [pair for document in DOCUMENTS for pair in document]
    alone, together = (lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True) for lm in lms)
    plain = make(ACTLM, torch.float64, batch_size=8, act_profile="none")
    ((uncalibrated, _),) = plain.loglikelihood(requests("loglikelihood", pairs[:1]), disable_tqdm=True)
    assert abs(uncalibrated - alone[0][0]) > 0.01
    clear = {document[0][0]: margin(plain, document[0]) > 1e-6 for document in DOCUMENTS}
    assert sum(clear.values()) >= len(clear) - 1
    for (context, _), (score, greedy), (of_batch, greedy_of_batch) in zip(pairs, alone, together, strict=True):
        if clear[context]:
            assert (score, greedy) == (pytest.approx(of_batch, rel=0, abs=1e-4), greedy_of_batch)


@torch.no_grad()
def margin(lm, pair):
    """How near the mean of any key of a context comes to the threshold in any head, as a share of it, by the definition."""
    context, _ = lm._encode_pair(*pair)
    full_maps = FullMaps(lm.model.config, [len(context)], alpha=ALPHA, beta=BETA)
    with attention_function("sdpa", full_maps):
        lm.model(torch.tensor([context]), logits_to_keep=1)
    return full_maps.margin[0]
