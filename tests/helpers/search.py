"""Documents for searches, and what a search does to them done naively."""

from __future__ import annotations

import random

import numpy as np

from act_eval.attention.act import ACT
from act_eval.harness.arguments import ACTArguments
from act_eval.search.documents import CalibrationDocument
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.objective import LabelPriors
from act_eval.search.scores import Scores
from helpers.models import random_ids


def random_documents(count, seed=0, context_of_each_choice=False):
    """Documents of random tokens, with choices of one to five tokens, and a loglikelihood one at the end.

    The second has two right choices.
    """
    rng = random.Random(seed)
    documents = []
    for number in range(count):
        context = tuple(random_ids(rng.randint(20, 45), seed=100 * seed + number)[0].tolist())
        choices = [tuple(rng.randrange(3, 128) for _ in range(rng.randint(1, 5))) for _ in range(3)]
        requests = [((*context, index) if context_of_each_choice else context, choice) for index, choice in enumerate(choices)]
        gold = tuple(sorted(rng.sample(range(3), 2 if number == 1 else 1)))
        documents.append(CalibrationDocument("random", tuple(requests), gold))
    return [*documents, CalibrationDocument("words", (documents[0].requests[1],), ())]


def labelled_documents(count, seed=0):
    """Documents of random tokens, with the same three choices, of one, two and three tokens."""
    rng = random.Random(seed)
    contexts = [tuple(random_ids(rng.randint(20, 45), seed=100 * seed + number)[0].tolist()) for number in range(count)]
    labels = ((20,), (31, 40), (57, 61, 70))
    return [
        CalibrationDocument("labels", tuple((context, label) for label in labels), (rng.randrange(3),)) for context in contexts
    ]


def naive_scores(lm, act, documents, profile):
    """Correct and margin of each document from one whole evaluation through ACT, `[documents]` each."""
    lm.set_act(ACTArguments(profile, settings={name: getattr(act, name) for name in ACT.setting_names()}))
    try:
        requests = [(("", ""), list(context), list(tokens)) for document in documents for context, tokens in document.requests]
        answers = iter(lm._loglikelihood_tokens(requests, disable_tqdm=True))
    finally:
        lm.set_act(ACTArguments("none"))
    correct, margin = [], []
    for document in documents:
        own = [next(answers) for _ in document.requests]
        values = [value for value, _ in own]
        if not document.gold:
            correct.append(own[0][1])
            margin.append(values[0])
            continue
        correct.append(int(np.argmax(values)) in document.gold)
        right = max(value for index, value in enumerate(values) if index in document.gold)
        margin.append(right - max(value for index, value in enumerate(values) if index not in document.gold))
    return np.array(correct), np.array(margin)


def evaluator(lm, act, layers=None, batch_size=8):
    return HeadEvaluator(lm, act, layers if layers is not None else range(lm.config.num_hidden_layers), batch_size)


def plain_documents(count, tasks=("a", "b")):
    """Documents of two choices, whose first is right."""
    return [
        CalibrationDocument(tasks[number % len(tasks)], (((3, 4, number + 5), (1,)), ((3, 4, number + 5), (2,))), (0,))
        for number in range(count)
    ]


class SimulatedStages:
    """Gives scores that are known already: by number of heads, `[documents]`, in the order of the documents."""

    def __init__(self, scores):
        self.priors, self._scores = LabelPriors(), scores

    def score_head_set(self, documents, profile, round_name=""):
        whole = self._scores[profile.size]
        start = int(round_name[4:-1]) if round_name.startswith("rest") else 0
        part = slice(start, start + len(documents))
        return np.arange(len(documents)), Scores(whole.correct[part], whole.margin[part]), 1.0
