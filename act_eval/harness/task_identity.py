"""What a task asks: its config, the code that the config names, and its documents."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.evaluator_utils import get_sample_size

from act_eval.harness.what_ran import digest_of, in_json

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

_WHERE_IT_IS = "config_source"  # in the metadata of a config
_ROWS = 1000


def describe_task(task: ConfigurableTask, limit: float | None, num_fewshot: int | None) -> dict[str, Any]:
    """Describe all that a task's prompts and metrics follow from, in values that JSON can hold.

    Args:
        task: as lm-eval loads it, before it runs.
        limit: of its documents, as in `PromptSettings`.
        num_fewshot: as in `PromptSettings`; without solved examples, those that they are drawn from do not count.

    Returns:
        `config`, its functions as text; `code`, for each file that functions come from, a digest; `documents` and `examples`,
        digests of what is evaluated and of what few-shot examples are drawn from.
    """
    config = in_json(task.dump_config())
    config.get("metadata", {}).pop(_WHERE_IT_IS, None)
    shots = num_fewshot if num_fewshot is not None else task.config.num_fewshot or 0
    return {
        "config": config,
        "code": _code(task),
        "documents": _digest_of_rows(task.eval_docs, get_sample_size(task, limit)),
        "examples": _digest_of_rows(task.fewshot_docs()) if shots else None,
    }


def _code(task: ConfigurableTask) -> dict[str, str]:
    """A digest of each file that functions of a task's config come from, since they may call others there."""
    values = [getattr(task.config, field.name) for field in fields(task.config)]
    modules = {sys.modules.get(function.__module__) for function in _functions(values) if function.__module__}
    files = {Path(file) for module in modules if (file := getattr(module, "__file__", None)) is not None}
    files |= {Path(function.__code__.co_filename) for function in _functions(values) if hasattr(function, "__code__")}
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in sorted(files) if file.is_file()}


def _functions(value: Any) -> Iterator[Any]:
    if callable(value):
        yield value
    elif isinstance(value, dict):
        yield from _functions(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _functions(part)


def _digest_of_rows(documents: Any, limit: int | None = None) -> str:
    digest = hashlib.sha256()
    for rows in _in_parts(documents, limit):
        digest.update(digest_of(rows).encode())
    return digest.hexdigest()[:16]


def _in_parts(documents: Any, limit: int | None) -> Iterable[Any]:
    """Some rows at a time; a dataset's by column, which is faster."""
    if hasattr(documents, "iter"):
        chosen = documents if limit is None else documents.select(range(min(limit, len(documents))))
        return chosen.iter(_ROWS)
    return islice(documents or (), limit)
