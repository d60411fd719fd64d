"""The questions of MT-Bench, from the Hugging Face hub or from FastChat's `question.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.errors import InputError

TURNS = (1, 2)


@dataclass(frozen=True)
class Question:
    """A question of two turns.

    Attributes:
        question_id: FastChat's, or the hub's `prompt_id`.
        category: such as writing or math.
        turns: what the user says, first and second.
        reference: right answers to the turns; empty where there is none.
    """

    question_id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] = ("", "")

    def to_json(self) -> str:
        """One line of FastChat's `question.jsonl`."""
        record = {"question_id": self.question_id, "category": self.category, "turns": self.turns}
        if any(self.reference):
            record["reference"] = self.reference
        return json.dumps(record, ensure_ascii=False)


def load_questions(source: str) -> list[Question]:
    """Load questions, in their order.

    Args:
        source: path of a `question.jsonl`, or the id of a dataset on the Hugging Face hub: `HuggingFaceH4/mt_bench_prompts`,
            `lighteval/mt-bench`, or one with the same columns.

    Raises:
        InputError: there is no such file or dataset, or it does not hold questions of two turns.
    """
    rows = _rows_of_file(Path(source)) if source.endswith((".jsonl", ".json")) else _rows_of_hub(source)
    questions = [_question(row, f"question {number} of {source}") for number, row in enumerate(rows, start=1)]
    ids = [question.question_id for question in questions]
    if not ids or len(set(ids)) < len(ids):
        raise InputError(
            f"{source} {'repeats a question_id' if ids else 'holds no questions'}: take FastChat's question.jsonl."
        )
    return questions


def first_of_each_category(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Choose the first `limit` questions of each category, or all of them for None, in their order."""
    kept: dict[str, int] = {}
    chosen = []
    for question in questions:
        kept[question.category] = kept.get(question.category, 0) + 1
        if limit is None or kept[question.category] <= limit:
            chosen.append(question)
    return chosen


def _rows_of_file(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: give FastChat's question.jsonl, or the id of a dataset.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a file with a line of JSON for each question ({error}).") from error


def _rows_of_hub(source: str) -> Iterable[Any]:
    from datasets import load_dataset

    try:
        return load_dataset(source, split="train")
    except Exception as error:  # the hub, files and formats raise dozens of kinds
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"the dataset {source} cannot be loaded ({reason}): connect to the Hugging Face hub (and unset HF_HUB_OFFLINE), "
            "run in a folder that holds it under this name, or give the path of FastChat's question.jsonl."
        ) from error


def _question(row: Any, name: str) -> Question:
    try:
        question_id = row["question_id"] if "question_id" in row else row["prompt_id"]
        first, second = row["turns"] if "turns" in row else row["prompt"]
        question = Question(int(question_id), str(row["category"]), (first, second), _reference(row))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} lacks a question_id, a category or two turns ({error!r}): take FastChat's question.jsonl."
        ) from error
    if not all(isinstance(turn, str) and turn.strip() for turn in question.turns):
        raise InputError(f"{name} has an empty turn: take FastChat's question.jsonl.")
    return question


def _reference(row: Mapping[str, Any]) -> tuple[str, str]:
    texts = row.get("reference") or []
    first, second = (*([texts] if isinstance(texts, str) else texts), "", "")[:2]
    return first or "", second or ""
