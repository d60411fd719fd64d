"""The folder of one MT-Bench comparison: what is where, and what must agree before more is written to it.

- `question.jsonl`: the questions, in FastChat's format
- `settings.json`: what all answers have in common
- `model_answer/<model_id>.jsonl`: answers, in FastChat's format; a file for the baseline and for each ACT setting
- `model_answer/<model_id>.json`: the ACT settings behind them
- `model_judgment/<judge>_single.jsonl`, `model_judgment/<judge>_pair.jsonl`: judgements
- `model_judgment/<judge>.json`: what all judgements of a judge have in common
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from act_eval.differences import differences, in_words
from act_eval.errors import InputError
from act_eval.files import atomic_file, make_folder
from act_eval.model_arguments import without_placement
from act_eval.mt_bench.journal import read_journal
from act_eval.mt_bench.questions import TURNS, Question, load_questions

RECORDS = ("question.jsonl", "settings.json", "model_answer/*.json")
"""Files that say what is asked for: without answers beside them there is nothing to go on with."""


@dataclass(frozen=True)
class Variant:
    """The model with one setting of ACT, or without.

    Attributes:
        model_id: FastChat's name for it, and that of its file.
        is_baseline: whether nothing is calibrated.
        settings: the ACT settings in one line.
        act: all of them.
        versions: of the packages that answers depend on.
        model: all else that they depend on, see `harness.what_ran.what_ran`.
        checkpoint_files: the files that it was loaded from, see `harness.checkpoint_files.checkpoint_stamps`.
    """

    model_id: str
    is_baseline: bool
    settings: str
    act: Mapping[str, Any]
    versions: Mapping[str, str]
    model: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_files: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said in both turns of a question, and the id of that answer."""

    model_id: str
    answer_id: str
    turns: tuple[str, str]


