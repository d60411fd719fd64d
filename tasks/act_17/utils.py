"""Multiple-choice documents in one form, their two accuracies, and MMLU's few-shot examples.

Each function named after a dataset adds three columns to a split, which `_multiple_choice_yaml` turns into the published
prompt: `question` (str), `options` (list of str) and `gold` (int, the index of the right option).
"""

from collections import defaultdict
from typing import Any

import numpy as np
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

Document = dict[str, Any]


def accuracies(doc: Document, results: list[tuple[float, bool]]) -> dict[str, float]:
    """The two accuracies of one document.

    Args:
        doc: with `gold`.
        results: for each option's letter, its log-likelihood and whether it is what greedy decoding gives.

    Returns:
        `acc`: 1.0 if the right letter is the likeliest of the letters. `greedy_acc`: 1.0 if it is the likeliest of the whole
        vocabulary, the criterion of the published evaluation.
    """
    log_likelihoods = [log_likelihood for log_likelihood, _ in results]
    _, is_greedy = results[doc["gold"]]
    return {"acc": float(np.argmax(log_likelihoods) == doc["gold"]), "greedy_acc": float(is_greedy)}


def hellaswag(split: Dataset) -> Dataset:
    """The raw `ctx`: lm-eval's own task removes the [title] and [step] marks, the published prompts do not."""
    return split.map(lambda doc: {"question": doc["ctx"], "options": doc["endings"], "gold": int(doc["label"])})


def arc(split: Dataset) -> Dataset:
    """The options are A, B, C, ... in the prompt, also where the dataset labels them 1 to 4."""
    return split.map(lambda doc: _labelled_choices(doc, doc["question"]))


def openbookqa(split: Dataset) -> Dataset:
    return split.map(lambda doc: _labelled_choices(doc, doc["question_stem"]))


def commonsense_qa(split: Dataset) -> Dataset:
    return split.map(lambda doc: _labelled_choices(doc, doc["question"]))


def piqa(split: Dataset) -> Dataset:
    return split.map(lambda doc: {"question": doc["goal"], "options": [doc["sol1"], doc["sol2"]], "gold": int(doc["label"])})


def copa(split: Dataset) -> Dataset:
    """The dataset's `question` column says which is asked for, "cause" or "effect"."""
    return split.map(
        lambda doc: {
            "question": f"{doc['premise']} What is the {doc['question']}?",
            "options": [doc["choice1"], doc["choice2"]],
            "gold": int(doc["label"]),
        }
    )


def mmlu(split: Dataset) -> Dataset:
    return split.map(lambda doc: {"question": doc["question"].strip(), "options": doc["choices"], "gold": int(doc["answer"])})


def _labelled_choices(doc: Document, question: str) -> Document:
    return {
        "question": question,
        "options": doc["choices"]["text"],
        "gold": doc["choices"]["label"].index(doc["answerKey"]),
    }


class MMLU(ConfigurableTask):
    """MMLU as one task, so that it counts as one dataset of 17: few-shot examples are the first of the document's subject."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._examples: defaultdict[str, list[Document]] = defaultdict(list)
        for example in self.fewshot_docs():
            self._examples[example["subject"]].append(example)

    def fewshot_context(self, doc: Document, num_fewshot: int, **options: Any) -> str | list[str]:
        """As in lm-eval, with the few-shot examples of `doc["subject"]`.

        Raises:
            ValueError: the subject has fewer than `num_fewshot` examples.
        """
        examples = self._examples[doc["subject"]]
        if num_fewshot > len(examples):
            raise ValueError(f"MMLU has {len(examples)} examples of {doc['subject']}: --num_fewshot {num_fewshot} is too many.")
        self.sampler.replace_df(examples)
        return super().fewshot_context(doc, num_fewshot, **options)
