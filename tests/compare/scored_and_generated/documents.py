"""Statements about the embedded model's small world, for tasks that generate and that score whole texts."""

import datasets

STATEMENTS = [
    ("The mouse is smaller than the", "cat."),
    ("The dog is larger than the", "mouse."),
    ("A cup is for", "drinking."),
    ("The cat is larger than the", "mouse."),
    ("A knife is for", "cutting."),
]


def statements(**kwargs):
    rows = [{"text": text, "target": target} for text, target in STATEMENTS]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def as_they_are(documents):
    return documents
