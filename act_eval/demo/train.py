"""Train the embedded demo model: `python -m act_eval.demo.train --output DIR`.

A Llama of 4 layers x 8 heads and about a million parameters learns the text of `act_eval.demo.corpus`. Next-token loss on
every token (weight 1) makes attention sinks appear; a heavier weight on the answers makes the model learn the tasks. Every
batch is drawn from its own seed, and the state is saved every 500 steps, so that a run that was killed goes on where it
stopped and ends with the same model.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from act_eval.demo import corpus

SEED = 20240630
BATCH_SIZE = 32
BUCKET = 8
ANSWER_WEIGHT = 9.0
LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
SAVE_EVERY = 500
KIND_WEIGHTS: dict[corpus.Task | Literal["facts"], int] = {"sentiment": 3, "topic": 3, "choice": 3, "facts": 1}
BOS, EOS = "<s>", "</s>"


def sample_pieces(rng: random.Random) -> list[tuple[str, bool]]:
    """Draw one training text, cut into pieces: (text, whether it is an answer)."""
    kind = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    if kind == "facts":
        return [(corpus.world_facts(rng), False)]
    return corpus.training_pieces(kind, rng)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which every word of the corpus, with its leading space, is one token."""
    rng = random.Random(SEED)
    texts = ("".join(text for text, _ in sample_pieces(rng)) for _ in range(20_000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS, model_max_length=512
    )


def encode(pieces: list[tuple[str, bool]], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Tokenize one text, and give each token its weight in the loss."""
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for text, is_answer in pieces:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        weights += [ANSWER_WEIGHT if is_answer else 1.0] * len(piece)
    return ids, weights


def batch(step: int, tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the batch of a step: token ids int64 `[batch, length]` and loss weights float32 `[batch, length]`, right-padded.

    Texts are drawn `BUCKET` batches at a time and sorted by length, so that a batch holds little padding.
    """
    rng = random.Random(f"{SEED} bucket {step // BUCKET}")
    texts = [encode(sample_pieces(rng), tokenizer) for _ in range(BATCH_SIZE * BUCKET)]
    texts.sort(key=lambda text: len(text[0]))
    order = rng.sample(range(BUCKET), BUCKET)
    start = order[step % BUCKET] * BATCH_SIZE
    chosen = texts[start : start + BATCH_SIZE]
    length = max(len(ids) for ids, _ in chosen)
    ids = torch.full((BATCH_SIZE, length), tokenizer.pad_token_id)
    weights = torch.zeros(BATCH_SIZE, length)
    for row, (text_ids, text_weights) in enumerate(chosen):
        ids[row, : len(text_ids)] = torch.tensor(text_ids)
        weights[row, : len(text_ids)] = torch.tensor(text_weights)
    return ids, weights


def learning_rate(step: int, steps: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine down to a tenth."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LEARNING_RATE * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def accuracies(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 100) -> dict[corpus.Task, float]:
    """Measure zero-shot accuracy on the first train documents of each task, as a progress report."""
    result = {}
    for task in corpus.TASKS:
        correct = 0
        for doc in corpus.documents(task, "train", count):
            text = corpus.INSTRUCTIONS[task] + corpus.prompt(task, doc)
            words = [f" {word}" for word in corpus.choices(task, doc)]
            choices = [ids[0] for ids in tokenizer(words, add_special_tokens=False)["input_ids"]]
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
            correct += int(logits[choices].argmax()) == doc["label"]
        result[task] = correct / count
    return result


def train(output: Path, steps: int) -> None:
    """Train for `steps` steps and write the model (float16 safetensors) and its tokenizer to `output`."""
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    decay = [p for p in model.parameters() if p.dim() > 1]
    no_decay = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "training_state.pt"
    start_step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start_step = state["step"]
    progress = tqdm(range(start_step, steps), initial=start_step, total=steps)
    for step in progress:
        ids, weights = batch(step, tokenizer)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        logits = model(input_ids=ids).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            model.eval()
            tqdm.write(f"step {step + 1}: loss {loss.item():.4f}, accuracy {accuracies(model, tokenizer)}")
            model.train()
            temporary = checkpoint.with_suffix(".partial")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, temporary)
            os.replace(temporary, checkpoint)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    # The name of the same class that transformers 4.57 knows too.
    config = output / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    checkpoint.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded demo model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=3000, help="training steps (default: 3000)")
    arguments = parser.parse_args()
    train(arguments.output, arguments.steps)


if __name__ == "__main__":
    main()
