"""Small tasks of one's own, in a folder for `--include-path`: multiple choice, generation, and some with peculiar configs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

WORDS = ["old", "young", "big", "small", "red", "black", "quick", "slow", "good", "bad", "tall", "short"]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "The {{word}} animal is a",
    "doc_to_target": "{{gold}}",
    "doc_to_choice": ["cat", "dog"],
    "metric_list": [{"metric": "acc"}],
}
TEXT = {
    "output_type": "generate_until",
    "doc_to_text": "The {{word}} animal is a",
    "doc_to_target": " {{['cat', 'dog'][gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
CODE = """
import random

import datasets


def drawn(docs):
    return docs.map(lambda doc: {"word": f"{random.choice(['very', 'not', 'quite'])} {doc['word']}"})


def made(word="plain", pretrained="none", **_):
    rows = [{"word": f"{word} {pretrained} {number}", "gold": number % 2} for number in range(4)]
    return {"test": datasets.Dataset.from_list(rows)}
"""


def write_pets(folder: Path) -> Path:
    """Write rows, code and the configs of all tasks, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder, "train", [f"very {word}" for word in WORDS])
    write_rows(folder, "test", WORDS)
    (folder / "code.py").write_text(CODE)
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    rows = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "train",
        "test_split": "test",
        "fewshot_split": "train",
    }
    configs = {
        "pets": {**CHOICE, **rows, "description": "About pets.\n\n", "tag": "pets_tagged"},
        "pets_zero": {**CHOICE, **rows, "num_fewshot": 0},
        "pets_two": {**CHOICE, **rows, "num_fewshot": 2, "tag": "pets_tagged"},
        "pets_text": {**TEXT, **rows},
        "pets_training": {**CHOICE, **rows, "description": "About pets.\n\n", "test_split": "train"},
        "pets_unsafe": {**TEXT, **rows, "unsafe_code": True},
        "pets_drawn": {**CHOICE, **rows, "process_docs": "!function code.drawn"},
        "pets_made": {**CHOICE, "custom_dataset": "!function code.made", "test_split": "test"},
    }
    for name, config in configs.items():
        write_task(folder, name, config)
    write_task(folder, "pets_group", {"group": "pets_group", "task": ["pets", "pets_zero", "pets_text"]})
    return folder


def write_rows(folder: Path, split: str, words: list[str]) -> None:
    """Write the rows of a split."""
    lines = [json.dumps({"word": word, "gold": number % 2}) for number, word in enumerate(words)]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def write_task(folder: Path, name: str, config: dict) -> None:
    """Write the config of a task or a group."""
    text = yaml.safe_dump(
        {**({} if "group" in config else {"task": name}), **config, "metadata": {"version": 1}}, sort_keys=False
    )
    (folder / f"{name}.yaml").write_text(re.sub(r"'(!function [\w.]+)'", r"\1", text))
