"""What a judge is asked, and what it said.

The prompts are this project's own words, in `prompts/<version>/`. A version is never edited: a change is a new version, and
judgements of different versions are never mixed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jinja2

from act_eval.mt_bench.folder import Answer
from act_eval.mt_bench.questions import Question

PROMPT_VERSION = "1"
GUIDED_CATEGORIES = ("math", "reasoning", "coding")

Kind = Literal["single", "pair"]

_GRADE = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
_VERDICTS = {"a": "A", "b": "B", "tie": "tie"}


@dataclass(frozen=True)
class Request:
    """One thing to ask a judge; the prompt tells it from all others.

    Where two models say the same, their prompts are the same, so they share a judgement: no prompt is sent twice.

    Attributes:
        kind: `single`, a grade from 1 to 10 for one reply, or `pair`, which of two replies is better.
        question_id: of the question.
        turn: 1 or 2, the reply that is judged.
        models: whose replies: one, or the two in the order in which the judge sees them, A and B.
        answer_ids: of their answers.
        guided: whether the prompt shows reference answers.
        prompt: what the judge gets.
    """

    kind: Kind
    question_id: int
    turn: int
    models: tuple[str, ...]
    answer_ids: tuple[str, ...]
    guided: bool
    prompt: str

    def record(self, judge: str, text: str, attempts: int, time: float) -> dict[str, Any]:
        """The judgement as a line of JSON: all that is needed to ask again, the judge's text, and what it comes to.

        `score` is a grade, or a verdict, or null where the text holds none.
        """
        return {
            "question_id": self.question_id,
            "turn": self.turn,
            "models": list(self.models),
            "answer_ids": list(self.answer_ids),
            "judge": judge,
            "prompt_version": PROMPT_VERSION,
            "guided": self.guided,
            "user_prompt": self.prompt,
            "judgment": text,
            "score": parse(self.kind, text),
            "attempts": attempts,
            "tstamp": time,
        }


def parse(kind: Kind, text: str) -> float | str | None:
    """Read what a judge's text comes to: its last grade, or its last verdict `A`, `B` or `tie`.

    Returns:
        None where there is none, or where the grade is not from 1 to 10.
    """
    found = (_GRADE if kind == "single" else _VERDICT).findall(text)
    if not found:
        return None
    if kind == "pair":
        return _VERDICTS[found[-1].lower()]
    grade = float(found[-1])
    return grade if 1 <= grade <= 10 else None


def make_request(question: Question, turn: int, answers: tuple[Answer, ...]) -> Request:
    """Make the request to grade one reply, or to compare two.

    Args:
        question: what was asked.
        turn: 1 or 2, the reply to be judged.
        answers: one, or two in the order in which the judge shall see them, A and B.
    """
    kind: Kind = "single" if len(answers) == 1 else "pair"
    guided = question.category in GUIDED_CATEGORIES and any(question.reference[:turn])
    prompt = _template(kind).render(
        turn=turn,
        guided=guided,
        turns=question.turns,
        reference=question.reference,
        answers=[answer.turns for answer in answers],
    )
    models, answer_ids = (tuple(getattr(answer, name) for answer in answers) for name in ("model_id", "answer_id"))
    return Request(kind, question.question_id, turn, models, answer_ids, guided, prompt)


@cache
def _template(kind: Kind) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("act_eval.mt_bench", "prompts"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{PROMPT_VERSION}/{kind}.jinja")
