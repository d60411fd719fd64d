"""What a comparison that is still running, or was stopped, has not got yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from act_eval.planned_runs import PlannedRun
from act_eval.short_names import short_names
from act_eval.task_groups import TaskGroup

_MOST_NAMES = 5  # in one sentence

_Side = tuple[str, str, int]  # model, variant and seed


@dataclass(frozen=True)
class Unfinished:
    """Planned runs, some of which are missing.

    Attributes:
        planned: all of them.
        missing: those without results.
        groups: the groups that their tasks may be in, by name.
        waiting: tasks that have results, but none of the baseline or none with ACT to compare them with.
    """

    planned: tuple[PlannedRun, ...]
    missing: tuple[PlannedRun, ...]
    groups: Mapping[str, TaskGroup] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()

    @property
    def finished(self) -> int:
        """How many planned runs are finished."""
        return len(self.planned) - len(self.missing)

    @property
    def headline(self) -> str:
        """How far it is, such as `12 of 34 runs are finished`."""
        return f"{self.finished} of {len(self.planned)} runs are finished"

    def sentences(self) -> list[str]:
        """How far it is, which tasks each variant and seed lacks, and which ones are there on one side alone."""
        lines = [f"{self.headline}; the rest is not in this report."]
        sides: dict[str, list[str]] = {}  # by what they lack, since many points of a sweep may lack the same
        for side, name in self._names().items():
            planned, missing = ([run.task for run in runs if _side(run) == side] for runs in (self.planned, self.missing))
            if missing:
                sides.setdefault("; ".join(self._lacking(planned, missing)), []).append(name)
        lines += [f"{_some(names, '; ')} {'lacks' if len(names) == 1 else 'lack'} {what}." for what, names in sides.items()]
        if self.waiting:
            lines.append(f"Baseline or ACT alone is there, so that they are not compared yet: {_some(self.waiting)}.")
        return lines

    def lacks(self, task: str) -> bool:
        """Whether a run of a task is missing."""
        return any(run.task == task for run in self.missing)

    def _names(self) -> dict[_Side, str]:
        """What variants are called: with their models and seeds, where there are several."""
        sides = list(dict.fromkeys(map(_side, self.planned)))
        models = short_names(dict.fromkeys(model for model, _, _ in sides))
        has_one_seed = len({seed for _, _, seed in sides}) == 1
        return {
            (model, variant, seed): ", ".join(
                [*([] if len(models) == 1 else [models[model]]), variant, *([] if has_one_seed else [f"seed {seed}"])]
            )
            for model, variant, seed in sides
        }

    def _lacking(self, planned: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
        """The missing tasks of one variant by their groups, the largest groups first, and then those in no group."""
        left = dict.fromkeys(missing)
        for name, tasks in self._outermost_groups(planned):
            of_group = [task for task in left if task in tasks]
            if of_group:
                yield _counted(of_group, len(tasks), f" of {name}")
            for task in of_group:
                del left[task]
        if left:
            yield _counted(list(left), len(planned)) if len(left) > 1 else next(iter(left))

    def _outermost_groups(self, planned: Iterable[str]) -> Iterator[tuple[str, set[str]]]:
        """Groups of which all tasks are planned, without those of whose tasks a larger one has some."""
        there = set(planned)
        seen: set[str] = set()
        tasks = {name: set(group.tasks) for name, group in self.groups.items()}
        for name in sorted(tasks, key=lambda name: (-len(tasks[name]), name)):
            if len(tasks[name]) > 1 and tasks[name] <= there and not tasks[name] & seen:
                seen |= tasks[name]
                yield name, tasks[name]


def _side(run: PlannedRun) -> _Side:
    return run.model, run.variant, run.seed


def _counted(tasks: Sequence[str], of: int, group: str = "") -> str:
    """How many tasks are meant, of how many, and which ones unless it is all of them."""
    return f"all {of} tasks{group}" if len(tasks) == of else f"{len(tasks)} of {of} tasks{group} ({_some(tasks)})"


def _some(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and how many there are besides."""
    more = len(names) - _MOST_NAMES
    return f"{separator.join(names[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}"
