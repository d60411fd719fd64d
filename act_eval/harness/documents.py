"""Documents of lm-eval's tasks: which ones of which split, rendered to prompts by the tasks themselves."""

from __future__ import annotations

import random
from collections.abc import Sequence
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

    Documents whose content is also in the evaluation split are left out. The task's config is changed: its training split takes
    the place of the evaluation split, so that lm-eval renders training documents as it always does.

    Args:
        name: of the task.
        task: of lm-eval.
        prompts: say how many, and the seed.

    Raises:
        TaskError: no document may be used.
        SettingError: a document that is asked for by its number does not exist, or may not be used.
    """
    split = training_split(task)
    evaluated = {digest_of(dict(doc)) for doc in task.eval_docs}
    task.set_config("test_split", split)
    number = len(task.eval_docs)
    usable = [index for index, doc in enumerate(task.eval_docs) if digest_of(dict(doc)) not in evaluated]
    if not usable:
        raise TaskError(f"all documents of the split {split!r} of task {name!r} are in its evaluation split too.")
    return _draw(name, number, usable, prompts)


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
