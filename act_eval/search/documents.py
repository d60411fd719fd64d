"""Calibration documents: what a search scores heads on. They are of training splits, and lm-eval's own tasks render them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from act_eval.harness.documents import draw_training_documents, render, training_split
from act_eval.harness.lm import ACTLM
from act_eval.harness.requests import encode_all
from act_eval.harness.scoring import Tokens
from act_eval.harness.settings import PromptSettings
from act_eval.harness.tasks import TaskError

_SURE, _UNLIKELY = 0.0, -100.0  # log-probabilities


@dataclass(frozen=True)
class CalibrationDocument:
    """One document of a training split, as token ids.

    Attributes:
        task: name of its lm-eval task.
        requests: (context, continuation) for each choice; a single one for a `loglikelihood` task.
        gold: indices of the right choices; empty for a `loglikelihood` task.
    """

    task: str
    requests: tuple[tuple[Tokens, Tokens], ...]
    gold: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens of the longest context."""
        return max(len(context) for context, _ in self.requests)


def calibration_split(task: Task) -> str:
    """Name the split whose documents may be searched on: the training split, else the validation split if another is evaluated.

    Raises:
        TaskError: the task has no such split, or is neither multiple-choice nor `loglikelihood`.
    """
    split = training_split(task)
    if task.config.output_type not in ("multiple_choice", "loglikelihood"):
        raise TaskError(
            f"task {task.config.task!r} is of type {task.config.output_type}: a search needs multiple-choice or loglikelihood "
            "tasks."
        )
    return split


def load_documents(lm: ACTLM, tasks: Mapping[str, Task], prompts: PromptSettings) -> list[CalibrationDocument]:
    """Draw calibration documents from some tasks, and render them.

    Documents that the evaluation split has too are left out, whatever their labels and ids.

    Args:
        lm: tokenizes.
        tasks: lm-eval tasks by name. Their configs are changed, so that they cannot be evaluated afterwards.
        prompts: how many documents of each task, the seed that draws them, and how they are rendered.

    Returns:
        The documents, task by task.

    Raises:
        TaskError: a task has no accuracy (`acc`) or no documents that may be used.
        RequestError: a choice of a document cannot be scored.
    """
    for task in tasks.values():
        calibration_split(task)
    drawn = {name: draw_training_documents(name, task, prompts) for name, task in tasks.items()}
    return render_documents(lm, tasks, drawn, prompts)


def render_documents(
    lm: ACTLM, tasks: Mapping[str, Task], drawn: Mapping[str, Sequence[int]], prompts: PromptSettings
) -> list[CalibrationDocument]:
    """Render documents that were drawn from the training splits of some tasks, task by task.

    Args:
        lm: tokenizes.
        tasks: lm-eval tasks by name, as `draw_training_documents` changed them.
        drawn: numbers of documents, ascending, by task.
        prompts: how they are rendered.

    Raises:
        TaskError: a task has no accuracy (`acc`).
        RequestError: a choice of a document cannot be scored.
    """
    documents: list[CalibrationDocument] = []
    for name, task in tasks.items():
        documents += _documents(lm, name, task, render(lm, task, drawn[name], prompts))
    return documents


def interleave(documents: Sequence[CalibrationDocument], seed: int) -> list[CalibrationDocument]:
    """Shuffle documents and spread their tasks evenly, so that every stretch of the list holds its share of each task."""
    rng = np.random.default_rng(seed)
    by_task: dict[str, list[CalibrationDocument]] = {}
    for document in documents:
        by_task.setdefault(document.task, []).append(document)
    placed = [
        ((position + 0.5) / len(of_task), task, of_task[int(number)])
        for task, of_task in by_task.items()
        for position, number in enumerate(rng.permutation(len(of_task)))
    ]
    return [document for _, _, document in sorted(placed, key=lambda item: item[:2])]


def fingerprint(documents: Sequence[CalibrationDocument]) -> str:
    """Give 16 hexadecimal digits that change with the documents, their order or their tokens."""
    content = [(document.task, document.requests, document.gold) for document in documents]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _documents(lm: ACTLM, name: str, task: Task, rendered: Sequence[Sequence[Instance]]) -> Iterator[CalibrationDocument]:
    """Tokenize the documents of a task, each of which comes as its requests."""
    if task.OUTPUT_TYPE == "loglikelihood":
        scored = [instances[:1] for instances in rendered]
    else:
        scored = [instances[: len(task.doc_to_choice(instances[0].doc))] for instances in rendered]
    encoded = iter(encode_all([instance for instances in scored for instance in instances], lm.encode_request))
    for instances, choices in zip(rendered, scored, strict=True):
        requests = tuple(islice(encoded, len(choices)))
        of_choices = task.OUTPUT_TYPE != "loglikelihood"
        gold = _gold(name, task, instances[0].doc, len(choices), len(instances)) if of_choices else ()
        yield CalibrationDocument(name, requests, gold)


def _gold(name: str, task: Task, doc: Any, choices: int, requests: int) -> tuple[int, ...]:
    """Find the choices that the task itself counts as right, by giving it answers that are sure of one choice each.

    Args:
        name: of the task.
        task: of lm-eval.
        doc: as the task has it.
        choices: number of choices.
        requests: number of requests; more than `choices` where a task with `acc_mutual_info` asks for each choice without its
            context, too.
    """
    gold = []
    for choice in range(choices):
        answers = [(_SURE if index == choice else _UNLIKELY, index == choice) for index in range(requests)]
        results = task.process_results(doc, answers)
        if "acc" not in results:
            raise TaskError(f"task {name!r} has no metric acc, which a search needs: it has {', '.join(results)}.")
        if results["acc"]:
            gold.append(choice)
    return tuple(gold)
