"""Answers of a chat model to a batch of conversations, which do not depend on what else is in the batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from lm_eval.models.utils import postprocess_generated_text
from transformers import LogitsProcessor, LogitsProcessorList

from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import run_in_parts
from act_eval.harness.nonfinite import RefuseNonFiniteLogits

logger = logging.getLogger(__name__)

Message = dict[str, str]


class ChatLM(ACTLM):
    """An `act-hf` model that chats.

    Args:
        pretrained, kwargs: as for `ACTLM`.
        chat_template: a Jinja file that takes the place of the tokenizer's own template.

    Raises:
        InputError: the tokenizer has no chat template, or one that fails; raised before the weights are loaded.
    """

    def __init__(self, pretrained: str | None = None, chat_template: Path | None = None, **kwargs: Any) -> None:
        self._chat_template_file = chat_template
        super().__init__(pretrained, **kwargs)

    def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        super()._create_tokenizer(*args, **kwargs)
        if self._chat_template_file is not None:
            self.tokenizer.chat_template = self._chat_template_file.read_text(encoding="utf-8")
        if not self.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {self._checkpoint} has no chat template: choose a chat model, name the tokenizer of "
                "one with tokenizer=... in model_args, or give a Jinja file as chat_template."
            )
        turns = [{"role": role, "content": "text"} for role in ("user", "assistant", "user")]
        try:
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template of {self._chat_template_file or self._checkpoint} cannot write two turns ({error}): "
                "give another one as chat_template."
            ) from error


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one answer are drawn.

    Attributes:
        temperature: 0 for the most likely token (greedy).
        seed: of the answer's own random numbers.
    """

    temperature: float
    seed: int


class SeededSampling(LogitsProcessor):
    """Draws each row from random numbers of its own, so that a row's tokens do not depend on the rows beside it.

    The most likely token after adding Gumbel noise, times the temperature, to the logits is a sample from the softmax of the
    logits over the temperature. So greedy generation with these logits samples, each row at its own temperature.

    Args:
        samplings: one for each row of the batch.
    """

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.samplings = samplings
        self.generators = [torch.Generator().manual_seed(sampling.seed) for sampling in samplings]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add noise to the scores, float `[rows, vocabulary]`; rows of temperature 0 stay as they are."""
        scores = scores.float().clone()
        for index, (sampling, generator) in enumerate(zip(self.samplings, self.generators, strict=True)):
            if sampling.temperature > 0:
                gumbel = -torch.empty(scores.shape[-1]).exponential_(generator=generator).log()
                scores[index] += sampling.temperature * gumbel.to(scores.device)
        return scores


def conversation_tokens(lm: ChatLM, messages: Sequence[Message]) -> list[int]:
    """Tokenize a conversation as the model's chat template writes it, up to where the assistant is to speak."""
    return lm.tok_encode(lm.apply_chat_template(list(messages)), add_special_tokens=False)


def generate(lm: ChatLM, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], max_new_tokens: int) -> list[str]:
    """Continue each conversation with what the model says next, with the ACT settings that it has.

    Args:
        lm: the model.
        prompts: token ids of each conversation, which may differ in length.
        samplings: how each answer is drawn.
        max_new_tokens: where answers end at the latest; they also end with the model's window, and a conversation that fills it
            gets an empty answer.

    Raises:
        NonFiniteLogitsError: the model's logits are not numbers.
    """
    room = [max(0, min(max_new_tokens, lm.max_length - len(prompt))) for prompt in prompts]
    if full := room.count(0):
        logger.warning("Empty replies, since the conversation fills the model's window of %d tokens: %d.", lm.max_length, full)
    answers = [""] * len(prompts)
    for tokens in sorted({tokens for tokens in room if tokens}):
        members = [index for index in range(len(prompts)) if room[index] == tokens]

        def answer(some: Sequence[int], tokens: int = tokens) -> list[str]:
            return _generate(lm, [prompts[index] for index in some], [samplings[index] for index in some], tokens)

        texts = [text for part in run_in_parts(answer, members) for text in part]
        for index, text in zip(members, texts, strict=True):
            answers[index] = text
    return answers


def _generate(lm: ChatLM, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], max_new_tokens: int) -> list[str]:
    """Answer, in one batch, conversations that all leave room for as many new tokens."""
    longest = max(map(len, prompts))
    pad = lm.tokenizer.pad_token_id or 0
    input_ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=lm.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=lm.device)
    ends = _end_tokens(lm)
    processors: list[LogitsProcessor] = [RefuseNonFiniteLogits([tuple(prompt) for prompt in prompts])]
    if any(sampling.temperature for sampling in samplings):
        processors.append(SeededSampling(samplings))
    with lm.act(lm.model), lm.autocast(), torch.inference_mode():
        output = lm.model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=ends or None,
            pad_token_id=pad,
            logits_processor=LogitsProcessorList(processors),
        )
    return [_text(lm, tokens, ends) for tokens in output[:, longest:].tolist()]


def _end_tokens(lm: ChatLM) -> list[int]:
    """The tokens that end an answer, by the model's generation settings and by its tokenizer."""
    ends = lm.model.generation_config.eos_token_id
    tokens = {lm.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return sorted(token for token in tokens if token is not None)


def _text(lm: ChatLM, tokens: list[int], ends: Sequence[int]) -> str:
    """The answer alone: up to its end, and without what a reasoning model thinks before it."""
    length = next((position for position, token in enumerate(tokens) if token in ends), len(tokens))
    tokens = tokens[:length]
    if isinstance(lm.think_end_token, int) and lm.think_end_token in tokens:
        tokens = tokens[len(tokens) - tokens[::-1].index(lm.think_end_token) :]
    thinking = lm.think_end_token if isinstance(lm.think_end_token, str) else None
    return postprocess_generated_text(lm.tok_decode(tokens), None, thinking).strip()
