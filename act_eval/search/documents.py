"""Calibration documents: what a search scores heads on, taken from training splits and rendered by lm-eval's own tasks."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from act_eval.lm import ACTLM
from act_eval.scoring import Tokens
from act_eval.tasks import TaskError

logger = logging.getLogger(__name__)

_SURE, _UNLIKELY = 0.0, -100.0


@dataclass(frozen=True)
class CalibrationDocument:
    """One document of a training split.

    Attributes:
        task: name of its lm-eval task.
        requests: token ids of context and continuation, one pair for each choice (or one for a `loglikelihood` task).
        gold: indices of the right choices; empty for a `loglikelihood` task.
    """

    task: str
    requests: tuple[tuple[Tokens, Tokens], ...]
    gold: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of tokens of the longest context."""
        return max(len(context) for context, _ in self.requests)


@dataclass(frozen=True)
class DocumentSettings:
    """Which documents, and how they are rendered.

    Args:
        limit: documents per task, or None for all.
        seed: draws the documents and the few-shot examples.
        num_fewshot: solved examples per prompt, or None for each task's own number.
        apply_chat_template: use the tokenizer's chat template.
    """

    limit: int | None
    seed: int
    num_fewshot: int | None = None
    apply_chat_template: bool = False


def calibration_split(task: Task) -> str:
    """The split whose documents may be searched on: the training split, else the validation split if another one is evaluated.

    Raises:
        TaskError: the task cannot be searched on.
    """
    if not isinstance(task, ConfigurableTask):
        raise TaskError(
            f"{type(task).__name__} is not a task made from a config, so its splits are unknown: choose another task."
        )
    config = task.config
    if config.output_type not in ("multiple_choice", "loglikelihood"):
        raise TaskError(
            f"task {config.task!r} is of type {config.output_type}: a search needs multiple-choice or loglikelihood tasks."
        )
    evaluated = config.test_split or config.validation_split
    splits = [split for split in (config.training_split, config.validation_split) if split and split != evaluated]
    if not splits:
        raise TaskError(
            f"task {config.task!r} has no split besides {evaluated!r}, which it is evaluated on: heads must be found on other "
            "documents, so choose a task with a training split."
        )
    return splits[0]


def load_documents(lm: ACTLM, tasks: Mapping[str, Task], settings: DocumentSettings) -> list[CalibrationDocument]:
    """The calibration documents of some tasks, a random choice of each task's.

    Documents whose content is also in the evaluation split are left out.

    Args:
        lm: tokenizes.
        tasks: lm-eval tasks by name. Their configs are changed, so that they cannot be evaluated afterwards.
        settings: which documents.

    Raises:
        TaskError: a task has no accuracy (`acc`) or no documents that may be used.
    """
    documents = []
    for name, task in tasks.items():
        split = calibration_split(task)
        evaluated = {_content(doc) for doc in task.eval_docs}
        # The split takes the place of the evaluation split, and lm-eval renders its documents as it always does.
        task.set_config("test_split", split)
        if settings.num_fewshot is not None:
            task.set_config("num_fewshot", settings.num_fewshot)
        task.set_fewshot_seed(settings.seed)
        usable = [index for index, doc in enumerate(task.eval_docs) if _content(doc) not in evaluated]
        if not usable:
            raise TaskError(f"all documents of the split {split!r} of task {name!r} are in its evaluation split too.")
        limit = len(usable) if settings.limit is None else min(settings.limit, len(usable))
        chosen = sorted(random.Random(settings.seed).sample(usable, limit))
        task.build_all_requests(
            samples=chosen,
            apply_chat_template=settings.apply_chat_template,
            chat_template=lm.apply_chat_template if settings.apply_chat_template else None,
            tokenizer_name=lm.tokenizer_name if settings.apply_chat_template else "",
        )
        by_document: dict[int, list[Instance]] = {}
        for instance in task.instances:
            by_document.setdefault(instance.doc_id, []).append(instance)
        documents += [_document(lm, name, task, instances) for instances in by_document.values()]
    return documents


def fingerprint(documents: Sequence[CalibrationDocument]) -> str:
    """16 hexadecimal digits that change with the documents, their order or their tokens."""
    content = [(document.task, document.requests, document.gold) for document in documents]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _content(doc: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(doc), sort_keys=True, default=str).encode()).hexdigest()


def _document(lm: ACTLM, name: str, task: Task, instances: Sequence[Instance]) -> CalibrationDocument:
    doc = instances[0].doc
    if task.OUTPUT_TYPE == "loglikelihood":
        return CalibrationDocument(name, (lm.encode_request(*instances[0].args),), ())
    choices = len(task.doc_to_choice(doc))
    requests = tuple(lm.encode_request(*instance.args) for instance in instances[:choices])
    return CalibrationDocument(name, requests, _gold(name, task, doc, choices, len(instances)))


def _gold(name: str, task: Task, doc: Any, choices: int, requests: int) -> tuple[int, ...]:
    """The choices that the task itself counts as right, found by giving it answers that are sure of one choice each.

    `requests` may exceed `choices`: tasks with `acc_mutual_info` also ask for the choices without context.
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
