"""Which tokens of a prompt are the part of it that `act_span` names.

A part is found in the text of the prompt, by a regular expression or as a part of the task, and mapped to tokens by the
characters that a fast tokenizer says each token is of. lm-eval gives a model the text of a prompt alone, so that what a task
put into it is noted where tasks make their prompts (`note_parts_of_tasks`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any

import regex
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import apply_template
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from act_eval.attention.act import ACT
from act_eval.attention.spans import span_tokens
from act_eval.errors import InputError
from act_eval.harness.requests import RequestError
from act_eval.harness.scoring import Tokens

logger = logging.getLogger(__name__)

_SECONDS_TO_MATCH = 10  # an expression in one prompt

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
        InputError: the part is one of a task, and no task of this process made the prompt; or the expression takes too long.
    """
    if span in PARTS_OF_TASKS:
        if prompt not in _parts:
            raise InputError(
                f"act_span={span} is a part of a task, but no task made the prompt {prompt[:60]!r} in this process: leave out "
                "cache_requests, or give act_span a regular expression."
            )
        return _parts[prompt].find(span, prompt)
    pattern = regex.compile(span)
    try:
        found = [match.span(1 if pattern.groups else 0) for match in pattern.finditer(prompt, timeout=_SECONDS_TO_MATCH)]
    except TimeoutError:
        raise InputError(
            f"act_span={span} did not get through the prompt {prompt[:60]!r} in {_SECONDS_TO_MATCH} seconds: write it so that "
            "it can match a text in one way only, without choices in repeats such as (a|aa)+."
        ) from None
    return [(start, end) for start, end in found if end > start]


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

    def note(self, prompt: str, tokens: Tokens) -> None:
        """Find the part in a prompt.

        Args:
            prompt: the text.
            tokens: of the prompt, perhaps without the white space at its end, which counts to a continuation.

        Raises:
            RequestError: the prompt lacks the part, and such prompts are not left alone.
        """
        spans = find_part(self.span, prompt)
        self._places[tokens] = tuple(
            number
            for number, (start, end) in enumerate(self._characters(prompt, tokens))
            if any(start < span_end and end > span_start for span_start, span_end in spans)
        )
        self._check_not_missing(tokens)

    def note_cut(self, tokens: Tokens, kept: Tokens) -> None:
        """Note a prompt of which only the last tokens are kept.

        Args:
            tokens: the whole prompt, which was noted.
            kept: its last tokens, perhaps all.

        Raises:
            RequestError: nothing of the part is kept, and such prompts are not left alone.
            RuntimeError: the whole prompt was not noted.
        """
        places = self._places_in(tokens)
        if kept == tokens:
            return  # which `note` has checked
        cut = len(tokens) - len(kept)
        self._places[kept] = tuple(place - cut for place in places if place >= cut)
        self._check_not_missing(kept, " within the model's window")

    def note_none(self, tokens: Tokens) -> None:
        """Note that something has no such part: an empty context, or a prompt that no task made."""
        self._places.setdefault(tokens, ())

    def warn_of_missing(self, prompts: Iterable[Tokens]) -> None:
        """Say how many prompts, all of them noted, lack the part and are left alone."""
        different = set(prompts)
        missing = sum(not self._places[prompt] for prompt in different)
        if missing:
            text = "%d of %d prompts have nothing that act_span=%s names, and are left as they are."
            logger.warning(text, missing, len(different), self.span)

    def mask(self, prompts: Iterable[Tokens], width: int = 0) -> Tensor:
        """The tokens of the part in prompts that are padded on the left: bool `[prompts, width]`.

        Args:
            prompts: at least one.
            width: to which they are padded; to the longest of them where that is more.

        Raises:
            RuntimeError: a prompt was not noted.
        """
        rows = list(prompts)
        width = max(width, *map(len, rows))
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            mask[row, [width - len(tokens) + place for place in self._places_in(tokens)]] = True
        return mask

    @property
    def spans(self) -> Callable[[Sequence[Tokens]], Tensor]:
        """What a `Scorer` asks for the part."""
        return self.mask

    def span_tokens(self, model: nn.Module, prompts: Sequence[Tokens] = (), width: int = 0) -> AbstractContextManager[None]:
        """Say in the block which tokens of prompts are the part; see `act_eval.attention.spans.span_tokens`.

        Args:
            model: as `ACT` takes it.
            prompts: what runs in the block, padded as for `mask`; none where it is not about the part.
            width: as for `mask`.
        """
        return span_tokens(model, self.mask(prompts, width) if prompts else None)

    def _places_in(self, tokens: Tokens) -> tuple[int, ...]:
        if tokens not in self._places:
            raise RuntimeError(f"the part {self.span!r} of a prompt of {len(tokens)} tokens was not looked for.")
        return self._places[tokens]

    def _check_not_missing(self, tokens: Tokens, where: str = "") -> None:
        if not self._places[tokens] and not self.leaves_alone:
            raise RequestError(
                f"its prompt has nothing{where} that act_span={self.span} names",
                "choose another act_span, or leave such prompts as they are with act_span_missing=skip",
            )

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


class NoPromptParts:
    """Stands for `PromptParts` where a method is about no part of prompts: nothing is noted, missing or said."""

    spans = None

    def note(self, prompt: str, tokens: Tokens) -> None:
        """See `PromptParts.note`."""

    def note_cut(self, tokens: Tokens, kept: Tokens) -> None:
        """See `PromptParts.note_cut`."""

    def note_none(self, tokens: Tokens) -> None:
        """See `PromptParts.note_none`."""

    def warn_of_missing(self, prompts: Iterable[Tokens]) -> None:
        """See `PromptParts.warn_of_missing`."""

    def span_tokens(self, model: nn.Module, prompts: Sequence[Tokens] = (), width: int = 0) -> AbstractContextManager[None]:
        """See `PromptParts.span_tokens`."""
        return nullcontext()


def parts_of_prompts(act: ACT, tokenizer: PreTrainedTokenizerBase) -> PromptParts | NoPromptParts:
    """Make what notes the part of prompts that a method is about. Raises InputError where that needs another tokenizer."""
    if not act.method.uses_span:
        return NoPromptParts()
    note_parts_of_tasks()
    assert act.span is not None
    return PromptParts(tokenizer, act.span, leaves_alone=act.span_missing == "skip")


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
