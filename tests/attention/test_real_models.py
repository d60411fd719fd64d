"""ACT on real models equals the definition on full maps, written apart from the project, in float64.

Prompts beyond Gemma's sliding window of 512 tokens, padding on the left, and tokens on a cache, one and several at a time.
"""

import json
from pathlib import Path

import pytest
import torch
from helpers.full_maps import FullMaps, attention_function
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from act_eval.attention.act import ACT

pytestmark = pytest.mark.tier("real")

ROWS = Path(__file__).parents[1] / "hub" / "rajpurkar"
NEW = (1, 3)
SETTINGS = {"alpha": 5, "beta": 0.4}


@pytest.fixture(scope="module")
def model(real_model):
    return AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float64, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def lengths(model):
    """Of two prompts, the longer one beyond the sliding window where the model has one."""
    window = getattr(model.config, "sliding_window", None)
    return (180, 60) if window is None else (window + 40, 60)


@pytest.fixture(scope="module")
def ids(real_model, lengths):
    """The tokens of each prompt and of what comes after it: questions on real paragraphs, int64 `[n + new]` each."""
    files = sorted(ROWS.rglob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    texts = ["\n\n".join(f"{row['context']}\nQ: {row['question']}\nA:" for row in some) for some in (rows, rows[::-1])]
    tokens = [tokenizer(text, return_tensors="pt").input_ids[0] for text in texts]
    return [of_text[: length + sum(NEW)] for of_text, length in zip(tokens, lengths, strict=True)]


@torch.no_grad()
def run(model, ids):
    """Logits of the last 4 tokens of a left-padded prefill, and of all new tokens on its cache: `[prompts, 8, vocabulary]`."""
    width = max(map(len, ids))
    tokens, mask = torch.zeros(len(ids), width, dtype=torch.long), torch.zeros(len(ids), width, dtype=torch.long)
    for row, of_prompt in enumerate(ids):
        tokens[row, width - len(of_prompt) :], mask[row, width - len(of_prompt) :] = of_prompt, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits, cache, start = [], None, 0
    for step in (width - sum(NEW), *NEW):
        end = start + step
        inputs = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end], "past_key_values": cache}
        output = model(tokens[:, start:end], **inputs, use_cache=True, logits_to_keep=4)
        logits.append(output.logits)
        cache, start = output.past_key_values, end
    return torch.cat(logits, dim=1)


def run_beside_definition(model, ids, lengths, **settings):
    """ACT's logits, and how far its attention outputs are from the definition's on the same inputs, in any layer and call."""
    definition, differences = FullMaps(model.config, lengths, **settings), []

    def both(module, query, *args, **kwargs):
        result = calibrated(module, query, *args, **kwargs)
        expected, _ = definition(module, query, *args, **kwargs)
        for row, length in enumerate(lengths):  # without what padding computes
            difference = (result[0] - expected)[row, -length:]
            differences.append(float(difference.abs().max()))
        return result

    with ACT("all", **settings)(model):
        calibrated = ALL_ATTENTION_FUNCTIONS["act_sdpa"]
        with attention_function("act_sdpa", both):
            logits = run(model, ids)
    assert [len(tokens) for tokens in ids] == [length + sum(NEW) for length in lengths]
    assert len(differences) == model.config.num_hidden_layers * len(lengths) * (1 + len(NEW))
    assert finds_sinks(definition)
    return logits, max(differences)


def finds_sinks(full_maps):
    """Whether most prompts have sinks in most layers."""
    return sum(bool(sinks.any()) for of_layer in full_maps.sinks for sinks in of_layer) > len(full_maps.sinks)


def test_equals_the_definition(model, ids, lengths):
    """Attention outputs in every layer, and logits of the whole model, which never meets ACT's outputs in the other run.

    The models' norms compute in float32, where a difference in the last digit of float64 may tip over a rounding edge.
    """
    logits, difference = run_beside_definition(model, ids, lengths, **SETTINGS)
    assert difference < 1e-11
    definition = FullMaps(model.config, lengths, **SETTINGS)
    with attention_function("sdpa", definition):
        expected = run(model, ids)
    assert finds_sinks(definition)
    assert float((logits - expected).abs().max()) < 1e-4


def test_equals_the_definition_without_the_first_token(model, ids, lengths):
    """Sinks switched off, and token 0 spared whether or not it is one."""
    _, difference = run_beside_definition(model, ids, lengths, alpha=3, beta=0.0, keep="first-token")
    assert difference < 1e-11
