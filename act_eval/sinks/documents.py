"""The documents to look at: drawn from lm-eval's tasks, and rendered to prompts by the tasks themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lm_eval.api.task import Task

from act_eval.errors import InputError, SettingError
from act_eval.harness.asked_tasks import load_asked_tasks
from act_eval.harness.documents import draw_evaluation_documents, draw_training_documents, render, training_split
from act_eval.harness.lm import ACTLM
from act_eval.harness.requests import encode_all
from act_eval.harness.scoring import Tokens
from act_eval.harness.settings import PromptSettings
from act_eval.harness.tasks import TaskError
from act_eval.sinks.settings import SinksSettings

LONGEST_DOCUMENT = 2048


@dataclass(frozen=True)
class DrawnTask:
    """A task and the documents that were drawn from it.

    Attributes:
        task: of lm-eval.
        prompts: how its documents become prompts.
        family: the innermost group that it was asked for by, else its first tag, else its name.
        split: name of the split.
        documents: numbers of those drawn, in the split.
    """

    task: Task
    prompts: PromptSettings
    family: str
    split: str
    documents: Sequence[int]


def draw_tasks(settings: SinksSettings) -> dict[str, DrawnTask]:
    """Load the tasks and draw documents from each, before the model is loaded.

    Returns:
        The tasks by name, in the order of the settings.

    Raises:
        InputError: see `load_asked_tasks`.
        TaskError: a task has no contexts to look at, or no documents in the split.
        SettingError: the document that is to be shown by itself does not exist.
    """
    drawn: dict[str, DrawnTask] = {}
    asked = load_asked_tasks(settings.prompts, settings.model)
    for name, task in asked.loaded.tasks.items():
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise TaskError(f"task {name!r} scores whole texts and has no context to look at: choose another.")
        tags = [task.config.tag] if isinstance(task.config.tag, str) else task.config.tag or []
        family = asked.loaded.innermost.get(name, tags[0] if tags else name)
        prompts = asked.prompts.of_task(name)
        if settings.split == "train":
            split, documents = training_split(task), draw_training_documents(name, task, prompts)
        else:
            split = task.config.test_split or task.config.validation_split
            documents = draw_evaluation_documents(name, task, prompts)
        drawn[name] = DrawnTask(task, prompts, family, split, documents)
    name, first_task = next(iter(drawn.items()))
    if settings.document is not None and settings.document >= len(first_task.task.eval_docs):
        raise SettingError(
            "document",
            f"{settings.document} does not exist: the split {first_task.split!r} of task {name!r} has documents 0 to "
            f"{len(first_task.task.eval_docs) - 1}.",
        )
    return drawn


def render_prompts(lm: ACTLM, drawn: DrawnTask, documents: Sequence[int]) -> list[Tokens]:
    """Tokenize the context of each document's first request, cut from the left to the model's window.

    Args:
        lm: tokenizes.
        drawn: the task.
        documents: numbers in the split, ascending; those with an empty context are left out.

    Raises:
        TaskError: no document has a context.
        RequestError: the context of a document is no text, or has no token.
    """
    requests = [instances[0] for instances in render(lm, drawn.task, documents, drawn.prompts)]
    with_context = [request for request in requests if request.args[0] != ""]
    prompts = encode_all(with_context, lambda context, *_: lm.encode_prompt(context))
    if not prompts:
        raise TaskError(f"the documents of task {drawn.task.config.task!r} have no context to look at: choose another task.")
    return prompts


def render_single_document(lm: ACTLM, tasks: Mapping[str, DrawnTask], settings: SinksSettings) -> tuple[str, Tokens] | None:
    """Name and token ids of the document that is to be shown by itself, or None where none is.

    Raises:
        TaskError: it has no context.
        InputError: it is too long to be drawn.
    """
    if settings.document is None:
        return None
    name, first_task = next(iter(tasks.items()))
    (tokens,) = render_prompts(lm, first_task, [settings.document])
    if len(tokens) > LONGEST_DOCUMENT:
        raise InputError(
            f"document {settings.document} of task {name!r} has {len(tokens)} tokens, but its own map is drawn for at most "
            f"{LONGEST_DOCUMENT}: choose a shorter one."
        )
    return f"{name} {settings.document}", tokens
