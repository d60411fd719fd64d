"""What a search is made on: its documents, its heads and its mode, and what it will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_eval.errors import SettingError
from act_eval.harness.asked_tasks import AskedTasks, load_asked_tasks
from act_eval.harness.documents import draw_training_documents
from act_eval.harness.tasks import explained_dataset_errors
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.search.documents import CalibrationDocument, calibration_split, fingerprint, interleave, render_documents
from act_eval.search.heads import SearchSpace
from act_eval.search.identity import SearchIdentity, mode_of
from act_eval.search.objective import LabelPriors
from act_eval.search.planned_costs import PlannedCosts
from act_eval.search.settings import Mode, SearchSettings
from act_eval.search.store import PROFILE_FILE


@dataclass(frozen=True)
class DrawnDocuments:
    """Training documents that were drawn from tasks.

    Attributes:
        asked: the tasks.
        splits: by task, which split the documents are of.
        numbers: by task, which documents, by their number in the split.
    """

    asked: AskedTasks
    splits: Mapping[str, str]
    numbers: Mapping[str, Sequence[int]]

    @classmethod
    def of_search(cls, settings: SearchSettings) -> DrawnDocuments:
        """Draw what a search asks for.

        Raises:
            InputError: a task cannot be searched on, or its dataset cannot be had.
        """
        asked = load_asked_tasks(settings.prompts, settings.model)
        tasks = asked.loaded.tasks
        splits = {name: calibration_split(task) for name, task in tasks.items()}
        with explained_dataset_errors():
            numbers = {name: draw_training_documents(name, task, asked.prompts) for name, task in tasks.items()}
        return cls(asked, splits, numbers)


@dataclass(frozen=True)
class PlannedSearch:
    """All that is known of a search before the model is loaded.

    Attributes:
        settings: of the search.
        lm: the model without its weights, which encoded the documents.
        splits: by task, which split the documents are of.
        space: the heads that are searched.
        mode: which is not "auto".
        documents: all of them.
        to_search, to_validate: those that single heads are scored on, and those that head sets are validated on, if they are.
        priors: what is subtracted from log-probabilities.
        costs: at most.
    """

    settings: SearchSettings
    lm: LMWithoutWeights
    splits: Mapping[str, str]
    space: SearchSpace
    mode: Mode
    documents: Sequence[CalibrationDocument]
    to_search: Sequence[CalibrationDocument]
    to_validate: Sequence[CalibrationDocument]
    priors: LabelPriors
    costs: PlannedCosts

    def identity(self, what_ran: Mapping[str, Any]) -> SearchIdentity:
        """What makes the search the same as another one; `what_ran` says which model is asked."""
        return SearchIdentity(self.settings, self.space, self.splits, fingerprint(self.documents), what_ran)

    def is_finished_in(self, folder: Path) -> bool:
        """Whether a folder holds the outcome of a search that was asked for in the same way; weights are not looked at."""
        return (folder / PROFILE_FILE).is_file() and self.identity({}).is_that_of(folder)


def plan_search(settings: SearchSettings) -> PlannedSearch:
    """Draw documents and render them, in an order in which every stretch of them holds its share of each task.

    The model's config and tokenizer are read for that, and none of its weights.

    Args:
        settings: of the search.

    Raises:
        InputError: a setting or a task is wrong, a dataset cannot be had, or a document cannot be scored.
    """
    drawn = DrawnDocuments.of_search(settings)
    lm = LMWithoutWeights(**settings.lm_arguments)
    space = SearchSpace.from_config(lm.config, settings.layers)
    if settings.k is not None and settings.k > len(space.heads):
        raise SettingError("k", f"{settings.k}: only {len(space.heads)} heads are searched; ask for fewer, or for more layers.")
    mode = mode_of(settings, space)
    with explained_dataset_errors():
        rendered = render_documents(lm, drawn.asked.loaded.tasks, drawn.numbers, drawn.asked.prompts)
    documents = interleave(rendered, settings.prompts.seed)
    to_search, to_validate = _split(documents, settings)
    priors = LabelPriors.of_search(settings.objective, documents)
    costs = PlannedCosts.of_search(settings, space, to_search, to_validate, mode, priors.corrects)
    return PlannedSearch(settings, lm, drawn.splits, space, mode, documents, to_search, to_validate, priors, costs)


def _split(
    documents: Sequence[CalibrationDocument], settings: SearchSettings
) -> tuple[Sequence[CalibrationDocument], Sequence[CalibrationDocument]]:
    """Split documents into those that single heads are scored on, and those that head sets are validated on, if they are."""
    if settings.selection != "validated":
        return documents, []
    if len(documents) < 2:
        raise SettingError(
            "selection", "validated needs at least 2 documents: raise limit, choose more tasks, or choose another selection."
        )
    half = (len(documents) + 1) // 2
    return documents[:half], documents[half:]
