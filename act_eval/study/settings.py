"""What is studied."""

from __future__ import annotations

from dataclasses import dataclass, replace

from act_eval.compare.plan import ComparisonSettings
from act_eval.errors import SettingError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search.settings import Mode, Objective, SearchSettings, Selection

DEFAULT_SEARCH_LIMIT = 100


@dataclass(frozen=True)
class StudySettings:
    """What is studied.

    Args:
        model: which model; its arguments say how heads are calibrated. They hold neither act_profile, which is searched for,
            nor act_head_share.
        prompts: the tasks of the primary comparison, and how their evaluation documents become prompts; the seed there is not
            used.
        also: tasks that are evaluated beside, with the heads found and without, to see what these do elsewhere.
        also_limit: documents of each of those; as for the others by default.
        search_tasks: those of the tasks whose training documents are searched on; by default all that can be.
        search_limit: training documents of each.
        layers, mode, objective, selection, k: of the search, see `SearchSettings`.
        random_draws: how many sets of random heads are compared as a control.
        seeds: of few-shot examples and sampled replies, each in runs of its own; the first one also draws training documents
            and random heads.

    Raises:
        InputError: a setting is out of range, see `SearchSettings` and `ComparisonSettings`.
    """

    model: ModelSettings
    prompts: PromptSettings
    also: tuple[str, ...] = ()
    also_limit: float | None = None
    search_tasks: tuple[str, ...] = ()
    search_limit: int = DEFAULT_SEARCH_LIMIT
    layers: str | None = None
    mode: Mode = "auto"
    objective: Objective = "margin"
    selection: Selection = "validated"
    k: int | None = None
    random_draws: int = 3
    seeds: tuple[int, ...] = (1234,)

    def __post_init__(self) -> None:
        if self.random_draws < 0:
            raise SettingError("random_draws", f"must be at least 0, not {self.random_draws}.")
        if self.search_limit < 1:
            raise SettingError("search_limit", f"must be at least 1 document, not {self.search_limit}.")
        if self.also_limit is not None:
            try:
                replace(self.prompts, limit=self.also_limit, samples=None).check_limit()
            except SettingError as error:
                raise SettingError("also_limit", error.problem) from None
        self.comparison()
        self.search(self.prompts.tasks)

    def comparison(self) -> ComparisonSettings:
        """What is evaluated: all tasks. Raises InputError where a setting is out of range."""
        return ComparisonSettings(self.model, replace(self.prompts, tasks=(*self.prompts.tasks, *self.also)), self.seeds)

    def search(self, tasks: tuple[str, ...]) -> SearchSettings:
        """What is searched for, on training documents of some tasks. Raises InputError where a setting is out of range."""
        prompts = replace(self.prompts, tasks=tasks, limit=self.search_limit, samples=None, seed=self.seeds[0], gen_kwargs={})
        return SearchSettings(
            self.model,
            prompts,
            layers=self.layers,
            mode=self.mode,
            objective=self.objective,
            selection=self.selection,
            k=self.k,
        )
