"""Models with random weights, and a tokenizer of words for them."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 32_000


def llama(
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    dtype: torch.dtype,
    device: str,
    key_value_heads: int | None = None,
    vocabulary: int = VOCABULARY,
    max_length: int = 8192,
) -> PreTrainedModel:
    """A Llama with random weights, the same ones each time on one kind of device.

    Args:
        hidden, layers, heads, intermediate: its shape.
        dtype: of its weights.
        device: where it is made, so that large ones need not pass through the memory of the CPU.
        key_value_heads: as many as heads by default.
        vocabulary: number of tokens.
        max_length: tokens that it takes.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if key_value_heads is None else key_value_heads,
        max_position_embeddings=max_length,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    sharpen_attention(model)
    return model.to(device=device, dtype=dtype).eval()


def sharpen_attention(model: PreTrainedModel) -> None:
    """Make a few keys attract attention, as in trained models: with fresh weights attention is nearly uniform."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data *= 2.2 / (projection.weight.std() * projection.in_features**0.5)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """`VOCABULARY` words w0, w1, ...; a text of n words has n tokens."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{index}": index for index in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def words(count: int, rng: random.Random) -> str:
    """A text of `count` random words."""
    return " ".join(f"w{rng.randrange(2, VOCABULARY)}" for _ in range(count))
