"""Two planted heads, one that shifts labels and one that hides the right one: which objective chooses which."""

import random

import pytest
import torch
from helpers.planted import found, plant_head, save_tokenizer, search, write_task
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = [pytest.mark.tier("slow"), pytest.mark.usefixtures("without_plots")]

VOCABULARY, HIDDEN = 96, 32
LABELS = (4, 5)
CLUES = {4: (6, 7), 5: (8, 9)}  # last tokens that speak for a label, weakly and strongly
SINKS = {4: 10, 5: 11}  # of documents of a label
CONSTANT, IS_SINK, AGAINST, CLUE = range(4)  # dimensions of the hidden states
PREFERS, MISLEADS = (1, 1), (2, 2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with `model` and `tasks`: two labels, of which the first is right in two thirds of the documents.

    From their sinks one head brings what speaks for the second label in every document, and another what speaks against the
    right label. Calibration silences either.
    """
    folder = tmp_path_factory.mktemp("planted")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=16, num_hidden_layers=4, num_attention_heads=4,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embeddings, head_weight = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings.normal_(std=0.5)
        embeddings[:, : CLUE + 1] = 0
        embeddings[:, CONSTANT] = 2
        for sign, label in zip((1, -1), LABELS, strict=True):
            embeddings[SINKS[label], IS_SINK] = 4
            embeddings[SINKS[label], AGAINST] = -4 * sign
            embeddings[list(CLUES[label]), CLUE] = sign * torch.tensor([0.3, 1.0])
            head_weight[label, :] *= 0.25
            head_weight[label, CLUE] = sign
    plant_head(model, PREFERS, CONSTANT, IS_SINK, IS_SINK, CLUE, -0.4)
    plant_head(model, MISLEADS, CONSTANT, IS_SINK, AGAINST, CLUE, 0.6)
    model.save_pretrained(folder / "model")
    save_tokenizer(folder / "model", VOCABULARY)
    rng = random.Random(0)
    write_task(folder, "planted", lambda: document(rng), {"train": 120, "test": 20})
    return folder


def document(rng):
    """Random words, three of them sinks, and a clue at the end."""
    right = rng.choice([LABELS[0], *LABELS])
    text = [rng.randrange(32, VOCABULARY) for _ in range(rng.randint(25, 40))]
    for position in rng.sample(range(2, len(text) - 5), 3):
        text[position] = SINKS[right]
    text.append(rng.choice(CLUES[right]))
    return {
        "text": " ".join(f"w{token}" for token in text),
        "choices": [f"w{label}" for label in LABELS],
        "label": LABELS.index(right),
    }


@pytest.mark.parametrize("mode", ["exact", "estimated"])
def test_a_shift_of_labels_is_chosen_by_its_margin_alone(planted, tmp_path, mode):
    by_margin = search(planted, tmp_path / "margin", mode=mode)
    assert found(by_margin) == {PREFERS, MISLEADS}
    by_corrected = search(planted, tmp_path / "corrected", mode=mode, objective="corrected-margin")
    assert found(by_corrected) == {MISLEADS}
    assert by_corrected.gain.p_value < 0.01
    assert "plain_accuracy_change" in by_corrected.head_sets
    assert "plain_accuracy_change" not in by_margin.head_sets
    assert by_corrected.full_passes["total"] <= 13


def test_screening_goes_by_the_objective(planted, tmp_path):
    by_margin = search(planted, tmp_path / "margin", mode="screened")
    by_corrected = search(planted, tmp_path / "corrected", mode="screened", objective="corrected-margin")
    shifts = [result.heads.set_index(["layer", "head"]).loc[PREFERS] for result in (by_margin, by_corrected)]
    assert shifts[0]["estimate"] > 0.2
    assert shifts[1]["estimate"] < 0
    assert found(by_corrected) == {MISLEADS}
    assert by_corrected.full_passes["estimates"] == by_margin.full_passes["estimates"] + 1
