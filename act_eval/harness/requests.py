"""Requests of lm-eval's tasks as token ids, and those that no model can answer: found before it runs, and named."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator, handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from act_eval.attention.generation import WITHOUT_ONE_PREFILL
from act_eval.errors import InputError
from act_eval.harness.scoring import Tokens

Encoded = TypeVar("Encoded")

_LEAVE_OUT = "leave the document out (process_docs in the task's config, or lm_eval's --samples)"
_SET_BY_HF = ("input_ids", "attention_mask", "logits_processor", "stopping_criteria", "pad_token_id", "use_cache")


class RequestError(InputError):
    """A request that cannot be run: it holds nothing to score, no text, or more than the model's window.

    Args:
        problem: why, such as "its continuation is empty".
        remedy: what to do about it.
        where: which request that is, as far as it is known.
        documents: how many documents have such requests.
    """

    def __init__(self, problem: str, remedy: str, where: str = "a request", documents: int = 1) -> None:
        self.problem, self.remedy, self.documents = problem, remedy, documents
        others = f" (one of {documents} such documents)" if documents > 1 else ""
        super().__init__(f"{where}{others} cannot be run, because {problem}: {remedy}.")


def encode_all(requests: Sequence[Instance], encode: Callable[..., Encoded]) -> list[Encoded]:
    """Encode requests, all of them, before the model runs.

    Args:
        requests: of lm-eval.
        encode: takes the arguments of a request; raises RequestError.

    Raises:
        RequestError: some cannot be run; names the first one, and counts the documents of its task.
    """
    encoded: list[Encoded] = []
    refused: list[tuple[int, RequestError]] = []
    for index, request in enumerate(requests):
        try:
            encoded.append(encode(*request.args))
        except RequestError as error:
            refused.append((index, error))
    if refused:
        index, reason = refused[0]
        first = requests[index]
        documents = {requests[other].doc_id for other, _ in refused if requests[other].task_name == first.task_name}
        where = document_name(first, index)
        if len({other.idx for other in requests if document_name(other, index) == where}) > 1:
            where += f", choice {first.idx}"
        raise RequestError(reason.problem, reason.remedy, where, len(documents))
    return encoded


def document_name(request: Instance, index: int) -> str:
    """Name the document of a request: its task and number, or the index of the request where it says neither."""
    return f"request {index}" if request.task_name is None else f"{request.task_name}, document {request.doc_id}"


def encode_pair(lm: HFLM, context: Any, continuation: Any) -> tuple[Tokens, Tokens]:
    """Tokenize a context and its continuation as lm-eval does, not yet cut to the model's window.

    Raises:
        RequestError: one of the two is no text, no token is left to score or to score it after, or the continuation is longer
            than the model's window.
    """
    _check_text(context, "context", "doc_to_text")
    _check_text(continuation, "continuation", "doc_to_choice or doc_to_target")
    if context:
        context_tokens, tokens = lm._encode_pair(context, continuation)
        if not context_tokens:
            raise RequestError(
                f"its context {reprlib.repr(context)} has no token (spaces at its end count to the continuation)",
                f"change doc_to_text in the task's config, where an empty context is possible too, or {_LEAVE_OUT}",
            )
    else:
        tokens = lm.tok_encode(continuation, add_special_tokens=False)
        begins = tokens[:1] == [lm.prefix_token_id]
        context_tokens, tokens = ([lm.prefix_token_id], tokens[1:]) if begins else ([lm.prefix_token_id], tokens)
        if begins and not tokens:
            raise RequestError(
                f"its context is empty and its continuation is {continuation!r}, the token that stands for an empty context",
                f"change doc_to_text, doc_to_choice or doc_to_target in the task's config, or {_LEAVE_OUT}",
            )
    if not tokens:
        raise _nothing_to_score(lm, context, continuation, context_tokens)
    if len(tokens) > lm.max_length:
        raise RequestError(
            f"its continuation has {len(tokens)} tokens, but the model's window holds {lm.max_length}",
            f"raise max_length where the model can take more, or {_LEAVE_OUT}",
        )
    return tuple(context_tokens), tuple(tokens)


def _nothing_to_score(lm: HFLM, context: str, continuation: str, context_tokens: Sequence[int]) -> RequestError:
    """Say why a continuation has no token of its own."""
    if not continuation:
        return RequestError(
            "its continuation is empty", f"change doc_to_choice or doc_to_target in the task's config, or {_LEAVE_OUT}"
        )
    if not context or lm.tok_encode(context + continuation) == context_tokens:
        return RequestError(
            f"the tokenizer gives no token for its continuation {reprlib.repr(continuation)}",
            f"change doc_to_choice or doc_to_target in the task's config, or {_LEAVE_OUT}",
        )
    return RequestError(
        f"a token spans the join of its context and its continuation {reprlib.repr(continuation)}, which has none of its own",
        f"change target_delimiter, doc_to_choice or doc_to_target in the task's config, or {_LEAVE_OUT}",
    )


def truncate(context: Sequence[int], continuation: Sequence[int], max_length: int) -> tuple[Tokens, Tokens]:
    """Cut a request from the left to the model's window, exactly as lm-eval's `hf` does.

    The last token of the continuation is never fed to the model, so context and continuation may hold `max_length + 1`
    tokens together.

    Args:
        context: token ids, at least one.
        continuation: token ids, at least one and at most `max_length`.
        max_length: how many tokens the window holds.
    """
    kept = max_length + 1 - len(continuation)
    return tuple(context[-kept:]), tuple(continuation)


def encode_prompt(lm: HFLM, context: Any) -> Tokens:
    """Tokenize a context that something is generated after, or that is looked at by itself.

    Raises:
        RequestError: it is no text, or has no token.
    """
    _check_text(context, "context", "doc_to_text")
    tokens = lm.tok_encode(context)
    if not tokens:
        raise RequestError(
            f"its context {reprlib.repr(context)} has no token", f"change doc_to_text in the task's config, or {_LEAVE_OUT}"
        )
    return tuple(tokens)


def encode_windows(lm: HFLM, text: Any) -> list[tuple[Tokens, Tokens]]:
    """Tokenize a text that is scored as a whole, in windows of the model's size, as lm-eval does.

    Returns:
        For each window what goes before the tokens that are scored in it, at least one token, and these; none where the text
        has no token.

    Raises:
        RequestError: it is no text.
    """
    _check_text(text, "text", "doc_to_target")
    windows = get_rolling_token_windows(lm.tok_encode(text), lm.prefix_token_id, lm.max_length, context_len=1)
    return [(tuple(context), tuple(scored)) for context, scored in map(make_disjoint_window, windows)]


def encode_generation(lm: HFLM, context: Any, settings: Any, *, one_prefill: bool = False) -> tuple[Tokens, int]:
    """Tokenize a context that something is generated after, not yet cut to the model's window.

    Args:
        lm: the model.
        context: what is generated after.
        settings: the task's `generation_kwargs`, as lm-eval's `hf` takes them.
        one_prefill: whether the context must be the first forward pass, where keys are marked in that (attention sinks, or a
            part that was named).

    Returns:
        The context's tokens, and how many new ones there may be.

    Raises:
        RequestError: nothing can be generated after it.
    """
    place = "generation_kwargs of the task's config, or with lm_eval's --gen_kwargs"
    if not isinstance(settings, dict):
        raise RequestError(
            f"its generation_kwargs are {reprlib.repr(settings)}, and no settings by name", "change them in the task's config"
        )
    try:
        normalized: dict[str, Any] = {**normalize_gen_kwargs(settings, lm.max_gen_toks)}
    except (TypeError, ValueError) as error:
        raise RequestError(f"its generation_kwargs hold a value of a wrong kind ({error})", f"change it in {place}") from None
    for stop in handle_stop_sequences(normalized.get("until"), eos=None):
        if problem := _problem_of_text(stop):
            raise RequestError(f"its stop sequence {reprlib.repr(stop)} {problem}", f"change until in {place}")
    new_tokens = normalized["max_gen_toks"]
    if new_tokens < 1 and "max_length" not in settings:
        raise RequestError(f"its max_gen_toks is {new_tokens}, and so nothing would be generated", f"raise it in {place}")
    if new_tokens >= lm.max_length:
        raise RequestError(
            f"its max_gen_toks is {new_tokens}, but the model's window holds {lm.max_length} tokens, the context among them",
            f"lower it in {place}, or raise max_length where the model can take more",
        )
    _check_how_to_generate(settings, one_prefill)
    return encode_prompt(lm, context), new_tokens


def _check_how_to_generate(settings: dict[str, Any], one_prefill: bool) -> None:
    """Raise RequestError for settings that `generate` takes, but not from here."""
    remove = "from generation_kwargs of the task's config, or from lm_eval's --gen_kwargs"
    given = [name for name, value in settings.items() if value is not None and value is not False]
    if one_prefill and (culprits := [name for name in WITHOUT_ONE_PREFILL if name in given]):
        raise RequestError(
            f"its {culprits[0]} lets the model begin with something else than its whole prompt, in which the keys whose "
            "attention is changed are looked for",
            f"remove it {remove}, or choose act_profile=none",
        )
    if culprits := [name for name in _SET_BY_HF if name in settings]:
        raise RequestError(f"its generation_kwargs hold {culprits[0]}, which lm-eval's hf sets itself", f"remove it {remove}")
    if settings.get("num_return_sequences") not in (None, 1):
        raise RequestError(
            f"its num_return_sequences is {settings['num_return_sequences']!r}, but a request has one answer",
            f"remove it {remove}, and give the task's config repeats for several answers",
        )
    if "return_dict_in_generate" in given:
        raise RequestError(
            "its return_dict_in_generate asks for more than tokens, which lm-eval's hf does not take", f"remove it {remove}"
        )


def generation_batches(
    arguments: Sequence[tuple[str, dict[str, Any]]], contexts: Sequence[Tokens], batch_size: int
) -> list[list[int]]:
    """Put requests that generate into batches as lm-eval's `hf` does: of equal settings, longest first.

    Args:
        arguments: context and `generation_kwargs` of each request.
        contexts: their tokens.
        batch_size: requests of a batch.

    Returns:
        The requests of each batch, by their numbers.
    """
    order = Collator(
        [(text, settings, number) for number, (text, settings) in enumerate(arguments)],
        sort_fn=lambda request: (-len(contexts[request[2]]), request[0]),
        group_by="gen_kwargs",
        group_fn=lambda request: request[1],
    )
    return [[number for *_, number in batch] for batch in order.get_batched(n=batch_size)]


def _check_text(value: Any, part: str, field: str) -> None:
    """Raise RequestError unless a part of a request is text that a tokenizer takes."""
    if problem := _problem_of_text(value):
        raise RequestError(f"its {part} {problem}", f"change {field} in the task's config, or {_LEAVE_OUT}")


def _problem_of_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, and not text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"holds {value[error.start]!a}, one half of a character (a surrogate), which tokenizers do not take"
    return None
