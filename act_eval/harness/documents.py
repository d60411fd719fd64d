"""Documents of lm-eval's tasks: which ones of which split, rendered to prompts by the tasks themselves."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from act_eval.errors import SettingError
from act_eval.harness.asked_tasks import check_samples
from act_eval.harness.lm import ACTLM
from act_eval.harness.request_cache import request_cache_of
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.task_identity import describe_task
from act_eval.harness.tasks import TaskError
from act_eval.harness.what_ran import digest_of

_TRIED = 5  # documents, to see which columns a task asks about


def training_split(task: Task) -> str:
    """Choose the training split of a task, else its validation split if another one is evaluated.

    Raises:
        TaskError: there is none, or the task's splits are unknown.
    """
    config = _config(task)
    evaluated = config.test_split or config.validation_split
    splits = [split for split in (config.training_split, config.validation_split) if split and split != evaluated]
    if not splits:
        raise TaskError(
            f"task {config.task!r} has no split besides {evaluated!r}, which it is evaluated on: choose a task with a "
            "training split."
        )
    return splits[0]


def draw_training_documents(name: str, task: Task, prompts: PromptSettings) -> list[int]:
    """Draw documents of a task's training split, by their number in it, in order.

    Documents that the evaluation split has too are left out, whatever their labels and ids, see `asked_columns`. The task's
    config is changed: its training split takes the place of the evaluation split, so that lm-eval renders training documents as
    it always does.

    Args:
        name: of the task.
        task: of lm-eval.
        prompts: say how many, and the seed.

    Raises:
        TaskError: no document may be used.
        SettingError: a document that is asked for by its number does not exist, or may not be used.
    """
    split = training_split(task)
    columns = asked_columns(task)
    evaluated = {_digest_of(doc, columns) for doc in task.eval_docs}
    task.set_config("test_split", split)
    number = len(task.eval_docs)
    usable = [index for index, doc in enumerate(task.eval_docs) if _digest_of(doc, columns) not in evaluated]
    if not usable:
        raise TaskError(f"all documents of the split {split!r} of task {name!r} are in its evaluation split too.")
    return _draw(name, number, usable, prompts)


def asked_columns(task: Task) -> frozenset[str]:
    """Find the columns of a task's documents that it asks about: those that make its prompts and choices.

    Labels and ids are none of them. A column is one where a prompt or a choice changes, or cannot be made, when it holds the
    value of another document; a few documents from the whole evaluation split are tried, since rendering all is slow.
    """
    number = len(task.eval_docs)
    tried = [dict(task.eval_docs[index]) for index in sorted({number * part // _TRIED for part in range(_TRIED)})]
    others = [*tried[1:], *tried[:1]]
    return frozenset(
        name for name in tried[0] if any(_asks_about(task, name, doc, other) for doc, other in zip(tried, others, strict=True))
    )


def _asks_about(task: Task, name: str, doc: dict[str, Any], other: dict[str, Any]) -> bool:
    if doc.get(name) == other.get(name):
        return False
    try:
        return _asked(task, {**doc, name: other.get(name)}) != _asked(task, doc)
    except Exception:  # what a task's own code makes of a document that is none
        return True


def _asked(task: Task, doc: dict[str, Any]) -> tuple[Any, Any]:
    """The prompt and the choices of a document."""
    doc = copy.deepcopy(doc)
    return task.doc_to_text(doc), task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None


def _digest_of(doc: Mapping[str, Any], columns: Collection[str]) -> str:
    """A digest of a document as far as it is asked about; of all of it where that is nothing."""
    return digest_of({name: value for name, value in doc.items() if name in columns or not columns})


def draw_evaluation_documents(name: str, task: Task, prompts: PromptSettings) -> list[int]:
    """Draw documents that a task is evaluated on, by their number in the split, in order.

    Raises:
        SettingError: a document that is asked for by its number does not exist.
    """
    number = len(task.eval_docs)
    return _draw(name, number, range(number), prompts)


def render(lm: ACTLM, task: Task, documents: Sequence[int], prompts: PromptSettings) -> list[list[Instance]]:
    """Make lm-eval's requests for some documents, document by document.

    Args:
        lm: holds the chat template.
        task: its config is changed where the settings say something about few-shot examples. As for `lm_eval run`, a config
            that says 0 stays as it is.
        documents: their numbers in the split, ascending.
        prompts: how documents become prompts.
    """
    name = task.config.task
    prompts = replace(prompts.of_task(name), limit=None, samples={name: documents})
    if prompts.num_fewshot is not None and task.config.num_fewshot != 0:
        task.set_config("num_fewshot", prompts.num_fewshot)
    task.set_fewshot_seed(prompts.seed)
    description = describe_task(task, prompts, ModelSettings()) if prompts.keeps_requests else {}
    with request_cache_of(description, prompts, lm):
        task.build_all_requests(samples=list(documents), **prompts.request_arguments(lm))
    by_document: dict[int, list[Instance]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    return list(by_document.values())


def _config(task: Task) -> Any:
    if not isinstance(task, ConfigurableTask):
        raise TaskError(
            f"{type(task).__name__} is not a task made from a config, so its splits are unknown: choose another task."
        )
    return task.config


def _draw(name: str, documents: int, usable: Sequence[int], prompts: PromptSettings) -> list[int]:
    """Draw from the documents that may be used, or take those that are asked for by their numbers."""
    check_samples(name, documents, prompts)
    asked = (prompts.samples or {}).get(name)
    if asked is None:
        number = len(usable) if prompts.limit is None else min(int(prompts.limit), len(usable))
        return sorted(random.Random(prompts.seed).sample(usable, number))
    unusable = sorted(set(asked).difference(usable))
    if unusable:
        raise SettingError(
            "samples", f"names document {unusable[0]} of {name}, which is in the evaluation split too: leave it out."
        )
    return list(asked)
