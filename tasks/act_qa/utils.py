"""Exact match and F1 of SQuAD, computed here: `evaluate.load` would fetch a script from the hub."""

import re
import string
from collections import Counter
from typing import Any

NO_ANSWER = "unanswerable"


def squad_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match and F1 of one generated answer, as the official SQuAD 2.0 evaluation script defines them.

    Args:
        doc: a row of SQuAD 1.1 or 2.0; `answers["text"]` holds the gold answers, none for an unanswerable question.
        results: the generated answer alone. For an unanswerable question, "unanswerable" (as the prompt asks) and nothing at
            all are right.

    Returns:
        `exact_match`, 0.0 or 1.0, and `f1`, 0.0 to 1.0: each the best over the gold answers.
    """
    golds = [gold for gold in doc["answers"]["text"] if normalize(gold)]
    prediction = normalize(results[0])
    if not golds:
        right = float(prediction in ("", NO_ANSWER))
        return {"exact_match": right, "f1": right}
    return {
        "exact_match": max(float(prediction == normalize(gold)) for gold in golds),
        "f1": max(token_f1(prediction.split(), normalize(gold).split()) for gold in golds),
    }


def normalize(answer: str) -> str:
    """Lower case, without punctuation, the articles a, an, the, and extra white space."""
    answer = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def token_f1(prediction: list[str], gold: list[str]) -> float:
    """Harmonic mean of precision and recall of the words, each counted as often as it occurs."""
    common = (Counter(prediction) & Counter(gold)).total()
    return 2 * common / (len(prediction) + len(gold))
