"""`act-hf` without the weights of its model: it shapes and tokenizes requests, and answers none."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import PretrainedConfig

from act_eval.harness.lm import ACTLM
from act_eval.harness.requests import encode_all, encode_generation, encode_windows
from act_eval.harness.scoring import group_by_context, tokens_of_requests, tokens_of_windows

_SAY_WHAT_A_MODEL_IS = ("act_eval.harness.lm", "act_eval.profiles", "act_eval.hub_files")


class _NoModel(torch.nn.Module):
    """Stands where `hf` wants a model while it is made."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config

    def tie_weights(self) -> None:
        pass


class LMWithoutWeights(ACTLM):
    """Takes what `ACTLM` takes, and raises what that raises, apart from what is wrong with the weights."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._made_of = (arguments, dict(named))
        super().__init__(*arguments, **named)

    def with_weights(self) -> ACTLM:
        """Make the model of the same arguments, which can score what this one encoded, and does not repeat its warnings."""
        arguments, named = self._made_of
        with _without_saying_it_again():
            lm = ACTLM(*arguments, **named)
        lm.know_what_is_known_to(self)
        return lm

    def _create_model(self, pretrained: str, *args: Any, **kwargs: Any) -> None:
        self._model = _NoModel(self.config)

    def count_tokens(self, requests: Sequence[Instance]) -> int:
        """Count the tokens that the model would read and write for requests of one kind; where it generates, at most.

        Raises:
            RequestError: a request cannot be run.
        """
        kind = requests[0].request_type
        if kind == "loglikelihood":
            return sum(tokens_of_requests(group_by_context(encode_all(requests, self.encode_request))))
        if kind == "loglikelihood_rolling":
            texts = encode_all(requests, lambda text: encode_windows(self, text))
            return sum(sum(tokens_of_windows(windows)) for windows in texts)
        encoded = encode_all(requests, partial(encode_generation, self, one_prefill=self.marks_keys))
        return sum(len(context) + new_tokens for context, new_tokens in encoded)


@contextmanager
def _without_saying_it_again() -> Iterator[None]:
    """Inside the context, what an `ACTLM` says of its arguments as it is made is not said."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in _SAY_WHAT_A_MODEL_IS]
    for logger in loggers:
        logger.addFilter(refuse)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(refuse)
