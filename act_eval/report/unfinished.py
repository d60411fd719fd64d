"""What a comparison that is still running, or was stopped, has not got yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from act_eval.planned_runs import PlannedRun
from act_eval.task_groups import TaskGroup

_MOST_NAMES = 5  # of tasks, in one sentence


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
        several_seeds = len({run.seed for run in self.planned}) > 1
        lines = [f"{self.headline}; the rest is not in this report."]
        for variant, seed in dict.fromkeys((run.variant, run.seed) for run in self.missing):
            planned, missing = (
                [run.task for run in runs if (run.variant, run.seed) == (variant, seed)]
                for runs in (self.planned, self.missing)
            )
            name = f"{variant}, seed {seed}" if several_seeds else variant
            lines.append(f"{name} lacks {'; '.join(self._lacking(planned, missing))}.")
        if self.waiting:
            lines.append(f"Baseline or ACT alone is there, so that they are not compared yet: {_some(self.waiting)}.")
        return lines

    def lacks(self, task: str) -> bool:
        """Whether a run of a task is missing."""
        return any(run.task == task for run in self.missing)

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


def _counted(tasks: Sequence[str], of: int, group: str = "") -> str:
    """How many tasks are meant, of how many, and which ones unless it is all of them."""
    return f"all {of} tasks{group}" if len(tasks) == of else f"{len(tasks)} of {of} tasks{group} ({_some(tasks)})"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = len(names) - _MOST_NAMES
    return f"{', '.join(names[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}"
