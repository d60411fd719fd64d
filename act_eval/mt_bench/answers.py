"""Answer the questions with baseline and ACT, the model loaded once.

Each answer is put on disk when both of its turns are there, so a run that was stopped goes on with the questions that lack one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from act_eval.demo import DEMO_MODEL_NAME
from act_eval.errors import InputError, SettingError
from act_eval.harness.arguments import ACTArguments, act_and_baseline
from act_eval.harness.checkpoint_files import checkpoint_stamps
from act_eval.harness.identity import settings_text
from act_eval.harness.processes import is_first_process, only_writer, same_for_all, shared_processes, speaking_console
from act_eval.harness.settings import ModelSettings
from act_eval.harness.what_ran import digest_of, package_versions, what_ran
from act_eval.model_arguments import without_placement
from act_eval.mt_bench.folder import RECORDS, ComparisonFolder, Variant, file_name
from act_eval.mt_bench.generation import ChatLM, Message, Sampling, conversation_tokens, generate
from act_eval.mt_bench.journal import Append, open_journal
from act_eval.mt_bench.questions import TURNS, Question, first_of_each_category
from act_eval.profiles import stored_profile
from act_eval.progress import StageProgress, stage_progress

Temperatures = Literal["greedy", "category"]

# As FastChat's `llm_judge` has them, also for other categories:
CATEGORY_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are made.

    Args:
        model: which model; the baseline gets the same arguments without calibration. Its batch size is how many questions are
            answered at once.
        temperatures: `greedy`, or `category` for FastChat's temperature of each category.
        max_new_tokens: of each turn.
        seed: of the random numbers; each question and turn has its own, the same for baseline and ACT.
        chat_template: a Jinja file in place of the tokenizer's chat template, or None.

    Raises:
        InputError: a setting is out of range, or the file is not there.
    """

    model: ModelSettings
    temperatures: Temperatures = "greedy"
    max_new_tokens: int = 1024
    seed: int = 1234
    chat_template: Path | None = None

    def __post_init__(self) -> None:
        if self.temperatures not in get_args(Temperatures):
            raise SettingError("temperatures", f"{self.temperatures}: choose one of {', '.join(get_args(Temperatures))}.")
        self.model.whole_batch_size()
        if self.max_new_tokens < 1:
            raise SettingError("max_new_tokens", f"must be at least 1, not {self.max_new_tokens}.")
        if self.chat_template is not None and not self.chat_template.is_file():
            raise SettingError("chat_template", f"{self.chat_template}: there is no such file.")

    @property
    def identity(self) -> dict[str, Any]:
        """What all answers of a folder have in common; not where the model runs, and no access token."""
        template = self.chat_template.read_text(encoding="utf-8") if self.chat_template else None
        return {
            "model": self.model_name,
            "model_args": {key: str(value) for key, value in without_placement(self.model.without_act).items()},
            "temperatures": self.temperatures,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "act_base": self.model.model_args.get("act_base"),
            "chat_template": template,
        }

    @property
    def model_name(self) -> str:
        """The last part of the checkpoint's name or path."""
        pretrained = self.model.model_args.get("pretrained")
        return DEMO_MODEL_NAME if pretrained is None else file_name(Path(str(pretrained)).name)

    def sampling(self, question: Question, turn: int) -> Sampling:
        """How the answer to one turn of a question is drawn."""
        greedy = self.temperatures == "greedy"
        temperature = 0.0 if greedy else CATEGORY_TEMPERATURES.get(question.category, OTHER_TEMPERATURE)
        digest = hashlib.sha256(f"{self.seed} {question.question_id} {turn}".encode()).digest()
        return Sampling(temperature, int.from_bytes(digest[:8], "big") >> 1)