@dataclass(frozen=True)
class ComparisonFolder:
    """The folder of one comparison, laid out as FastChat's `data/mt_bench`.

    Attributes:
        path: of the folder, which need not exist yet.
    """

    path: Path

    def start(self, questions: Sequence[Question], settings: Mapping[str, Any]) -> None:
        """Begin a comparison here, or go on with the one that is there.

        Raises:
            InputError: the folder cannot be written, or holds answers to other questions or with other settings, or files of
                these names that are not ours; raised before anything is written.
        """
        make_folder(self.path)
        begun = any(file.stat().st_size for file in self.path.glob("model_answer/*.jsonl"))
        are_there = self._holds(questions, begun)
        _agree(self.path / "settings.json", settings, "answers" if begun else None)
        if not are_there:
            _write(self._questions, _in_lines(questions))

    def questions(self) -> list[Question]:
        """The questions of the comparison. Raises InputError where they cannot be read."""
        return load_questions(str(self._questions))

    def start_judging(self, judge: str, settings: Mapping[str, Any]) -> None:
        """Begin to collect the judgements of a judge, or go on. Raises InputError where there are some with other settings."""
        file = self.path / "model_judgment" / f"{file_name(judge)}.json"
        make_folder(file.parent)
        _agree(file, {"judge": judge, **settings}, "judgements" if self._has_judgements(judge) else None)

    def answers_file(self, model_id: str) -> Path:
        """The file of a variant's answers."""
        return self.path / "model_answer" / f"{model_id}.jsonl"

    def judgements_file(self, judge: str, kind: str) -> Path:
        """The file of a judge's judgements, of kind single or pair."""
        return self.path / "model_judgment" / f"{file_name(judge)}_{kind}.jsonl"

    def judges(self) -> list[str]:
        """The names of all judges that said something, sorted."""
        names = [_read(file).get("judge") for file in self.path.glob("model_judgment/*.json")]
        return sorted(name for name in names if name and self._has_judgements(name))

    def add_variant(self, variant: Variant) -> None:
        """Write down what is behind a file of answers."""
        file = self.answers_file(variant.model_id).with_suffix(".json")
        make_folder(file.parent)
        _write(file, json.dumps(asdict(variant), indent=2) + "\n")

    def check_variant(self, variant: Variant) -> None:
        """Raise InputError where answers of a variant were given by another model, or with other packages."""
        earlier = self.variant(variant.model_id)
        if earlier is None:
            return
        changes = differences(*({"versions": some.versions, **some.model} for some in (earlier, variant)))
        if changes:
            raise InputError(
                f"{self.answers_file(variant.model_id)} holds answers from before this changed: {in_words(changes)}: choose "
                "another folder."
            )

    def variant(self, model_id: str) -> Variant | None:
        """A variant that has answers, as it was when it gave them; None where there are none."""
        file = self.answers_file(model_id)
        return self._read_variant(file.with_suffix(".json")) if file.is_file() and file.stat().st_size else None

    def variants(self) -> list[Variant]:
        """The variants with answers, the baseline first. Raises InputError where there are none, or no baseline."""
        variants = [self._read_variant(file) for file in sorted(self.path.glob("model_answer/*.json"))]
        variants.sort(key=lambda variant: not variant.is_baseline)
        if not variants or not variants[0].is_baseline:
            raise InputError(f"{self.path} holds no answers to MT-Bench: run act-eval mt-bench answer --output {self.path}.")
        return variants

    def answers(self, model_id: str) -> dict[int, Answer]:
        """The answers of a variant, by question. Raises InputError where a line is not an answer."""
        file = self.answers_file(model_id)
        answers = {}
        for record in read_journal(file):
            try:
                first, second = record["choices"][0]["turns"]
                answers[record["question_id"]] = Answer(model_id, record["answer_id"], (first, second))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise InputError(f"{file} holds a line without an answer of {len(TURNS)} turns ({error!r}).") from error
        return answers

    def judgements(self, judge: str, kind: str) -> dict[str, float | str | None]:
        """What a judge said to each prompt: a grade, a verdict, or None where it said neither; the last counts.

        Raises:
            InputError: a line is not a judgement.
        """
        file = self.judgements_file(judge, kind)
        try:
            return {record["user_prompt"]: record["score"] for record in read_journal(file)}
        except KeyError as error:
            raise InputError(f"{file} holds a line that is no judgement ({error} is missing): delete the line.") from error

    @staticmethod
    def _read_variant(file: Path) -> Variant:
        try:
            return Variant(**_read(file))
        except TypeError as error:
            raise InputError(f"{file} does not say how the answers beside it were made ({error}): delete both.") from error

    def _has_judgements(self, judge: str) -> bool:
        return any(self.judgements(judge, kind) for kind in ("single", "pair"))

    def _holds(self, questions: Sequence[Question], begun: bool) -> bool:
        """Whether the file of questions is there, with these; False where it may be written, which others' files may not."""
        there = None
        if self._questions.exists():
            try:
                there = self.questions()
            except InputError:
                raise _not_ours(self._questions) from None
        if there == list(questions):
            return True
        if begun:
            raise InputError(f"{self.path} holds answers to other questions: choose another folder.")
        if there is not None and self._questions.read_text(encoding="utf-8") != _in_lines(there):
            raise _not_ours(self._questions)
        return False

    @property
    def _questions(self) -> Path:
        return self.path / "question.jsonl"


def _in_lines(questions: Sequence[Question]) -> str:
    return "".join(f"{question.to_json()}\n" for question in questions)


def _not_ours(file: Path) -> InputError:
    return InputError(f"{file} was not written by act-eval mt-bench: choose another folder, or move the file.")


def _agree(file: Path, content: Mapping[str, Any], what: str | None) -> None:
    """Write what everything in a folder has in common, or check that it is what was written there before.

    Args:
        file: where it is written.
        content: values that JSON can hold.
        what: it binds, in the plural; None where there is nothing yet.

    Raises:
        InputError: something differs, or the file is not ours.
    """
    content = json.loads(json.dumps(content))
    if what is None:
        if file.exists() and _read(file).keys() != content.keys():
            raise _not_ours(file)
        _write(file, json.dumps(content, indent=2) + "\n")
        return
    earlier = _read(file)
    if isinstance(earlier.get("model_args"), dict):  # of earlier versions, which wrote down where the model runs
        earlier["model_args"] = without_placement(earlier["model_args"])
    for key in sorted({*content, *earlier}):
        if content.get(key) != earlier.get(key):
            raise InputError(
                f"{file.parent} holds {what} with another {key} ({json.dumps(earlier.get(key))}; now "
                f"{json.dumps(content.get(key))}): give the same settings to go on with it, or choose another folder."
            )


def file_name(name: str) -> str:
    """A name with nothing in it that a file's name must not have."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "model"


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not readable ({error}): choose another folder.") from error
    return content


def _write(file: Path, text: str) -> None:
    """Write a whole file. Raises InputError when that is impossible."""
    try:
        with atomic_file(file) as target:
            target.write(text.encode())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror or error}): choose another folder.") from error
