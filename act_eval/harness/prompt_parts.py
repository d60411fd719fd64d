"""Which tokens of a prompt are the part of it that `act_span` names.

A part is found in the text of the prompt, by a regular expression or as a part of the task, and mapped to tokens by the
characters that a fast tokenizer says each token is of. lm-eval gives a model the text of a prompt alone, so that what a task
put into it is noted where tasks make their prompts (`note_parts_of_tasks`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import apply_template
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from act_eval.errors import InputError
from act_eval.harness.scoring import Tokens

PARTS_OF_TASKS = ("description", "question", "examples")

Span = tuple[int, int]
"""First character of a part, and the one after its last."""


@dataclass(frozen=True)
class TaskParts:
    """What a task put into a prompt.

    Attributes:
        before: texts that stand before all examples: the system instruction and the description.
        description: of the task; empty where it has none.
        question: of the document that is asked.
        num_fewshot: how many examples the prompt has.
    """

    before: tuple[str, ...]
    description: str
    question: str
    num_fewshot: int

    def find(self, part: str, prompt: str) -> list[Span]:
        """Find a part, one of `PARTS_OF_TASKS`, in the prompt; nothing where the prompt lacks it."""
        if part == "description":
            return _first(prompt, self.description)
        question = _last(prompt, self.question)
        if part == "question" or not question or not self.num_fewshot:
            return question if part == "question" else []
        start = max((end for text in self.before for _, end in _first(prompt, text)), default=0)
        return _stripped(prompt, start, question[0][0])


_parts: dict[str, TaskParts] = {}
"""What tasks of this process put into their prompts, by prompt."""


def note_parts_of_tasks() -> None:
    """Note from now on what lm-eval's tasks put into each prompt that they make. A second call changes nothing."""
    make_prompt = ConfigurableTask.fewshot_context
    if not getattr(make_prompt, "notes_parts", False):
        ConfigurableTask.fewshot_context = _noting(make_prompt)


def _noting(make_prompt: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make_prompt)
    def noted(
        task: Any, doc: Any, num_fewshot: int = 0, system_instruction: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        prompt = make_prompt(task, doc, num_fewshot, system_instruction, *args, **kwargs)
        described = task.config.description
        description = "" if not described else str(doc[described] if described in doc else apply_template(described, doc))
        before = (system_instruction or "", description)
        asked = task.doc_to_choice(doc) if task.multiple_input else [task.doc_to_text(doc)]
        for of_choice, question in zip(prompt if isinstance(prompt, list) else [prompt], asked, strict=False):
            _parts[of_choice] = TaskParts(before, description, str(question), int(num_fewshot or 0))
        return prompt

    noted.notes_parts = True  # type: ignore[attr-defined]
    return noted


def find_part(span: str, prompt: str) -> list[Span]:
    """Find a part of a prompt.

    Args:
        span: one of `PARTS_OF_TASKS`, or a regular expression: all that it matches, or where it has a group, the first group.
        prompt: the text.

    Returns:
        Where it is, in characters; nothing where the prompt has no such part.

    Raises:
        InputError: the part is one of a task, and no task of this process made the prompt.
    """
    if span in PARTS_OF_TASKS:
        if prompt not in _parts:
            raise InputError(
                f"act_span={span} is a part of a task, but no task made the prompt {prompt[:60]!r} in this process: leave out "
                "cache_requests, or give act_span a regular expression."
            )
        return _parts[prompt].find(span, prompt)
    pattern = re.compile(span)
    matches = (match.span(1 if pattern.groups else 0) for match in pattern.finditer(prompt))
    return [(start, end) for start, end in matches if end > start]


@dataclass
class PromptParts:
    """The tokens of a part of prompts, noted as they are tokenized.

    Args:
        tokenizer: a fast one.
        span: names the part, see `find_part`.
        leaves_alone: whether prompts without it stay as they are; else they are an error.

    Raises:
        InputError: the tokenizer is not a fast one.
    """

    tokenizer: PreTrainedTokenizerBase
    span: str
    leaves_alone: bool

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise InputError(
                "act_span needs a fast tokenizer, which says of which characters a token is, but "
                f"{type(self.tokenizer).__name__} is none: choose a model that has one, or leave use_fast_tokenizer out."
            )
        self._places: dict[Tokens, tuple[int, ...]] = {}

    def note(self, prompt: str, tokens: Tokens) -> bool:
        """Find the part in a prompt; returns whether there is something to change, or it is left alone.

        Args:
            prompt: the text.
            tokens: of the prompt, perhaps without the white space at its end, which counts to a continuation.
        """
        spans = find_part(self.span, prompt)
        places = tuple(
            number
            for number, (start, end) in enumerate(self._characters(prompt, tokens))
            if any(start < span_end and end > span_start for span_start, span_end in spans)
        )
        self._places[tokens] = places
        return bool(places) or self.leaves_alone

    def note_cut(self, tokens: Tokens, kept: Tokens) -> bool:
        """Note a prompt that was cut from the left to its last tokens; returns what `note` does, and True where nothing was."""
        if tokens not in self._places:
            raise self._not_noted(tokens)
        if kept == tokens:
            return True  # which `note` has checked
        cut = len(tokens) - len(kept)
        self._places[kept] = tuple(place - cut for place in self._places[tokens] if place >= cut)
        return bool(self._places[kept]) or self.leaves_alone

    def lacks(self, tokens: Tokens) -> bool:
        """Whether a prompt that was noted has no token of the part."""
        return not self._places[tokens]

    def note_none(self, tokens: Tokens) -> None:
        """Note that something has no such part: an empty context, or a prompt that no task made."""
        self._places.setdefault(tokens, ())

    def mask(self, prompts: Iterable[Tokens]) -> Tensor:
        """The tokens of the part in prompts that are padded on the left to the longest: bool `[prompts, longest]`.

        Raises:
            RuntimeError: a prompt was not noted.
        """
        rows = list(prompts)
        width = max(map(len, rows))
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            if tokens not in self._places:
                raise self._not_noted(tokens)
            mask[row, [width - len(tokens) + place for place in self._places[tokens]]] = True
        return mask

    def _not_noted(self, tokens: Tokens) -> RuntimeError:
        return RuntimeError(f"the part {self.span!r} of a prompt of {len(tokens)} tokens was not looked for.")

    def _characters(self, prompt: str, tokens: Tokens) -> Sequence[Span]:
        """Of which characters each token is."""
        for text in dict.fromkeys((prompt, prompt.rstrip())):
            for with_special_tokens in (True, False):
                encoded: Mapping[str, Any] = self.tokenizer(
                    text, add_special_tokens=with_special_tokens, return_offsets_mapping=True
                )
                if tuple(encoded["input_ids"]) == tokens:
                    return encoded["offset_mapping"]
        raise InputError(
            f"act_span cannot tell which characters the tokens of the prompt {prompt[:60]!r} are of, since the tokenizer gives "
            "others for it alone: choose another tokenizer, or another method."
        )


def _first(prompt: str, text: str) -> list[Span]:
    return _at(prompt.find(text.strip()), text)


def _last(prompt: str, text: str) -> list[Span]:
    return _at(prompt.rfind(text.strip()), text)


def _at(start: int, text: str) -> list[Span]:
    length = len(text.strip())
    return [(start, start + length)] if length and start >= 0 else []


def _stripped(prompt: str, start: int, end: int) -> list[Span]:
    """A stretch of the prompt without the white space around it; nothing where that is all."""
    text = prompt[start:end]
    inner = text.strip()
    first = start + len(text) - len(text.lstrip())
    return [(first, first + len(inner))] if inner else []
