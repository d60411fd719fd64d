"""Models with planted heads, whose words are their tokens, and tasks for them."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings


@torch.no_grad()
def plant_head(model, head, constant, mark, reads, writes, weight):
    """Make a head that looks from each token to those with a mark, and passes something on from there.

    Args:
        model: a Llama with as many key/value heads as query heads.
        head: (layer, head).
        constant: the dimension of the hidden states in which every token has the same.
        mark: the dimension in which marked tokens, which so become the head's sinks, have something.
        reads, writes: the dimension that is passed on, and the one that it is added to.
        weight: how much of it.
    """
    attention, dim = model.model.layers[head[0]].self_attn, model.config.head_dim
    start, unrotated = head[1] * dim, dim // 2 - 1  # the slowest of the rotary frequencies
    attention.q_proj.weight[start + unrotated, constant] = 0.6
    attention.k_proj.weight[start + unrotated, mark] = 1
    attention.v_proj.weight[start : start + dim] = 0
    attention.v_proj.weight[start, reads] = 1
    attention.o_proj.weight[:, start : start + dim] = 0
    attention.o_proj.weight[writes, start] = weight


def save_tokenizer(folder, vocabulary_size):
    """Write a tokenizer of the words w3, w4, ..., each of which is the token of its number."""
    vocabulary = {"<pad>": 0, "<unk>": 1, "<eos>": 2, **{f"w{index}": index for index in range(3, vocabulary_size)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)


def write_task(folder, name, document, counts):
    """Write a multiple-choice task to `folder/tasks`.

    Args:
        folder: exists.
        name: of the task.
        document: makes one, with `text`, `choices` and `label`.
        counts: how many documents of each split.
    """
    files = {}
    for split, count in counts.items():
        files[split] = str(folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(document()) for _ in range(count)))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "training_split": "train",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task))


def search(planted, output, **settings):
    """Search a model on its task, both called planted, in all layers by default."""
    model_args = {"pretrained": str(planted / "model"), "dtype": "float32", "act_alpha": 5, "act_keep": "first-token"}
    model = ModelSettings(model_args, device="cpu", batch_size=32)
    prompts = PromptSettings(("planted",), include_path=str(planted / "tasks"))
    return run_search(SearchSettings(model, prompts, **{"layers": "all", **settings}), output)


def found(result):
    """The heads that a search chose."""
    return {(layer, head) for layer, heads in result.profile.heads.items() for head in heads}
