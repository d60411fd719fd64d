"""`act-hf`: lm-eval's `hf` model with ACT, for `lm_eval --model act-hf`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList

from act_eval.attention.act import check_groups
from act_eval.attention.backends import base_name, check_base_of_model
from act_eval.attention.model_structure import pretrained_model, resolve_for_model
from act_eval.demo import DEMO_MODEL_NAME, MODEL_PATH
from act_eval.errors import InputError, SettingError
from act_eval.harness.answering import Answering, answer_requests
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.batch_sizes import ContextBatches, batch_size_for_longest
from act_eval.harness.checked_hf import CheckedHFLM
from act_eval.harness.identity import act_identity, recorded_act
from act_eval.harness.memory import run_in_parts
from act_eval.harness.nonfinite import NonFiniteLogitsError, RefuseNonFiniteLogits, first_layer_not_finite, holds
from act_eval.harness.processes import is_first_process, same_for_all
from act_eval.harness.prompt_parts import parts_of_prompts
from act_eval.harness.recorded_answers import RecordedAnswers
from act_eval.harness.request_progress import RequestProgress, no_progress, request_bar
from act_eval.harness.requests import (
    document_name,
    encode_all,
    encode_generation,
    encode_pair,
    encode_prompt,
    encode_windows,
    generation_batches,
    truncate,
)
from act_eval.harness.response_cache import keep_apart
from act_eval.harness.scoring import Answer, Context, Scorer, Tokens, group_by_context, tokens_of_requests, tokens_of_windows
from act_eval.harness.what_ran import kept_arguments, tokenizer_fingerprint, weights_fingerprint, what_ran
from act_eval.hub_files import is_hub_name
from act_eval.model_arguments import ATTENTION
from act_eval.profiles import HeadProfile, ProfileError

logger = logging.getLogger(__name__)

LoglikelihoodRequest = tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]


class ACTLM(CheckedHFLM):
    """A causal language model of transformers whose attention sinks are calibrated.

    Takes everything that lm-eval's `hf` takes. With no head to calibrate, its answers are those of `hf`. A continuation is
    scored as generation would meet it: the context is prefilled alone, and the continuation never influences which of the
    context's tokens count as sinks.

    Args:
        pretrained: as for `hf`: a name, a path or a ready model. By default the embedded demo model.
        act_profile: the heads to calibrate: `auto` (the list published for this checkpoint, else nearly all heads), `all`,
            `none`, a published name, a path to a JSON file, its name on the hub (`hf://user/repo`), or heads inline
            (`2:8+13;5:1`).
        needs_chat_template: whether to refuse a tokenizer without a chat template, or the name of the one that it must have.
        kwargs: the settings of `ACT` with `act_` before their names, such as `act_beta`; everything else goes to `hf`. Where
            there is no CUDA device, the default `device` is the CPU.

    Raises:
        InputError: a setting is out of range, the profile does not fit the model (`ProfileError`), ACT cannot be applied
            to this kind of model (`UnsupportedModelError`), or the checkpoint cannot be loaded (`CheckpointError`). Raised
            before the weights are loaded, but for what is wrong with them.
    """

    def __init__(
        self,
        pretrained: str | transformers.PreTrainedModel | None = None,
        act_profile: str | HeadProfile | None = "auto",
        needs_chat_template: bool | str = False,
        **kwargs: Any,
    ) -> None:
        act_arguments = {key: kwargs.pop(key) for key in list(kwargs) if key.startswith("act_")}
        self.arguments = ACTArguments.from_model_args({"act_profile": act_profile, **act_arguments})
        self.kept_arguments = kept_arguments(kwargs)
        self._said_not_repeated: set[str] = set()
        self._profiles: dict[str, HeadProfile] = {}
        super().__init__(str(MODEL_PATH) if pretrained is None else pretrained, needs_chat_template, **kwargs)
        if pretrained is None:
            logger.warning("No pretrained= was given: this is the embedded demo model, which knows only its own small world.")
        self._check_heads_are_those_of_all()
        self._fingerprint = weights_fingerprint(self.model) if self._is_divided else None
        self.known_what_ran: dict[str, Any] | None = None
        self.recorded_answers: RecordedAnswers | None = None
        self._packs_well: dict[str, bool] = {}
        self.progress: RequestProgress = request_bar

    def _check_heads_are_those_of_all(self) -> None:
        """Raise ProfileError where a branch on the hub moved while several processes looked the profile up."""
        if is_hub_name(self.arguments.profile) and same_for_all(self.profile.content_hash) != self.profile.content_hash:
            raise ProfileError(f"{self.arguments.profile} has changed while the processes started: start them again.")

    def set_act(self, arguments: ACTArguments) -> None:
        """Use other ACT settings from now on, with the model that is loaded. Raises InputError where they do not fit it."""
        arguments.check()
        act = arguments.act(self.profile_of(arguments))
        if act.base is not None and self._model_class is not None:
            check_base_of_model(self.config, self._model_class, act.base)
        self.act = act
        self.arguments = arguments
        not_repeated = arguments.not_repeated
        if not_repeated and not_repeated not in self._said_not_repeated:
            self._said_not_repeated.add(not_repeated)
            logger.warning(
                "The heads of %s were found with %s, and this run does without: add that to the model arguments if it is not "
                "meant so.",
                self.profile_name,
                not_repeated,
            )
        if getattr(self, "tokenizer", None) is not None:  # which is loaded after the settings are checked
            self._parts = parts_of_prompts(act, self.tokenizer)
        if self.cache_hook.dbdict is not None:
            self.set_cache_hook(self.cache_hook)

    def know_what_is_known_to(self, other: ACTLM) -> None:
        """Answer what a model of the same arguments encoded, in which it found the part that the method is about.

        The profiles that it looked up are not looked up again.
        """
        self._parts = other._parts
        self._profiles = other._profiles

    def profile_of(self, arguments: ACTArguments) -> HeadProfile:
        """The heads that some ACT settings calibrate.

        Raises:
            ProfileError: the profile does not fit model or method.
            SettingError: of its heads, the share that is asked for is none.
        """
        profile = self._all_heads_of(arguments.profile)
        calibrated = profile.share(arguments.head_share)
        if profile.size and arguments.head_share and not calibrated.size:
            raise SettingError(
                "head_share",
                f"is {arguments.head_share}, which is no head of a profile that has {profile.size}: ask for a greater share.",
            )
        check_groups(calibrated, arguments.calibration)
        return calibrated

    def _all_heads_of(self, profile: str | HeadProfile) -> HeadProfile:
        """A profile of this model. One that has a name is looked up once, and what is to be said of it is said once."""
        if isinstance(profile, HeadProfile):
            return resolve_for_model(profile, self.config, self._checkpoint)
        if profile not in self._profiles:
            self._profiles[profile] = resolve_for_model(profile, self.config, self._checkpoint)
        return self._profiles[profile]

    @property
    def profile(self) -> HeadProfile:
        """The heads that are calibrated."""
        assert isinstance(self.act.profile, HeadProfile)
        return self.act.profile

    @property
    def marks_keys(self) -> bool:
        """Whether answers depend on keys that are marked in the whole prompt: its attention sinks, or a part of it."""
        return self.act.method.marks_keys and self.profile.size > 0 and not self.act.changes_nothing

    def _get_backend(self, config: transformers.PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        """Check the ACT settings in the first step of `hf` that knows the config, when the weights are not loaded yet."""
        super()._get_backend(config, *args, **kwargs)
        self.set_act(self.arguments)

    def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        """Load the tokenizer, which `hf` does before it loads the weights."""
        super()._create_tokenizer(*args, **kwargs)
        self._parts = parts_of_prompts(self.act, self.tokenizer)

    # --- scoring

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Score continuations of contexts, each context prefilled alone.

        Args:
            requests: with a context and a continuation each.
            disable_tqdm: whether to show no progress.

        Returns:
            For each request the log-probability of its continuation, and whether greedy decoding gives it.

        Raises:
            RequestError: a request cannot be scored; names the task and the document, before the model runs.
            NonFiniteLogitsError: logits are not numbers; names the task, the document and the layer.
        """
        if requests and getattr(self, "enable_thinking", None):  # since lm-eval 0.4.13
            raise InputError(
                f"enable_thinking=True is for tasks that generate, but {document_name(requests[0], 0)} is scored: leave it out."
            )
        pairs = encode_all(requests, self._encode_pair_with_part)
        self._parts.warn_of_missing(context for request, (context, _) in zip(requests, pairs, strict=True) if request.args[0])
        encoded = [(request.args, *pair) for request, pair in zip(requests, pairs, strict=True)]
        with self._naming_documents(requests):
            return self._loglikelihood_tokens(encoded, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in windows that are one prefill each. Raises as `loglikelihood` does."""
        if requests and self.act.method.uses_span:
            raise InputError(
                f"act_span is about a part of prompts, but {document_name(requests[0], 0)} is a text that is scored as a "
                "whole: choose another task, or another method."
            )
        texts = encode_all(requests, partial(encode_windows, self))
        windows = [window for text in texts for window in text]
        tokens = tokens_of_windows(windows)
        with (
            self._naming_documents(requests),
            self._answering("loglikelihood_rolling", windows, tokens, disable_tqdm) as answering,
        ):
            waiting = answering.waiting(range(len(windows)))
            batch_size = batch_size_for_longest(self, waiting)
            for start in range(0, len(waiting), batch_size):
                numbers = waiting[start : start + batch_size]
                answering.add(dict(zip(numbers, self._score_windows([windows[number] for number in numbers]), strict=True)))
            answers = iter(answering.all())
        totals = [sum(log_prob for log_prob, _ in islice(answers, len(text))) for text in texts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate after contexts, until a stop sequence. Raises as `loglikelihood` does."""
        encoded = encode_all(requests, self._encode_generation_with_part)
        self._parts.warn_of_missing(context for context, _ in encoded)
        arguments = [request.args for request in requests]
        tokens = [len(context) + new_tokens for context, new_tokens in encoded]
        with self._naming_documents(requests), self._answering("generate_until", arguments, tokens, disable_tqdm) as answering:
            batch_size = batch_size_for_longest(self, answering.waiting(range(len(requests))))
            for numbers in generation_batches(arguments, [context for context, _ in encoded], batch_size):
                waiting = answering.waiting(numbers)
                if waiting:
                    texts = self._generate([requests[number] for number in waiting], batch_size)
                    answering.add(dict(zip(waiting, texts, strict=True)))
            return answering.all()

    @contextmanager
    def _naming_documents(self, requests: Sequence[Instance]) -> Iterator[None]:
        """Say of an input without finite logits which document and which layer it is."""
        try:
            yield
        except NonFiniteLogitsError as error:
            named = (
                document_name(request, index)
                for index, request in enumerate(requests)
                if holds(self._tokens_of(request), error.tokens)
            )
            raise self.non_finite(error.tokens, next(named, "an input")) from None

    def non_finite(self, tokens: Tokens, where: str) -> NonFiniteLogitsError:
        """Make the error for an input whose logits are not numbers, with the layer where that begins."""
        with self.act(self.model), self._parts.span_tokens(self.model), self.autocast():
            layer = first_layer_not_finite(self.model, tokens)
        return NonFiniteLogitsError(tokens, layer, where)

    def _tokens_of(self, request: Instance) -> Tokens:
        """Tokenize all that the model gets to see of a request."""
        if request.request_type == "loglikelihood":
            context, continuation = self.encode_request(*request.args)
            return context + continuation
        return (self.prefix_token_id, *self.tok_encode(request.args[0]))

    def encode_request(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        """Tokenize a context and its continuation, cut to the model's window, as `loglikelihood` has them.

        Raises:
            RequestError: they cannot be scored.
        """
        tokens, continuation_tokens = self._encode_pair_with_part(context, continuation)
        kept, continuation_tokens = truncate(tokens, continuation_tokens, self.max_length)
        self._parts.note_cut(tokens, kept)
        return kept, continuation_tokens

    def encode_prompt(self, context: str) -> Tokens:
        """Tokenize a context, cut to the model's window. Raises RequestError where it has no token."""
        return encode_prompt(self, context)[-self.max_length :]

    def _encode_pair_with_part(self, context: Any, continuation: Any) -> tuple[Tokens, Tokens]:
        """As `encode_pair`; and note the part of the context that the method is about."""
        tokens, continuation_tokens = encode_pair(self, context, continuation)
        if context:
            self._parts.note(context, tokens)
        else:  # what some tasks ask beside, without a prompt
            self._parts.note_none(tokens)
        return tokens, continuation_tokens

    def _encode_generation_with_part(self, context: Any, settings: Any) -> tuple[Tokens, int]:
        """As `encode_generation`; and note the part of the context that the method is about."""
        tokens, new_tokens = encode_generation(self, context, settings, one_prefill=self.marks_keys)
        self._parts.note(context, tokens)
        self._parts.note_cut(tokens, tokens[-(self.max_length - new_tokens) :])
        return tokens, new_tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[LoglikelihoodRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        truncated = [truncate(context, continuation, self.max_length) for _, context, continuation in requests]
        longer = 0
        for (_, context, _), (kept, _) in zip(requests, truncated, strict=True):
            self._parts.note_cut(tuple(context), kept)
            longer += len(kept) < len(context)
        if longer:
            logger.warning("%d of %d contexts were cut from the left to the model's window.", longer, len(requests))
        contexts = group_by_context(truncated)
        with self._answering("loglikelihood", truncated, tokens_of_requests(contexts), disable_tqdm) as answering:
            waiting = [context for context in contexts if answering.waiting(index for index, _ in context.continuations)]
            for batch in ContextBatches(self, waiting, self._score_contexts).answers(override_bs):
                for index, answer in batch.items():
                    self._refuse_non_finite(answer, truncated[index])
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
                answering.add(batch)
            return answering.all()

    @contextmanager
    def recording(self, folder: Path, run: str) -> Iterator[RecordedAnswers]:
        """Put answers on disk in the block, batch by batch, and begin with those that an earlier block put there.

        Args:
            folder: for answers of runs alone.
            run: a name that changes with all that the answers depend on.
        """
        process = self.rank if not self._is_divided else 0 if is_first_process() else None
        self.recorded_answers = RecordedAnswers(folder, run, process)
        try:
            yield self.recorded_answers
        finally:
            self.recorded_answers.close()
            self.recorded_answers = None

    def _answering(
        self, kind: str, requests: Sequence[Any], tokens: Sequence[int], is_silent: bool
    ) -> AbstractContextManager[Answering]:
        """Answer requests in the block; with `recorded_answers` those that an earlier run left open."""
        progress = no_progress if is_silent else self.progress
        return answer_requests(kind, requests, tokens, progress, self.recorded_answers, self.device, together=self._is_divided)

    def _score_windows(self, windows: Sequence[tuple[Tokens, Tokens]]) -> list[Answer]:
        """Score the windows of `loglikelihood_rolling`, which have no context: each is one prefill block."""
        with self.act(self.model), self.autocast():
            parts = run_in_parts(self.scorer().score_blocks, windows)
        answers = [answer for part in parts for answer in part]
        for answer, block in zip(answers, windows, strict=True):
            self._refuse_non_finite(answer, block)
        return answers

    def _refuse_non_finite(self, answer: Answer, request: tuple[Tokens, Tokens]) -> None:
        if math.isnan(answer[0]):
            raise NonFiniteLogitsError(request[0] + request[1])

    def _score_contexts(
        self, contexts: Sequence[Context], batch_size: int, shares_beginnings: bool = True
    ) -> dict[int, Answer]:
        shares_beginnings = shares_beginnings and not self.marks_keys
        with self.act(self.model), self.autocast():
            return replace(self.scorer(), shares_beginnings=shares_beginnings).score_contexts(contexts, batch_size)

    def scorer(self) -> Scorer:
        """Make what scores batches with this model, with whatever calibration is switched on around it."""
        pad_token_id = self.tokenizer.pad_token_id or 0
        scorer = Scorer(self.model, pad_token_id, self.device, self.softmax_dtype)
        return replace(scorer, packs=self._packs(scorer), spans=self._parts.spans)

    def _packs(self, scorer: Scorer) -> bool:
        """Whether contexts are packed, which is tried once with each attention backend; again where memory was short."""
        backend = base_name(pretrained_model(self.model).config)
        if backend not in self._packs_well:
            try:
                with self.autocast():
                    self._packs_well[backend] = scorer.packs_well()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                logger.warning(
                    "There is too little memory to try whether contexts can be packed: they are padded, which is slower."
                )
                return False
        return self._packs_well[backend]

    def autocast(self) -> torch.autocast:
        """Make the context in which the model runs, for `mixed_precision_dtype`."""
        enabled = self.mixed_precision_dtype is not None
        return torch.autocast(device_type=self.device.type, dtype=self.mixed_precision_dtype, enabled=enabled)

    # --- everything else that runs the model

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.act(self.model), self._parts.span_tokens(self.model):
            return super()._model_call(*args, **kwargs)

    def _generate(self, requests: list[Instance], batch_size: int) -> list[str]:
        """Generate as `hf` does, in one batch."""
        asked = self.batch_size
        self.batch_size_per_gpu = batch_size
        try:
            return super().generate_until(requests, disable_tqdm=True)
        finally:
            self.batch_size_per_gpu = asked

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> torch.Tensor:
        mask = kwargs.pop("attention_mask")

        def generate(rows: Sequence[int]) -> torch.Tensor:
            ids, real = context[list(rows)], mask[list(rows)]
            prompts = [tuple(row[row_real.bool()].tolist()) for row, row_real in zip(ids, real, strict=True)]
            processors = LogitsProcessorList([RefuseNonFiniteLogits(prompts)])
            with self._parts.span_tokens(self.model, prompts, width=ids.shape[1]):
                return super(ACTLM, self)._model_generate(
                    ids, max_length, stop, attention_mask=real, logits_processor=processors, **kwargs
                )

        with self.act(self.model):
            parts = run_in_parts(generate, range(len(context)))
        padding = self.tokenizer.pad_token_id
        return pad_sequence([row for part in parts for row in part], batch_first=True, padding_value=padding)

    # --- what ran

    def act_settings(self) -> dict[str, Any]:
        """Collect the settings that answers depend on: all of ACT's, and the profile by content."""
        return act_identity(self.act, self.profile)

    @property
    def profile_name(self) -> str:
        """What the heads were asked for by."""
        return self.arguments.profile if isinstance(self.arguments.profile, str) else "given as an object"

    @property
    def model_name(self) -> str:
        """The checkpoint's name or path."""
        return DEMO_MODEL_NAME if self._checkpoint == str(MODEL_PATH) else self._checkpoint

    def weights_fingerprint(self) -> str:
        """See `what_ran.weights_fingerprint`; that of a divided model is of when it was loaded, by all processes together."""
        return self._fingerprint or weights_fingerprint(self.model)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """See `what_ran.tokenizer_fingerprint`; computed once, since large vocabularies take seconds."""
        return tokenizer_fingerprint(self.tokenizer)

    def get_model_info(self) -> dict[str, Any]:
        """Collect what lm-eval puts into the `config` of its results: `hf`'s entries, the ACT settings, and what ran.

        Whoever evaluates a model several times, and knows that it stays as it is, may set `known_what_ran` to what `what_ran`
        says of it: its weights are then not read again, here and for a response cache.
        """
        own_base = base_name(pretrained_model(self.model).config)
        return {
            **super().get_model_info(),
            "act": {**recorded_act(self.act, self.profile, self.profile_name), ATTENTION: self.act.base or own_base},
            "what_ran": {"name": self.model_name, **self._what_ran()},
            "checkpoint_files": self.checkpoint_files,
        }

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Use a response cache, in which the answers of different models and ACT settings are kept apart."""
        super().set_cache_hook(cache_hook)
        keep_apart(cache_hook, {"act": self.act_settings(), **self._what_ran()})

    def _what_ran(self) -> dict[str, Any]:
        return self.known_what_ran or what_ran(self)
