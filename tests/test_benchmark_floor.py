"""The floor of an evaluation: operations counted by hand."""

import pytest
import torch
from floor import TokenCost, Work, floor, least_work, stock_padding, stock_work
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.tier("unit")

SMOLLM2 = TokenCost(layers=30 * (576 * (576 + 2 * 192 + 576) + 3 * 576 * 1536), output=49152 * 576)


def choices(context, continuation, number):
    """A context of so many tokens and a number of continuations of so many, which differ in their first token."""
    return [(tuple(range(context)), (1000 + choice, *range(continuation - 1))) for choice in range(number)]


def test_cost_of_a_llama():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    cost = TokenCost.of_model(LlamaForCausalLM(config))
    # Queries, keys, values, output; then three matrices of the MLP.
    assert cost == TokenCost(layers=3 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 12), output=50 * 8)


def test_cost_of_a_model_with_biases_and_learned_positions():
    cost = TokenCost.of_model(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=16)))
    assert cost == TokenCost(layers=2 * (8 * 24 + 8 * 8 + 2 * 8 * 32), output=50 * 8)


def test_stacked_experts_are_refused():
    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.head = torch.nn.ParameterList([torch.zeros(4, 3, 2)]), torch.nn.Linear(2, 2)

        def get_output_embeddings(self):
            return self.head

    with pytest.raises(ValueError, match="Experts is not dense"):
        TokenCost.of_model(Experts())


def test_work_of_two_choices():
    """Stock `hf` runs 1 2 3 4 and 1 2 3 6; at least, 1 2 3 run once, then 4 and 6. Logits: after 3, 4 and 6."""
    pairs = [((1, 2, 3), (4, 5)), ((1, 2, 3), (6, 7))]
    assert stock_work(pairs) == Work(8, 8)
    assert least_work(pairs) == Work(5, 3)
    assert floor(pairs, TokenCost(layers=10, output=3)) == (5 * 10 + 3 * 3) / (8 * 10 + 8 * 3)


def test_letters_are_scored_after_one_run_of_their_context():
    pairs = [((1, 2, 3), (letter,)) for letter in (7, 8, 9)]
    assert stock_work(pairs) == Work(3, 3)
    assert least_work(pairs) == Work(3, 1)


def test_the_same_request_twice_is_done_once():
    assert least_work([((1, 2), (3, 4))] * 2) == Work(3, 2)


def test_padding_is_of_batches_of_rows_of_like_length():
    pairs = [(range(length), [9]) for length in (2, 5, 3, 4)]
    assert stock_padding(pairs, 2) == pytest.approx(1 - 14 / (5 + 5 + 3 + 3))
    assert stock_padding(pairs, 1) == 0


def test_floor_of_four_long_choices():
    """Of the shape of HellaSwag on SmolLM2-135M: contexts of 46 tokens, four endings of 28."""
    assert floor(choices(46, 28, 4), SMOLLM2) == pytest.approx(0.495, abs=5e-4)


def test_floor_of_two_labels_of_one_token():
    """Of the shape of SST-2: what is saved is the output layer at all but the last of 54 positions."""
    assert floor(choices(54, 1, 2), SMOLLM2) == pytest.approx(0.793, abs=5e-4)
