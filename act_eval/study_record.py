"""What a study is about, fixed before anything is evaluated, and kept beside its results in `study.json`.

A report on the folder reads it: which comparison is the primary one, and which run stands for what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from act_eval.errors import InputError
from act_eval.files import write_texts

STUDY_FILE = "study.json"
METHODS_FILE = "methods.json"  # in place of it, where methods are compared
STUDY_COMMAND = "study"  # which plans a study's runs

BASELINE = "baseline"
FOUND = "heads found"
ALL = "all heads"
SWITCHED_OFF = "heads found, switched off"
_RANDOM = "random heads"


def random_variant(draw: int) -> str:
    """What the runs of a set of random heads are called; draws are counted from 1."""
    return f"{_RANDOM} {draw}"


def variants_with_heads(draws: int) -> tuple[str, ...]:
    """All variants of a study that finds heads and draws random ones so many times."""
    return FOUND, BASELINE, ALL, *(random_variant(number + 1) for number in range(draws)), SWITCHED_OFF


def is_random(variant: str) -> bool:
    """Whether runs of this name are of random heads."""
    return variant.startswith(f"{_RANDOM} ")


@dataclass(frozen=True)
class Score:
    """The score of a task that a study is about.

    Attributes:
        metric: of lm-eval, one of which more is better.
        filter: of lm-eval.
    """

    metric: str
    filter: str


@dataclass(frozen=True)
class StudyRecord:
    """What a study is about.

    Attributes:
        asked: all that was asked for, in values that JSON can hold; a study that was asked for something else is another one.
        scores: by task, the score that counts. The primary comparison is that of the heads found with the baseline, on average
            over these tasks.
        searched: those of the tasks whose training documents the search saw.
        also: tasks that are evaluated beside, to see what the heads do elsewhere.
        search: what the search found, by name, see `act_eval.study.run`; None until it has ended.
    """

    asked: Mapping[str, Any]
    scores: Mapping[str, Score]
    searched: tuple[str, ...]
    also: tuple[str, ...] = ()
    search: Mapping[str, Any] | None = field(default=None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the primary comparison."""
        return tuple(self.scores)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Those of the tasks that the search did not see."""
        return tuple(task for task in self.scores if task not in self.searched)


def write_study(record: StudyRecord, folder: Path) -> None:
    """Keep a record in a folder."""
    content = {"primary_comparison": f"{FOUND} against {BASELINE}, average over the tasks of scores", **asdict(record)}
    write_texts({STUDY_FILE: json.dumps(content, indent=2, ensure_ascii=False) + "\n"}, folder)


def read_study(file: Path) -> StudyRecord:
    """Read a record. Raises InputError where the file holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return StudyRecord(
            dict(content["asked"]),
            {str(task): Score(str(score["metric"]), str(score["filter"])) for task, score in content["scores"].items()},
            tuple(map(str, content["searched"])),
            tuple(map(str, content["also"])),
            None if content["search"] is None else dict(content["search"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not the record of a study ({error!r}): delete it, and study again.") from error
