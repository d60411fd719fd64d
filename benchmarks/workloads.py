"""What whole evaluations run on: made-up requests like those of common tasks, or the rows of real tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lm_eval.api.instance import Instance
from models import words

from act_eval.harness.tasks import explained_dataset_errors, load_tasks, task_manager

SHORT_NAMES = {"squad": "act_squad_v1"}
"""Names of rows that are no names of tasks."""


def choices(documents: int, shots: int, rng: random.Random) -> list[Instance]:
    """Like HellaSwag: contexts of 60 to 120 tokens, four endings of 15 to 40; each shot is a context with its ending."""
    instances = []
    for document in range(documents):
        examples = [words(rng.randint(75, 160), rng) for _ in range(shots)]
        context = " ".join([*examples, words(rng.randint(60, 120), rng)])
        for choice in range(4):
            instances.append(_loglikelihood(context, " " + words(rng.randint(15, 40), rng), document, choice))
    return instances


def letters(documents: int, rng: random.Random) -> list[Instance]:
    """Like MMLU: contexts of 60 to 250 tokens and four letters."""
    instances = []
    for document in range(documents):
        context = words(rng.randint(60, 250), rng)
        instances += [_loglikelihood(context, f" w{letter}", document, letter) for letter in range(2, 6)]
    return instances


def questions(documents: int, rng: random.Random) -> list[Instance]:
    """Like SQuAD: contexts of 120 to 250 tokens, 16 generated."""
    generation = {"until": ["\n"], "max_gen_toks": 16, "min_new_tokens": 16, "do_sample": False}
    return [
        Instance("generate_until", {}, (words(rng.randint(120, 250), rng), dict(generation)), 0, ("questions", document, 1))
        for document in range(documents)
    ]


def _loglikelihood(context: str, continuation: str, document: int, choice: int) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), choice, ("choices", document, 1))


def made_up(documents: int) -> dict[str, Sequence[Instance]]:
    """Workloads by name, of words that `models.word_tokenizer` knows.

    Args:
        documents: how many there are in each; half as many with five shots, twice as many letters.
    """
    rng = random.Random(1)
    return {
        "choices": choices(documents, 0, rng),
        "choices-5-shot": choices(documents // 2, 5, rng),
        "letters": letters(documents * 2, rng),
        "generation": questions(documents, rng),
    }


def real_rows(names: Sequence[str], documents: int) -> dict[str, Sequence[Instance]]:
    """The requests of the first documents of tasks, by name, as lm-eval makes them of the tasks' configs.

    Args:
        names: of tasks, or of groups of them, of lm-eval or of this project, or `SHORT_NAMES`.
        documents: how many of each task.

    Raises:
        TaskError: there is no such task, or its dataset cannot be had.
    """
    manager = task_manager([SHORT_NAMES.get(name, name) for name in names])
    rows: dict[str, Sequence[Instance]] = {}
    for name in names:
        with explained_dataset_errors():
            tasks = load_tasks(SHORT_NAMES.get(name, name), manager).values()
            for task in tasks:
                task.build_all_requests(limit=documents, rank=0, world_size=1)
        rows[name] = [request for task in tasks for request in task.instances]
    return rows
