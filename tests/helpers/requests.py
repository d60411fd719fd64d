"""Requests of lm-eval about the embedded model's small world."""

import random

from lm_eval.api.instance import Instance

from act_eval.demo import corpus


def requests(kind, arguments):
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]


def prompts(count, seed=0):
    """Prompts of the demo tasks."""
    rng = random.Random(seed)
    tasks = [corpus.TASKS[index % 3] for index in range(count)]
    return [corpus.INSTRUCTIONS[task] + corpus.prompt(task, corpus.document(task, rng)) for task in tasks]


def scored_pairs(count, seed=0):
    """(context, continuation) of demo prompts, with continuations of one to twelve words."""
    rng = random.Random(seed)
    pairs = []
    for index in range(count):
        task = corpus.TASKS[index % 3]
        doc = corpus.document(task, rng)
        context = corpus.INSTRUCTIONS[task] + corpus.prompt(task, doc)
        words = corpus.world_facts(rng).split()[: rng.randint(1, 12)]
        pairs.append((context, " " + " ".join(words)))
    return pairs
