"""Draw documents from lm-eval's tasks, collect the statistics of their sinks, and write everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from act_eval.attention.model_structure import attention_layers, model_shape
from act_eval.errors import SettingError
from act_eval.harness.lm import ACTLM
from act_eval.harness.processes import is_first_process, only_writer, speaking_console
from act_eval.harness.scoring import Tokens
from act_eval.harness.tasks import explained_dataset_errors
from act_eval.harness.what_ran import what_ran
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.head_scores import fits_model, read_head_scores, write_head_scores
from act_eval.layer_lists import resolve_layers
from act_eval.progress import stage_progress
from act_eval.sinks.collect import collect
from act_eval.sinks.collect_task import TaskCollection
from act_eval.sinks.documents import DrawnTask, draw_tasks, render_prompts, render_single_document
from act_eval.sinks.settings import SinksSettings
from act_eval.sinks.statistics import SinkStatistics
from act_eval.sinks.store import PROVENANCE_FILE, StatisticsStore
from act_eval.sinks.write import Document, token_text, write_sinks


def run_sinks(settings: SinksSettings, output: Path, console: Console | None = None) -> list[Path]:
    """Look at the attention sinks of a model on tasks, and write figures and the data behind them to a folder.

    Statistics are put on disk after every batch of documents, so that a run that was stopped goes on with the next one.
    Where several processes run, which may hold parts of the model, all look at all documents, and the main one writes.

    Args:
        settings: what to look at.
        output: folder; made when missing.
        console: where it is shown how far that is; stderr by default.

    Returns:
        The paths of the files; none in all but the main process.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, or another command writes to the folder; raised
            before the model's weights are loaded. Or the folder cannot be written to.
        NonFiniteLogitsError: attention weights of a document are not numbers.
    """
    planned = _PlannedSinks.of(settings)
    with only_writer(output, records=[PROVENANCE_FILE]):
        return _run_sinks(settings, planned, output, speaking_console(console))


@dataclass(frozen=True)
class _PlannedSinks:
    """All that is known before the model is loaded.

    Attributes:
        lm: the model without its weights, which encoded the prompts.
        tasks: with the documents that were drawn, by name.
        layers: that are looked at.
        num_layers, num_heads: decoder layers of the model, and query heads of each.
        prompts: token ids of each document, by task.
        single_document: name and token ids of the document that is shown by itself, or None.
        searched: the scores of a search that are shown, or None.
    """

    lm: LMWithoutWeights
    tasks: Mapping[str, DrawnTask]
    layers: Sequence[int]
    num_layers: int
    num_heads: int
    prompts: Mapping[str, Sequence[Tokens]]
    single_document: tuple[str, Tokens] | None
    searched: pd.DataFrame | None

    @classmethod
    def of(cls, settings: SinksSettings) -> _PlannedSinks:
        """Draw documents and render them. Raises InputError where a setting, a task or a dataset is wrong."""
        with explained_dataset_errors():
            tasks = draw_tasks(settings)
        searched = None if settings.search is None else read_head_scores(settings.search)
        lm = LMWithoutWeights(**settings.lm_arguments)
        num_layers, num_heads = model_shape(lm.config)
        layers = resolve_layers(settings.layers, attention_layers(lm.config))
        if searched is not None and not fits_model(searched, num_layers, num_heads):
            raise SettingError(
                "search", f"is of another model: it names heads beyond this model's {num_layers} layers of {num_heads} heads."
            )
        with explained_dataset_errors():
            prompts = {name: render_prompts(lm, drawn, drawn.documents) for name, drawn in tasks.items()}
            single_document = render_single_document(lm, tasks, settings)
        return cls(lm, tasks, layers, num_layers, num_heads, prompts, single_document, searched)


def _run_sinks(settings: SinksSettings, planned: _PlannedSinks, output: Path, console: Console) -> list[Path]:
    layers, prompts = planned.layers, planned.prompts
    lm = planned.lm.with_weights()
    provenance = _provenance(settings, lm, planned.tasks, prompts, layers)
    store = StatisticsStore.open(output, provenance) if is_first_process() else StatisticsStore(output)
    if planned.searched is not None and is_first_process():
        write_head_scores(planned.searched, output, planned.num_layers, planned.num_heads)
    statistics = _collect_all(lm, prompts, layers, settings.model.whole_batch_size(), store, console)
    document = None if planned.single_document is None else _look_at_document(lm, *planned.single_document, layers)
    if not is_first_process():
        return []
    families = {name: drawn.family for name, drawn in planned.tasks.items()}
    written = [output / PROVENANCE_FILE, *(store.path(name) for name in statistics)]
    return [*written, *write_sinks(statistics, families, lm.tokenizer, document, output)]


def _collect_all(
    lm: ACTLM,
    prompts: Mapping[str, Sequence[Tokens]],
    layers: Sequence[int],
    batch_size: int,
    store: StatisticsStore,
    console: Console,
) -> dict[str, SinkStatistics]:
    """The statistics of every task, from the store where they are there, else collected and stored."""
    total = sum(len(tokens) for of_task in prompts.values() for tokens in of_task)
    with stage_progress(console, "looking at documents", total, "tokens") as progress:
        return {
            name: TaskCollection(lm, name, of_task, layers, batch_size, store, progress).run()
            for name, of_task in prompts.items()
        }


def _look_at_document(lm: ACTLM, name: str, tokens: Tokens, layers: Sequence[int]) -> Document:
    """The exact map of one document."""
    with lm.autocast():
        statistics = collect(lm.model, [{"input_ids": torch.tensor([tokens])}], lm.act, layers=layers, bins=len(tokens))
    return Document(name, [token_text(lm.tokenizer, token) for token in tokens], statistics)


def _provenance(
    settings: SinksSettings,
    lm: ACTLM,
    tasks: Mapping[str, DrawnTask],
    prompts: Mapping[str, Sequence[Tokens]],
    layers: Sequence[int],
) -> dict[str, Any]:
    """What ran, in values that JSON can hold: all that the statistics depend on."""
    return {
        "checkpoint": lm.model_name,
        **what_ran(lm),
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
    }
