"""Get one judgement from a judge behind an OpenAI-compatible endpoint.

The `openai` client repeats what fails on the way (no connection, a timeout, HTTP 408, 409, 429 and 5xx), waiting longer each
time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from act_eval.errors import InputError
from act_eval.mt_bench.grading import Request
from act_eval.mt_bench.settings import JudgeSettings

if TYPE_CHECKING:
    import openai

ATTEMPTS = 3

_LONGEST_REASON = 200


class JudgeError(InputError):
    """The judge cannot be reached, refuses, or says what is no judgement."""


class RefusedRequestError(JudgeError):
    """The judge refuses one request; others may do."""


@asynccontextmanager
async def connect(settings: JudgeSettings) -> AsyncIterator[JudgeClient]:
    """A client whose connections are closed at the end of the block."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        api_key=settings.key, base_url=settings.base_url, timeout=settings.timeout, max_retries=settings.retries
    ) as client:
        yield JudgeClient(client, settings)


class JudgeClient:
    """Sends requests, and makes sense of what comes back.

    Args:
        client: connected to the endpoint.
        settings: whom to ask, and how.
    """

    def __init__(self, client: openai.AsyncOpenAI, settings: JudgeSettings) -> None:
        self._client = client
        self._settings = settings

    async def judgement(self, request: Request) -> dict[str, Any]:
        """Ask until there is a judgement, `ATTEMPTS` times at most.

        Returns:
            What `Request.record` makes of the last answer; without a score where no answer held one.

        Raises:
            RefusedRequestError: the endpoint refuses this request.
            JudgeError: the endpoint cannot be reached or refuses every request.
        """
        for attempt in range(1, ATTEMPTS + 1):
            text = self._settings.without_key(await self._ask(request.prompt))
            record = request.record(self._settings.model, text, attempt, time.time())
            if record["score"] is not None:
                break
        return record

    async def _ask(self, prompt: str) -> str:
        """What the judge says; empty where the answer is not what the protocol says."""
        import openai

        try:
            completion = await self._client.chat.completions.create(
                model=self._settings.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=dict(self._settings.arguments),
            )
        except (JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError):
            return ""
        except openai.APIError as error:
            raise self._explained(error) from None
        try:  # the client does not check what it got
            return str(completion.choices[0].message.content or "")
        except (AttributeError, IndexError, TypeError):
            return ""

    def _explained(self, error: openai.APIError) -> JudgeError:
        """What went wrong, in one sentence with a remedy. The cause stays out of tracebacks: it holds the request's headers."""
        import openai

        judge = f"the judge at {self._settings.base_url}"
        tries = f"after {self._settings.retries + 1} tries"
        if not isinstance(error, openai.APIStatusError):
            reason = self._reason(str(error.__cause__ or "") or str(error))
            return JudgeError(f"{judge} cannot be reached {tries} ({reason}): check judge_base_url and timeout.")
        status = error.status_code
        if status in (401, 403):
            return JudgeError(f"{judge} refuses the key (HTTP {status}): check {self._settings.key_variable}.")
        if status == 404:
            return JudgeError(f"{judge} has no model {self._settings.model!r} (HTTP 404): check judge_model and the URL.")
        reason = self._reason(error.message)
        if status in (408, 409, 429) or status >= 500:
            return JudgeError(f"{judge} still fails {tries} ({reason}): try later, or a lower concurrency.")
        return RefusedRequestError(f"the judge refuses the request ({reason})")

    def _reason(self, text: str) -> str:
        text = " ".join(self._settings.without_key(text).split()).rstrip(".")
        return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
