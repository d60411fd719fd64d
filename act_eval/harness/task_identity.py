"""What a task asks: its config, the code that the config names, and its documents."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import evaluated_documents
from act_eval.harness.what_ran import digest_of, in_json

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

_WHERE_IT_IS = "config_source"  # in the metadata of a config
_ROWS = 1000


def describe_task(task: ConfigurableTask, prompts: PromptSettings, model: ModelSettings) -> dict[str, Any]:
    """Describe all that a task's prompts and metrics follow from, in values that JSON can hold.

    Args:
        task: as lm-eval loads it, before it runs.
        prompts: of this task: which of its documents are asked; without solved examples, those that they are drawn from do not
            count.
        model: its arguments, which lm-eval puts into the metadata of the config, do not count there.

    Returns:
        `config`, its functions as text; `code`, for each file that functions come from, a digest; `documents` and `examples`,
        digests of what is evaluated and of what few-shot examples are drawn from.
    """
    config = in_json(task.dump_config())
    of_the_model = in_json(model.without_act)
    for name, value in list(config.get("metadata", {}).items()):
        if name == _WHERE_IT_IS or (name in of_the_model and of_the_model[name] == value and name not in prompts.metadata):
            del config["metadata"][name]
    shots = prompts.num_fewshot if prompts.num_fewshot is not None else task.config.num_fewshot or 0
    return {
        "config": config,
        "code": _code(task),
        "documents": _digest_of_rows(task.eval_docs, evaluated_documents(task, prompts)),
        "examples": _digest_of_rows(task.fewshot_docs()) if shots else None,
    }


def _code(task: ConfigurableTask) -> dict[str, str]:
    """A digest of each file that functions of a task's config come from, since they may call others there.

    They are by the names of the files, wherever these lie; files of the same name have one entry, with the digests of all.
    """
    values = [getattr(task.config, field.name) for field in fields(task.config)]
    modules = {sys.modules.get(function.__module__) for function in _functions(values) if function.__module__}
    files = {Path(file) for module in modules if (file := getattr(module, "__file__", None)) is not None}
    files |= {Path(function.__code__.co_filename) for function in _functions(values) if hasattr(function, "__code__")}
    names = {file.resolve(): file.name for file in sorted(files) if file.is_file()}
    digests: dict[str, list[str]] = {}
    for file, name in names.items():
        digests.setdefault(name, []).append(hashlib.sha256(file.read_bytes()).hexdigest()[:16])
    return {name: "+".join(sorted(of_name)) for name, of_name in sorted(digests.items())}


def _functions(value: Any) -> Iterator[Any]:
    if callable(value):
        yield value
    elif isinstance(value, dict):
        yield from _functions(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _functions(part)


def _digest_of_rows(documents: Any, chosen: Sequence[int] | None = None) -> str:
    digest = hashlib.sha256()
    for rows in _in_parts(documents, chosen):
        digest.update(digest_of(rows).encode())
    return digest.hexdigest()[:16]


def _in_parts(documents: Any, chosen: Sequence[int] | None) -> Iterable[Any]:
    """Some rows at a time; a dataset's by column, which is faster."""
    if hasattr(documents, "iter"):
        return (documents if chosen is None else documents.select(chosen)).iter(_ROWS)
    numbers = None if chosen is None else set(chosen)
    return (row for number, row in enumerate(documents or ()) if numbers is None or number in numbers)
