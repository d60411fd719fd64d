"""lm-eval's groups, as far as their scores follow from those of their tasks, and the file that keeps them beside results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from act_eval.errors import InputError
from act_eval.files import write_texts

GROUPS_FILE = "groups.json"


@dataclass(frozen=True)
class TaskGroup:
    """A group of tasks.

    Attributes:
        tasks: names of all tasks below it, those of subgroups too.
        weighted_by_size: metrics that lm-eval averages with the numbers of documents as weights; others it averages, if at all,
            with the same weight for every task.
    """

    tasks: tuple[str, ...]
    weighted_by_size: tuple[str, ...] = ()


def read_groups(file: Path) -> dict[str, TaskGroup]:
    """Read groups by name. Raises InputError where the file holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(name): TaskGroup(tuple(map(str, group["tasks"])), tuple(map(str, group["weighted_by_size"])))
            for name, group in content.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} does not hold the groups of a comparison ({error!r}): delete it, and compare again."
        ) from error


def add_groups(groups: Mapping[str, TaskGroup], folder: Path) -> None:
    """Keep groups in a folder, beside those that are there already, if there are any."""
    file = folder / GROUPS_FILE
    if groups:
        together = {**(read_groups(file) if file.is_file() else {}), **groups}
        content = {name: asdict(together[name]) for name in sorted(together)}
        write_texts({GROUPS_FILE: json.dumps(content, indent=2, ensure_ascii=False) + "\n"}, folder)
