"""What a run's answers depend on besides documents and ACT's settings, and where two runs differ in it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from act_eval.differences import without_addresses
from act_eval.generation_arguments import draws_replies
from act_eval.model_arguments import ATTENTION, by_name

WHAT_RAN = "what_ran"  # of the config of a results file of act-hf
BACKEND = "attention backend"  # what difference calls it

# Entries of every results file of lm-eval that has them; the first are in its config:
_OF_THE_MODEL = ("model_num_parameters", "model_dtype", "model_sha", "model_revision", "peft_sha", "delta_sha", "versions")
_OF_THE_TOKENIZER = ("max_length", "eot_token_id", "tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token")
_OF_PROMPTS = ("system_instruction_sha", "chat_template_sha")
_VERSIONS = ("lm_eval_version", "transformers_version")
_SEEDS = ("random_seed", "numpy_seed", "torch_seed")

# Entries of a task's config that change no answer, or that are compared in another way:
_NOT_OF_THE_ANSWERS = ("task", "task_alias", "tag", "group", "metadata", "num_fewshot", "unsafe_code", "should_decontaminate")
_OF_DECONTAMINATION = ("doc_to_decontamination_query",)
_OF_FEWSHOT_EXAMPLES = ("training_split", "fewshot_split", "fewshot_config", "fewshot_delimiter")

_OF_THE_MODEL_ALONE = "model."  # what names of its fields begin with that are about the model
_NAME_OF_THE_MODEL = "name"  # its weights are compared, wherever they lie
_MISSING = "missing"
_LONGEST_TEXT = 60
_SHOWN_OF_WHAT_AGREES = 15


@dataclass(frozen=True)
class Conditions:
    """What a run's answers depend on besides documents and ACT's settings: texts by the names of fields.

    Attributes:
        what_ran: what `act-hf` recorded of model and versions; None in files of other models and in older ones.
        recorded: the attention backend, and what lm-eval itself records of model, tokenizer, prompts and versions, as far as
            it is known.
        task: the config of the task.
        seeds: those that answers depend on, besides that of the few-shot sampler: none where answers are not drawn.
    """

    what_ran: Mapping[str, str] | None
    recorded: Mapping[str, str]
    task: Mapping[str, str]
    seeds: Mapping[str, str]

    @property
    def backend(self) -> str | None:
        """The attention backend that the model ran with, below ACT where that was on; None where it is not known."""
        return self.recorded.get(BACKEND)


def conditions(results: Mapping[str, Any], task: str) -> Conditions:
    """The conditions of one task of a results file.

    Args:
        results: the content of the file.
        task: one of its tasks.
    """
    config = results["config"]
    what_ran = config.get(WHAT_RAN)
    return Conditions(
        None if what_ran is None else dict(_fields(what_ran)),
        dict(_recorded(results, task)),
        dict(_fields(_of_the_answers(results["configs"][task], has_examples=bool(results.get("n-shot", {}).get(task))))),
        dict(_fields(_known((name, config.get(name)) for name in _SEEDS))) if answers_are_drawn(results, task) else {},
    )


def difference(one: Conditions, other: Conditions) -> str | None:
    """The first field in which two runs differ, with both values, such as `weights (1a2b; 3c4d)`; None where they agree.

    What one of them does not know is no difference, but for what `act-hf` recorded of both, and for the task's config.
    """
    known = ((one.recorded, other.recorded), (one.seeds, other.seeds))
    parts = [(left, right, left.keys() & right.keys()) for left, right in known]
    if one.what_ran is not None and other.what_ran is not None:
        names = (one.what_ran.keys() | other.what_ran.keys()) - {_NAME_OF_THE_MODEL}
        parts.insert(0, (one.what_ran, other.what_ran, names))
    parts.append((one.task, other.task, one.task.keys() | other.task.keys()))
    return next((found for part in parts if (found := _first_difference(*part)) is not None), None)


def difference_of_models(one: Conditions, other: Conditions) -> str | None:
    """The first field in which two models differ, as `difference` says it; None where `act-hf` did not record both."""
    if one.what_ran is None or other.what_ran is None:
        return None
    names = {name for name in (*one.what_ran, *other.what_ran) if name.startswith(_OF_THE_MODEL_ALONE)}
    return _first_difference(one.what_ran, other.what_ran, names)


def _first_difference(left: Mapping[str, str], right: Mapping[str, str], compared: Collection[str]) -> str | None:
    for name in _in_order(left, right, compared):
        values = left.get(name, _MISSING), right.get(name, _MISSING)
        if values[0] != values[1]:
            return f"{name.removeprefix(_OF_THE_MODEL_ALONE)} ({'; '.join(_shortened(*values))})"
    return None


def _in_order(left: Mapping[str, str], right: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    return (name for name in dict.fromkeys([*left, *right]) if name in names)


def _recorded(results: Mapping[str, Any], task: str) -> Iterator[tuple[str, str]]:
    """The attention backend, and what lm-eval records, without what is not known or does not matter to this task."""
    config = results["config"]
    named = [(BACKEND, _backend(config)), *((name, config.get(name)) for name in _OF_THE_MODEL)]
    named += [(name, results.get(name)) for name in (*_VERSIONS, *_OF_THE_TOKENIZER)]
    if results.get("chat_template_sha") and results.get("n-shot", {}).get(task):
        named.append(("fewshot_as_multiturn", bool(results.get("fewshot_as_multiturn"))))
    yield from _fields(_known(named))
    # lm-eval writes these as null where there is none:
    yield from _fields({name: results[name] or "none" for name in _OF_PROMPTS if name in results})


def _backend(config: Mapping[str, Any]) -> Any:
    """The attention backend, as `act-hf` recorded it, or as it was asked for; None where none was."""
    act = config.get("act") or {}
    return act.get(ATTENTION) or act.get("base") or by_name(config.get("model_args")).get("attn_implementation")


def _known(named: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in named if value not in (None, "")}


def answers_are_drawn(results: Mapping[str, Any], task: str) -> bool:
    """Whether answers of a task of a results file are drawn at random."""
    return draws_replies(results["configs"][task].get("generation_kwargs") or {})


def _of_the_answers(config: Mapping[str, Any], has_examples: bool) -> dict[str, Any]:
    """The entries of a task's config that answers and scores depend on; lm-eval leaves out those that are null."""
    left_out = {*_NOT_OF_THE_ANSWERS, *_OF_DECONTAMINATION, *(() if has_examples else _OF_FEWSHOT_EXAMPLES)}
    return {name: value for name, value in config.items() if name not in left_out and value is not None}


def _fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value as a text, by its name; names of nested ones have dots between them."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            text = json.dumps(value, sort_keys=True, ensure_ascii=False)
            is_word = isinstance(value, str) and value and not re.search(r'[\s"]', value)
            yield f"{prefix}{name}", without_addresses(str(value) if is_word else text)


def _shortened(*texts: str) -> tuple[str, ...]:
    """Two texts, of which long ones are cut to the part where they begin to differ."""
    same = next((place for place, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), min(map(len, texts)))
    start = max(0, same - _SHOWN_OF_WHAT_AGREES) if max(map(len, texts)) > _LONGEST_TEXT else 0
    cut = [(text[start : start + _LONGEST_TEXT], start + _LONGEST_TEXT < len(text)) for text in texts]
    return tuple(f"{'...' if start else ''}{text}{'...' if is_cut else ''}" for text, is_cut in cut)
