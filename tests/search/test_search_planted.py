"""The search on a model whose harmful heads are known, because they were built in: it finds exactly those."""

import random

import pandas as pd
import pytest
import torch
from helpers.planted import found, plant_head, save_tokenizer, search, write_task
from helpers.thorough import thorough
from transformers import LlamaConfig, LlamaForCausalLM

from act_eval.attention.act import ACT
from act_eval.attention.cache import CACHE_ATTRIBUTE
from act_eval.profiles import HeadProfile

pytestmark = [pytest.mark.tier("slow"), pytest.mark.usefixtures("without_plots")]

LAYERS, HEADS, HIDDEN, VOCABULARY = 4, 8, 64, 128
SINK_TOKEN, RIGHT_TOKENS, WRONG_TOKENS = 3, range(4, 34), range(34, 64)
HARMFUL = {(1, 2), (3, 5)}
HELPFUL = {(0, 4), (2, 2)}
NEUTRAL = {(1, 6), (2, 7), (3, 0)}
CONSTANT, IS_SINK, WRONG = 0, 1, 2  # dimensions of the hidden states


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with `model` and `tasks`.

    Every token carries a constant, and one token a mark. Seven heads look from the constant to the mark, so that the marked
    tokens are their sinks; no other head has any. What harmful heads bring back raises the logits of wrong choices, what
    helpful ones bring lowers them, and neutral ones leave them alone.
    """
    folder = tmp_path_factory.mktemp("planted")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=16, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embeddings, head_weight = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings.normal_(std=0.5)
        embeddings[:, : WRONG + 1] = 0
        embeddings[:, CONSTANT] = 2
        embeddings[SINK_TOKEN, IS_SINK] = 4
        head_weight.normal_(std=0.25)
        head_weight[:, : WRONG + 1] = 0
        head_weight[list(RIGHT_TOKENS), CONSTANT] = 1
        head_weight[list(WRONG_TOKENS), WRONG] = 1
    for layer, head in HARMFUL | HELPFUL | NEUTRAL:
        sign = ((layer, head) in HARMFUL) - 0.5 * ((layer, head) in HELPFUL)
        plant_head(model, (layer, head), CONSTANT, IS_SINK, IS_SINK, WRONG, 0.8 * sign)
    model.save_pretrained(folder / "model")
    save_tokenizer(folder / "model", VOCABULARY)
    rng = random.Random(0)
    write_task(folder, "planted", lambda: document(rng), {"train": 80, "test": 20})
    return folder


def document(rng):
    """Random words, three of them sinks, and a right choice among two wrong ones."""
    text = [rng.randrange(64, VOCABULARY) for _ in range(rng.randint(25, 40))]
    for position in rng.sample(range(2, len(text) - 5), 3):
        text[position] = SINK_TOKEN
    choices = [rng.choice(RIGHT_TOKENS), *rng.sample(WRONG_TOKENS, 2)]
    right = choices[0]
    rng.shuffle(choices)
    return {
        "text": " ".join(f"w{token}" for token in text),
        "choices": [f"w{token}" for token in choices],
        "label": choices.index(right),
    }


@torch.no_grad()
def test_sinks_are_where_they_were_planted(planted):
    model = LlamaForCausalLM.from_pretrained(planted / "model").eval()
    ids = torch.tensor([[70, 80, SINK_TOKEN, 90, 100, 110, SINK_TOKEN, *range(64, 94)]])
    with ACT(HeadProfile.from_layers(range(LAYERS), LAYERS, HEADS), alpha=5, keep="first-token")(model):
        cache = model(ids, use_cache=True).past_key_values
    for (layer, _), kept in getattr(cache, CACHE_ATTRIBUTE).items():
        for head in range(HEADS):
            sinks = set(kept.sinks[0, head].nonzero()[:, 0].tolist())
            assert sinks == ({2, 6} if (layer, head) in HARMFUL | HELPFUL | NEUTRAL else set()), (layer, head)


@pytest.mark.parametrize(
    ("mode", "selection"),
    [("exact", "validated"), ("screened", "improving"), *thorough(("exact", "improving"), ("screened", "validated"))],
)
def test_exactly_the_harmful_heads_are_found(planted, tmp_path, mode, selection):
    result = search(planted, tmp_path / "search", mode=mode, selection=selection)
    assert found(result) == HARMFUL
    table = result.heads.set_index(["layer", "head"])
    scored = table[table["documents"] > 0]
    assert set(scored.nlargest(2, "margin_change").index) == HARMFUL
    assert (scored.loc[list(HARMFUL), "accuracy_change"] > 0.05).all()
    if mode == "exact":
        assert (table.loc[list(HELPFUL), "margin_change"] < 0).all()
        without_sinks = table.index.difference(list(HARMFUL | HELPFUL | NEUTRAL))
        assert not table.loc[without_sinks, ["accuracy_change", "margin_change"]].any(axis=None)
    written = pd.read_csv(tmp_path / "search" / "heads.csv")
    assert len(written) == LAYERS * HEADS


@pytest.mark.parametrize("objective", ["margin", "corrected-margin"])
def test_estimates_alone_find_exactly_the_harmful_heads(planted, tmp_path, objective):
    """The choices of these documents differ, so that no label has a prior."""
    result = search(planted, tmp_path / "search", mode="estimated", objective=objective)
    assert found(result) == HARMFUL
    assert set(result.candidates[:2]) == HARMFUL
    assert result.full_passes["total"] <= 13
    table = result.heads.set_index(["layer", "head"])
    assert (table.loc[list(HARMFUL), "estimate_together"] > 0).all()
    assert (table.loc[list(HELPFUL), "estimate_together"] < 0).all()
    assert result.gain.chosen
    assert result.gain.accuracy_low > 0
    assert result.gain.p_value < 0.01
    screened = search(planted, tmp_path / "screened", mode="screened")
    assert result.gain.accuracy_change >= screened.gain.accuracy_change
    assert result.profile.provenance["mode"] == "estimated"
    assert result.profile.provenance["objective"] == objective
    assert result.profile.provenance["evidence"]["chosen"]
    assert HeadProfile.from_json((tmp_path / "search" / "profile.json").read_text(), "it").share(0.5).size == 1
