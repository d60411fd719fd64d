"""What a study is about, fixed before anything is evaluated, and kept beside its results in `study.json` or `methods.json`.

A report on the folder reads it: which comparison is the primary one, and which run stands for what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from act_eval.errors import InputError, explained
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

    def profile_hash_of(self, variant: str) -> str | None:
        """The content hash of the heads that the runs of a variant calibrate; None where the record does not say."""
        return (self.search or {}).get("profile_hash") if variant == FOUND else None

    @property
    def unseen(self) -> tuple[str, ...]:
        """Those of the tasks that the search did not see."""
        return tuple(task for task in self.scores if task not in self.searched)


@dataclass(frozen=True)
class SearchedMethod:
    """What the search of a method found.

    Attributes:
        heads: how many are calibrated.
        full_passes: what it cost, in full passes over the documents that heads were scored on.
        settings: what is done in these heads, in a line.
        profile_hash: content hash of the heads that are calibrated.
    """

    heads: int
    full_passes: float
    settings: str
    profile_hash: str


@dataclass(frozen=True)
class MethodsRecord:
    """What a comparison of several methods is about.

    Attributes:
        asked: all that was asked for, in values that JSON can hold; a comparison that was asked for something else is another
            one.
        scores: by task, the score that counts. Methods are compared on average over these tasks. The runs of a method have its
            name as their variant.
        searched: by method, what its search found; None until all searches have ended.
    """

    asked: Mapping[str, Any]
    scores: Mapping[str, Score]
    searched: Mapping[str, SearchedMethod] | None = field(default=None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that methods are compared on."""
        return tuple(self.scores)

    @property
    def with_heads(self) -> tuple[str, ...]:
        """The methods that heads were found for; none before all searches have ended."""
        return tuple(method for method, found in (self.searched or {}).items() if found.heads)

    def profile_hash_of(self, variant: str) -> str | None:
        """The content hash of the heads that the runs of a method calibrate; None where the record does not say."""
        searched = (self.searched or {}).get(variant)
        return None if searched is None else searched.profile_hash


def write_study(record: StudyRecord, folder: Path) -> None:
    """Keep a record in a folder."""
    content = {"primary_comparison": f"{FOUND} against {BASELINE}, average over the tasks of scores", **asdict(record)}
    _write(content, folder / STUDY_FILE)


def write_methods(record: MethodsRecord, folder: Path) -> None:
    """Keep the record of a comparison of methods in a folder."""
    _write(asdict(record), folder / METHODS_FILE)


def read_study(file: Path) -> StudyRecord:
    """Read a record. Raises InputError where the file holds something else."""
    with _explained(file, "a study"):
        content = _read(file)
        return StudyRecord(
            dict(content["asked"]),
            _scores(content),
            tuple(map(str, content["searched"])),
            tuple(map(str, content["also"])),
            None if content["search"] is None else dict(content["search"]),
        )


def read_methods(file: Path) -> MethodsRecord:
    """Read the record of a comparison of methods. Raises InputError where the file holds something else."""
    with _explained(file, "a comparison of methods"):
        content = _read(file)
        searched = content["searched"]
        of_methods = None if searched is None else {str(name): _searched_method(found) for name, found in searched.items()}
        return MethodsRecord(dict(content["asked"].items()), _scores(content), of_methods)


def _write(content: Mapping[str, Any], file: Path) -> None:
    write_texts({file.name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"}, file.parent)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _searched_method(found: Mapping[str, Any]) -> SearchedMethod:
    heads, passes = int(found["heads"]), float(found["full_passes"])
    return SearchedMethod(heads, passes, str(found["settings"]), str(found["profile_hash"]))


def _scores(content: Mapping[str, Any]) -> dict[str, Score]:
    if not content["scores"]:
        raise ValueError("it has no scores")
    return {str(task): Score(str(score["metric"]), str(score["filter"])) for task, score in content["scores"].items()}


def _explained(file: Path, what: str) -> AbstractContextManager[None]:
    """Raise InputError in place of what the content of a file that is no such record raises."""

    def explain(error: Exception) -> InputError:
        return InputError(f"{file} is not the record of {what} ({error!r}): delete it, and run act-eval study again.")

    return explained(explain, OSError, ValueError, LookupError, TypeError, AttributeError)
