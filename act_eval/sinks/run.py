"""Draw documents from lm-eval's tasks, collect the statistics of their sinks, and write everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from act_eval.attention.model_structure import attention_layers, model_shape
from act_eval.errors import InputError, SettingError
from act_eval.files import make_folder
from act_eval.harness.documents import draw_evaluation_documents, draw_training_documents, render, training_split
from act_eval.harness.identity import package_versions
from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import run_in_parts
from act_eval.harness.scoring import Tokens
from act_eval.harness.tasks import TaskError, explained_dataset_errors, load_with_groups, task_manager
from act_eval.head_scores import fits_model, read_head_scores, write_head_scores
from act_eval.profiles import resolve_layers
from act_eval.sinks.collect import collect
from act_eval.sinks.settings import SinksSettings
from act_eval.sinks.statistics import SinkStatistics
from act_eval.sinks.store import PROVENANCE_FILE, StatisticsStore
from act_eval.sinks.write import Document, token_text, write_sinks

LONGEST_DOCUMENT = 2048


@dataclass(frozen=True)
class _DrawnTask:
    """A task and its documents.

    Attributes:
        task: of lm-eval.
        family: the innermost group that it was asked for by, else its first tag, else its name.
        split: name of the split.
        documents: numbers of those drawn, in the split.
    """

    task: Task
    family: str
    split: str
    documents: Sequence[int]


def run_sinks(settings: SinksSettings, output: Path) -> list[Path]:
    """Look at the attention sinks of a model on tasks, and write figures and the data behind them to a folder.

    Args:
        settings: what to look at.
        output: folder; made when missing.

    Returns:
        The paths of the files.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, or the folder cannot be written to.
    """
    manager = task_manager(settings.prompts.tasks, settings.prompts.include_path)
    with explained_dataset_errors():
        tasks = _draw(manager, settings)
    make_folder(output)
    searched = None if settings.search is None else read_head_scores(settings.search)
    lm = ACTLM(**settings.lm_arguments)
    num_layers, num_heads = model_shape(lm.config)
    layers = resolve_layers(settings.layers, attention_layers(lm.config))
    with explained_dataset_errors():
        prompts = {name: _prompts(lm, drawn.task, drawn.documents, settings) for name, drawn in tasks.items()}
        alone = _document(lm, tasks, settings)
    if searched is not None:
        if not fits_model(searched, num_layers, num_heads):
            raise SettingError(
                "search",
                f"is of another model: it names heads beyond this model's {num_layers} layers of {num_heads} heads.",
            )
        write_head_scores(searched, output, num_layers, num_heads)
    store = StatisticsStore.open(output, _provenance(settings, lm, tasks, prompts, layers))
    statistics: dict[str, SinkStatistics] = {}
    total = sum(len(tokens) for of_task in prompts.values() for tokens in of_task)
    with tqdm(total=total, desc="looking at documents", unit="tok", unit_scale=True) as bar:
        for name, of_task in prompts.items():
            finished = store.load(name)
            if finished is None:
                batches = _batches(of_task, settings.model.whole_batch_size())
                finished = SinkStatistics.total(_look_at_batch(lm, name, batch, layers, bar) for batch in batches)
                store.save(name, finished)
            else:
                bar.update(finished.tokens)
            statistics[name] = finished
    document = None if alone is None else _look_at_document(lm, alone, layers)
    families = {name: drawn.family for name, drawn in tasks.items()}
    written = [output / PROVENANCE_FILE, *(store.path(name) for name in statistics)]
    return [*written, *write_sinks(statistics, families, lm.tokenizer, document, output)]


def _draw(manager: TaskManager, settings: SinksSettings) -> dict[str, _DrawnTask]:
    """The tasks by name, each with its documents; all that can be refused without the model is refused here."""
    drawn: dict[str, _DrawnTask] = {}
    for name in (match for given in settings.prompts.tasks for match in manager.match_tasks([given])):
        loaded, groups = load_with_groups(name, manager)
        for task_name, task in loaded.items():
            if task.OUTPUT_TYPE == "loglikelihood_rolling":
                raise TaskError(f"task {task_name!r} scores whole texts and has no context to look at: choose another.")
            tags = [task.config.tag] if isinstance(task.config.tag, str) else task.config.tag or []
            family = groups.get(task_name, tags[0] if tags else task_name)
            if settings.split == "train":
                split, documents = training_split(task), draw_training_documents(task_name, task, settings.prompts)
            else:
                split = task.config.test_split or task.config.validation_split
                documents = draw_evaluation_documents(task, settings.prompts)
            drawn[task_name] = _DrawnTask(task, family, split, documents)
    name, first = next(iter(drawn.items()))
    if settings.document is not None and settings.document >= len(first.task.eval_docs):
        raise InputError(
            f"--document {settings.document} does not exist: the split {first.split!r} of task {name!r} has documents 0 to "
            f"{len(first.task.eval_docs) - 1}."
        )
    return drawn


def _prompts(lm: ACTLM, task: Task, documents: Sequence[int], settings: SinksSettings) -> list[Tokens]:
    """Token ids of the prompts: the context of each document's first request, cut from the left to the model's window."""
    contexts = [instances[0].args[0] for instances in render(lm, task, documents, settings.prompts)]
    prompts = [tuple(lm.tok_encode(context))[-lm.max_length :] for context in contexts if context]
    if not prompts:
        raise TaskError(f"the documents of task {task.config.task!r} have no context to look at: choose another task.")
    return prompts


def _batches(prompts: Sequence[Tokens], batch_size: int) -> Iterator[list[Tokens]]:
    """Prompts of similar length together, longest first, so that trouble with memory comes at once."""
    ordered = sorted(prompts, key=lambda prompt: -len(prompt))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _look_at_batch(lm: ACTLM, task: str, prompts: Sequence[Tokens], layers: Sequence[int], bar: tqdm[Any]) -> SinkStatistics:
    """Collect from some documents, in halves where they do not fit into memory together.

    Raises:
        NonFiniteLogitsError: attention weights of a document are not numbers.
    """

    def look_at(some: Sequence[Tokens]) -> SinkStatistics:
        inputs = lm.tokenizer.pad({"input_ids": [list(tokens) for tokens in some]}, padding_side="left", return_tensors="pt")
        with lm.autocast():
            found = collect(lm.model, [inputs], lm.act, layers=layers)
        if np.isfinite(found.received).all():
            bar.update(found.tokens)
            return found
        if len(some) == 1:
            where = f"a document of {task} that begins with {lm.tokenizer.decode(some[0])[:60]!r}"
            raise lm.non_finite(some[0], where)
        return SinkStatistics.total(look_at([tokens]) for tokens in some)

    return SinkStatistics.total(run_in_parts(look_at, prompts))


def _document(lm: ACTLM, tasks: Mapping[str, _DrawnTask], settings: SinksSettings) -> tuple[str, Tokens] | None:
    """Name and token ids of the document that is to be shown by itself."""
    if settings.document is None:
        return None
    name, drawn = next(iter(tasks.items()))
    (tokens,) = _prompts(lm, drawn.task, [settings.document], settings)
    if len(tokens) > LONGEST_DOCUMENT:
        raise InputError(
            f"document {settings.document} of task {name!r} has {len(tokens)} tokens, but its own map is drawn for at most "
            f"{LONGEST_DOCUMENT}: choose a shorter one."
        )
    return f"{name} {settings.document}", tokens


def _look_at_document(lm: ACTLM, document: tuple[str, Tokens], layers: Sequence[int]) -> Document:
    name, tokens = document
    with lm.autocast():
        statistics = collect(lm.model, [{"input_ids": torch.tensor([tokens])}], lm.act, layers=layers, cells=len(tokens))
    return Document(name, [token_text(lm.tokenizer, token) for token in tokens], statistics)


def _provenance(
    settings: SinksSettings,
    lm: ACTLM,
    tasks: Mapping[str, _DrawnTask],
    prompts: Mapping[str, Sequence[Tokens]],
    layers: Sequence[int],
) -> dict[str, Any]:
    """What ran, in values that JSON can hold: all that the statistics depend on."""
    return {
        "model": str(settings.model.model_args.get("pretrained", "act-eval-demo")),
        "model_args": {key: str(value) for key, value in settings.model.model_args.items() if key != "pretrained"},
        "weights": lm.weights_fingerprint(),
        "act": lm.act_settings(),
        "layers": list(layers),
        "tasks": {
            name: {
                "family": drawn.family,
                "split": drawn.split,
                "documents": len(prompts[name]),
                "tokens": sum(map(len, prompts[name])),
                "prompts": hashlib.sha256(json.dumps(prompts[name]).encode()).hexdigest()[:16],
            }
            for name, drawn in tasks.items()
        },
        **settings.prompts.recorded,
        "versions": package_versions(),
    }