def write_answers(
    settings: AnswerSettings,
    questions: Sequence[Question],
    limit: int | None,
    output: Path,
    console: Console | None = None,
) -> list[str]:
    """Answer every question that has no answer yet, with the baseline and with ACT.

    Where several processes hold parts of the model, all answer all questions together, and the main one writes.

    Args:
        settings: how.
        questions: all of them.
        limit: questions of each category that are answered, or None for all.
        output: folder of the comparison; made when missing.
        console: shows how far it is; stderr of the main process by default.

    Returns:
        What to tell the user, in lines.

    Raises:
        InputError: a setting is wrong, the model has no chat template, `output` holds something else, or another command writes
            to it. Raised before the weights are loaded.
    """
    act, baseline = act_and_baseline(settings.model.model_args)
    if act.calibration.method.uses_span:
        raise InputError(
            f"the method {act.calibration.method.name} is about a part of a task's prompts, and MT-Bench has conversations: "
            "choose another method."
        )
    if limit is not None and limit < 1:
        raise SettingError("limit", f"must be at least 1 question of each category, not {limit}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not settings.model.model_args.get("tp_plan"):
        raise InputError(
            "processes cannot share the questions: start one, for a large model with parallelize=True in model_args, or let "
            "several hold parts of the model with tp_plan=auto."
        )
    with only_writer(output, RECORDS):
        return _write_answers(settings, act, baseline, questions, limit, ComparisonFolder(output), console)


def _write_answers(
    settings: AnswerSettings,
    act: ACTArguments,
    baseline: ACTArguments,
    questions: Sequence[Question],
    limit: int | None,
    folder: ComparisonFolder,
    console: Console | None,
) -> list[str]:
    with shared_processes().main_process_first():
        if is_first_process():
            folder.start(questions, settings.identity)
    wanted = first_of_each_category(questions, limit)
    missing = {}
    for arguments in (baseline, act):
        model_id = _model_id(settings.model_name, arguments)
        answered = same_for_all(folder.answers(model_id))
        missing[model_id] = arguments, [question for question in wanted if question.question_id not in answered]
    if any(unanswered for _, unanswered in missing.values()) or not _same_files(settings, folder, missing):
        batch_size = settings.model.whole_batch_size()
        arguments_of_the_model = settings.model.lm_arguments(**act.model_args, batch_size=batch_size)
        lm = ChatLM(chat_template=settings.chat_template, **arguments_of_the_model)
        variants, ran = {}, same_for_all(what_ran(lm))
        for model_id, (arguments, _) in missing.items():
            lm.set_act(arguments)
            variants[model_id] = _variant(model_id, lm, ran)
            folder.check_variant(variants[model_id])
        for model_id, (arguments, unanswered) in missing.items():
            if unanswered:
                lm.set_act(arguments)
                journal: AbstractContextManager[Append] = nullcontext(lambda _: None)
                if is_first_process():
                    folder.add_variant(variants[model_id])
                    journal = open_journal(folder.answers_file(model_id))
                shown = speaking_console(console), model_id, len(wanted), "questions"
                with journal as append, stage_progress(*shown) as progress:
                    progress.skip(len(wanted) - len(unanswered))
                    _answer(lm, settings, unanswered, model_id, append, progress)
    return [f"{len(wanted)} answers in {folder.answers_file(model_id)}" for model_id in missing]


def _same_files(settings: AnswerSettings, folder: ComparisonFolder, model_ids: Iterable[str]) -> bool:
    """Whether the variants were loaded from files that have not been touched since, and with the packages of now."""
    stamps = checkpoint_stamps(settings.model.model_args)
    variants = [folder.variant(model_id) for model_id in model_ids]
    return stamps is not None and all(
        variant is not None and variant.checkpoint_files == stamps and variant.versions == package_versions()
        for variant in variants
    )


def _model_id(model_name: str, arguments: ACTArguments) -> str:
    """A name that differs where answers may differ: for ACT it holds a hash of all settings, and of the heads of a file."""
    if arguments.profile == "none":
        return f"{model_name}-baseline"
    content = arguments.model_args
    profile = stored_profile(arguments.profile)
    if profile is not None:
        content["act_profile"] = profile.content_hash
    return f"{model_name}-act-{digest_of(content)[:8]}"


def _variant(model_id: str, lm: ChatLM, ran: Mapping[str, Any]) -> Variant:
    act = {**lm.act_settings(), "profile": lm.profile_name, "num_heads": lm.profile.size}
    text = settings_text(lm.act, lm.profile, lm.profile_name)
    return Variant(
        model_id,
        lm.arguments.profile == "none",
        text,
        act,
        ran["versions"],
        model=ran["model"],
        checkpoint_files=lm.checkpoint_files,
    )


def _answer(
    lm: ChatLM,
    settings: AnswerSettings,
    questions: Sequence[Question],
    model_id: str,
    append: Append,
    progress: StageProgress,
) -> None:
    """Answer both turns of some questions, a batch at a time, and append each finished answer."""
    first_turns = {q.question_id: conversation_tokens(lm, [_user(q.turns[0])]) for q in questions}
    by_length = sorted(questions, key=lambda question: -len(first_turns[question.question_id]))
    for batch in _batches(by_length, settings.model.whole_batch_size()):
        conversations: list[list[Message]] = [[] for _ in batch]
        for turn in TURNS:
            for conversation, question in zip(conversations, batch, strict=True):
                conversation.append(_user(question.turns[turn - 1]))
            prompts = [conversation_tokens(lm, conversation) for conversation in conversations]
            samplings = [settings.sampling(question, turn) for question in batch]
            texts = generate(lm, prompts, samplings, settings.max_new_tokens)
            for conversation, text in zip(conversations, texts, strict=True):
                conversation.append({"role": "assistant", "content": text})
        for conversation, question in zip(conversations, batch, strict=True):
            turns = [message["content"] for message in conversation if message["role"] == "assistant"]
            append(_record(question.question_id, model_id, turns))
            progress.advance(1)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def _record(question_id: int, model_id: str, turns: Sequence[str]) -> dict[str, Any]:
    """An answer in FastChat's format; the id is a hash of what was said, by whom, to which question."""
    content = json.dumps([question_id, model_id, turns])
    return {
        "question_id": question_id,
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": model_id,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": time.time(),
    }
