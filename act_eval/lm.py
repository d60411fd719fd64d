"""`act-hf`: lm-eval's `hf` model with ACT, for `lm_eval --model act-hf`."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import transformers
from accelerate import find_executable_batch_size
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from act_eval.act import ACT, check_supported, pretrained_model, resolve_for_model
from act_eval.attention import select_cache_rows
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.profiles import HeadProfile
from act_eval.scoring import Answer, Context, Scorer, Tokens, group_by_context, truncate

logger = logging.getLogger(__name__)

LoglikelihoodRequest = tuple[tuple[str, str] | None, list[int], list[int]]


@dataclass(frozen=True)
class ACTArguments:
    """The `act_*` entries of `--model_args`. See `act_eval.act.ACT` for their meaning.

    Raises:
        InputError: a setting is out of range, or both act_threshold and act_alpha are given.
    """

    act_profile: str | HeadProfile | None = "auto"
    act_beta: float = 0.4
    act_threshold: float | None = None
    act_alpha: float | None = None
    act_keep: str = "first-sink"
    act_decode: str = "prefill"
    act_base: str | None = None

    def __post_init__(self) -> None:
        if self.act_profile is None:  # lm-eval turns the word none into None
            object.__setattr__(self, "act_profile", "none")
        self.act(HeadProfile({}))

    def act(self, profile: HeadProfile) -> ACT:
        """The method with these settings and a profile that was resolved for a model."""
        return ACT(
            profile,
            beta=self.act_beta,
            threshold=self.act_threshold,
            alpha=self.act_alpha,
            keep=self.act_keep,  # type: ignore[arg-type]
            decode=self.act_decode,  # type: ignore[arg-type]
            base=self.act_base,
        )


class ACTLM(HFLM):
    """A causal language model of transformers whose attention sinks are calibrated.

    Takes everything that lm-eval's `hf` takes. With no head to calibrate, its answers are those of `hf`. A continuation is
    scored as generation would meet it: the context is prefilled alone, and the continuation never influences which of the
    context's tokens count as sinks.

    Args:
        pretrained: as for `hf`: a name, a path or a ready model. By default the embedded demo model.
        act_profile: the heads to calibrate: `auto` (the list published for this checkpoint, else nearly all heads), `all`,
            `none`, a published name, a path to a JSON file, or heads inline (`2:8+13;5:1`).
        act_beta, act_threshold, act_alpha, act_keep, act_decode, act_base: see `act_eval.act.ACT`.
        kwargs: everything else goes to `hf`. Where there is no CUDA device, the default `device` is the CPU.

    Raises:
        InputError: a setting is out of range, the profile does not fit the model (`ProfileError`), or ACT cannot be applied
            to this kind of model (`UnsupportedModelError`). Raised before the weights are loaded.
    """

    def __init__(
        self,
        pretrained: str | transformers.PreTrainedModel | None = None,
        act_profile: str | HeadProfile | None = "auto",
        act_beta: float = 0.4,
        act_threshold: float | None = None,
        act_alpha: float | None = None,
        act_keep: str = "first-sink",
        act_decode: str = "prefill",
        act_base: str | None = None,
        **kwargs: Any,
    ) -> None:
        if pretrained is None:
            pretrained = str(MODEL_PATH)
            logger.warning(
                "No pretrained= was given: act-hf uses the embedded demo model, which knows only its own small world."
            )
        self._checkpoint = pretrained if isinstance(pretrained, str) else pretrained.name_or_path
        self.arguments = ACTArguments(act_profile, act_beta, act_threshold, act_alpha, act_keep, act_decode, act_base)
        if not torch.cuda.is_available():
            kwargs.setdefault("device", "cpu")
        super().__init__(pretrained, **kwargs)

    def set_act(self, arguments: ACTArguments) -> None:
        """Use other ACT settings from now on, with the model that is loaded. Raises ProfileError."""
        assert arguments.act_profile is not None
        profile = resolve_for_model(arguments.act_profile, self.config, self._checkpoint)
        self.arguments = arguments
        self.act = arguments.act(profile)

    @property
    def profile(self) -> HeadProfile:
        """The heads that are calibrated."""
        assert isinstance(self.act.profile, HeadProfile)
        return self.act.profile

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> ACTLM:
        """See `lm_eval.api.model.LM`. Bad input ends the program with one line and exit code 2."""
        with _exit_on_bad_input():
            return super().create_from_arg_string(arg_string, additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> ACTLM:
        """See `lm_eval.api.model.LM`. Bad input ends the program with one line and exit code 2."""
        with _exit_on_bad_input():
            return super().create_from_arg_obj(arg_dict, additional_config)

    def _get_backend(self, config: transformers.PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        """The first step of `hf` that knows the config; the weights are not loaded yet, so input is checked here."""
        super()._get_backend(config, *args, **kwargs)
        model_class = self.AUTO_MODEL_CLASS._model_mapping.get(type(config), None)
        if model_class is not None:
            check_supported(config, model_class)
        self.set_act(self.arguments)

    # --- scoring

    def encode_request(self, context: str, continuation: str) -> tuple[Tokens, Tokens]:
        """Token ids of a context and its continuation, cut to the model's window, as `loglikelihood` has them."""
        if context:
            context_tokens, tokens = self._encode_pair(context, continuation)
            return truncate(context_tokens, tokens, self.max_length)
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        prefix = [self.prefix_token_id] if tokens[0] != self.prefix_token_id else []
        tokens = [*prefix, *tokens]
        return truncate(tokens[:1], tokens[1:], self.max_length)

    def _loglikelihood_tokens(
        self, requests: Sequence[LoglikelihoodRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        if requests and requests[0][0] is None:
            return self._score_windows(requests)
        truncated = [truncate(context, continuation, self.max_length) for _, context, continuation in requests]
        longer = sum(len(kept) < len(context) for (_, context, _), (kept, _) in zip(requests, truncated, strict=True))
        if longer:
            logger.warning("%d of %d contexts were cut from the left to the model's window.", longer, len(requests))
        contexts = group_by_context(truncated)
        self.batch_sizes: dict[int, int] = {}
        answers: dict[int, Answer] = {}
        progress = tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")
        position = 0
        while position < len(contexts):
            batch_size = override_bs or self._batch_size_at(position, contexts)
            batch = self._score_contexts(contexts[position : position + batch_size], batch_size)
            for index, answer in batch.items():
                self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
            answers |= batch
            progress.update(len(batch))
            position += batch_size
        progress.close()
        return [answers[index] for index in range(len(requests))]

    def _score_windows(self, windows: Sequence[LoglikelihoodRequest]) -> list[Answer]:
        """Score the windows of `loglikelihood_rolling`, which have no context: each is one prefill block."""
        blocks = [truncate(context, continuation, self.max_length) for _, context, continuation in windows]
        with self.act(self.model), self.autocast():
            return self.scorer().score_blocks(blocks)

    def _score_contexts(self, contexts: Sequence[Context], batch_size: int) -> dict[int, Answer]:
        with self.act(self.model), self.autocast():
            return self.scorer().score_contexts(contexts, batch_size)

    def scorer(self) -> Scorer:
        """Scores batches with this model, with whatever calibration is switched on around it."""
        pad_token_id = self.tokenizer.pad_token_id or 0
        forward_arguments = inspect.signature(pretrained_model(self.model).forward).parameters
        return Scorer(self.model, forward_arguments, pad_token_id, self.device, select_cache_rows, self.softmax_dtype)

    def autocast(self) -> torch.autocast:
        """The context for `mixed_precision_dtype`."""
        enabled = self.mixed_precision_dtype is not None
        return torch.autocast(device_type=self.device.type, dtype=self.mixed_precision_dtype, enabled=enabled)

    def _batch_size_at(self, position: int, contexts: Sequence[Context]) -> int:
        """The batch size for the contexts from a position on; with `auto:N` it is measured anew N times on the way."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        part = int(position * self.batch_schedule / len(contexts))
        if part not in self.batch_sizes:
            if self.batch_sizes.get(part - 1) == self.max_batch_size:
                self.batch_sizes[part] = self.max_batch_size
            else:
                self.batch_sizes[part] = self._largest_batch_size(contexts[position])
        return self.batch_sizes[part]

    def _largest_batch_size(self, context: Context) -> int:
        """Measure how many contexts like this one can be scored at once, on the path that really runs."""

        @find_executable_batch_size(starting_batch_size=self.max_batch_size)
        def probe(batch_size: int) -> int:
            token = context.tokens[0]
            tokens = (token,) * len(context.tokens)
            continuation = (token,) * context.longest_continuation
            self._score_contexts([Context(tokens, [(row, continuation)]) for row in range(batch_size)], batch_size)
            return batch_size

        batch_size = probe()
        if self.world_size > 1:
            batch_size = int(self.all_gather(torch.tensor([batch_size], device=self.device)).min())
        logger.info("Largest batch size: %d", batch_size)
        return batch_size

    # --- everything else that runs the model

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.act(self.model):
            return super()._model_call(*args, **kwargs)

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.act(self.model):
            return super()._model_generate(*args, **kwargs)

    # --- what ran

    def act_settings(self) -> dict[str, Any]:
        """The settings that answers depend on: all of ACT's, and the profile by content."""
        return {**self.act.settings, "profile_hash": self.profile.content_hash}

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval puts into the `config` of its results: `hf`'s entries, the ACT settings, and package versions."""
        profile = self.arguments.act_profile
        spec = profile if isinstance(profile, str) else "given as an object"
        heads = {str(layer): list(layer_heads) for layer, layer_heads in self.profile.heads.items() if layer_heads}
        settings = {**self.act_settings(), "profile": spec, "num_heads": self.profile.size, "heads": heads}
        versions = {name: version(name) for name in ("act-eval", "lm-eval", "torch", "transformers")}
        return {**super().get_model_info(), "act": settings, "versions": versions}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Keep the answers of different ACT settings apart in `--use_cache`: lm-eval's keys do not hold the settings.

        The cache is an SQLite file of one table; each setting gets a table of its own in it.
        """
        super().set_cache_hook(cache_hook)
        database = cache_hook.dbdict
        if database is not None:
            settings = json.dumps(self.act_settings(), sort_keys=True)
            table = f"act_{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
            type(database)(database.filename, tablename=table).close()
            database.tablename = table


@contextmanager
def _exit_on_bad_input() -> Iterator[None]:
    """lm-eval's command line prints a traceback for any exception; bad input deserves a line and exit code 2."""
    try:
        yield
    except InputError as error:
        print(f"act-hf: {error}", file=sys.stderr)
        raise SystemExit(2) from error
