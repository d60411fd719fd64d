"""Ask a judge behind an OpenAI-compatible endpoint, some requests at a time, and put every judgement on disk as it comes.

The `openai` client repeats what fails on the way (no connection, a timeout, HTTP 408, 409, 429 and 5xx), waiting longer each
time. What it gives up on ends the run; requests that are under way are waited for, since they may be paid for.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from tqdm import tqdm

from act_eval.errors import InputError
from act_eval.mt_bench.folder import Folder
from act_eval.mt_bench.grading import PROMPT_VERSION, Kind, Request, make_request
from act_eval.mt_bench.journal import Append, open_journal
from act_eval.mt_bench.questions import TURNS

if TYPE_CHECKING:
    import openai

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
KINDS: tuple[Kind, ...] = get_args(Kind)
ATTEMPTS = 3

_DEFAULT_ARGUMENTS = {"temperature": 0, "max_tokens": 2048}
_NO_KEY = "none"
_LONGEST_REASON = 200
_SHOWN = 3
_NO_SCORE = {
    "single": f"the judge gave no grade from 1 to 10 in [[ ]] in {ATTEMPTS} attempts",
    "pair": f"the judge gave no verdict A, B or tie in [[ ]] in {ATTEMPTS} attempts",
}


class JudgeError(InputError):
    """The judge cannot be reached, refuses, or says what is no judgement."""


class RefusedRequestError(JudgeError):
    """The judge refuses one request; others may do."""


@dataclass(frozen=True)
class JudgeSettings:
    """Whom to ask, and how.

    Args:
        model: the judge's name at the endpoint.
        base_url: of the endpoint, up to `/v1`.
        key_variable: the environment variable that holds the API key. The key itself is nowhere but there.
        arguments: what else goes into each request.
        concurrency: requests that are under way at once.
        timeout: seconds to wait for an answer.
        retries: how often a request that failed on the way is sent again.
        retry_missing: ask again where an earlier run got no judgement.

    Raises:
        InputError: a setting is out of range, the URL is none or holds a password, or OpenAI's own endpoint is asked without
            a key.
    """

    model: str
    base_url: str = DEFAULT_URL
    key_variable: str = DEFAULT_KEY_VARIABLE
    arguments: Mapping[str, Any] = field(default_factory=lambda: dict(_DEFAULT_ARGUMENTS))
    concurrency: int = 8
    timeout: float = 120
    retries: int = 6
    retry_missing: bool = False

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if "@" in url.netloc:
            raise InputError(
                "--judge-base-url holds a user name or password: leave it out, and put a key into the environment."
            )
        if url.scheme not in ("http", "https") or not url.netloc:
            raise InputError(f"--judge-base-url {self.base_url!r} is not a URL such as http://localhost:8000/v1.")
        if self.concurrency < 1 or self.timeout <= 0 or self.retries < 0:
            raise InputError("--concurrency must be at least 1, --timeout above 0 and --retries at least 0.")
        if self.base_url == DEFAULT_URL and self.key == _NO_KEY:
            raise InputError(f"{self.key_variable} is not set: put the API key there, or name another --judge-base-url.")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise InputError(f"{self.key_variable} holds what no API key has, such as a space: set it anew.")

    @property
    def key(self) -> str:
        """The API key; endpoints that need none get a word."""
        return os.environ.get(self.key_variable, "").strip() or _NO_KEY

    def without_key(self, text: str) -> str:
        """A text from the endpoint, in which the key must not be repeated."""
        return text if self.key == _NO_KEY else text.replace(self.key, "***")


class Judge:
    """Sends requests, and makes sense of what comes back."""

    def __init__(self, client: openai.AsyncOpenAI, settings: JudgeSettings) -> None:
        self.client = client
        self.settings = settings

    async def judgement(self, request: Request) -> dict[str, Any]:
        """Ask until there is a judgement, `ATTEMPTS` times at most; the record has no score where there was none.

        Raises:
            JudgeError: the endpoint cannot be reached or refuses every request (`RefusedRequestError`: this one).
        """
        for attempt in range(1, ATTEMPTS + 1):
            text = self.settings.without_key(await self._ask(request.prompt))
            record = request.record(self.settings.model, text, attempt, time.time())
            if record["score"] is not None:
                break
        return record

    async def _ask(self, prompt: str) -> str:
        """What the judge says; empty where the answer is not what the protocol says."""
        import openai

        try:
            completion = await self.client.chat.completions.create(
                model=self.settings.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=dict(self.settings.arguments),
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

        judge = f"the judge at {self.settings.base_url}"
        tries = f"after {self.settings.retries + 1} tries"
        if not isinstance(error, openai.APIStatusError):
            reason = self._reason(str(error.__cause__ or "") or str(error))
            return JudgeError(f"{judge} cannot be reached {tries} ({reason}): check --judge-base-url and --timeout.")
        status = error.status_code
        if status in (401, 403):
            return JudgeError(f"{judge} refuses the key (HTTP {status}): check {self.settings.key_variable}.")
        if status == 404:
            return JudgeError(f"{judge} has no model {self.settings.model!r} (HTTP 404): check --judge-model and the URL.")
        reason = self._reason(error.message)
        if status in (408, 409, 429) or status >= 500:
            return JudgeError(f"{judge} still fails {tries} ({reason}): try later, or a lower --concurrency.")
        return RefusedRequestError(f"the judge refuses the request ({reason})")

    def _reason(self, text: str) -> str:
        text = " ".join(self.settings.without_key(text).split()).rstrip(".")
        return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def requests_of(folder: Folder, kind: Kind) -> list[Request]:
    """Everything that a judge is to be asked about a folder: each reply for itself, or ACT against baseline in both orders.

    Raises:
        InputError: see `Folder`.
    """
    baseline, *variants = folder.variants()
    answers = {variant.model_id: folder.answers(variant.model_id) for variant in (baseline, *variants)}
    requests = []
    for question in folder.questions():
        said = [of_model[question.question_id] for of_model in answers.values() if question.question_id in of_model]
        first = answers[baseline.model_id].get(question.question_id)
        for turn in TURNS:
            if kind == "single":
                requests += [make_request(question, turn, (answer,)) for answer in said]
            elif first is not None:
                orders = [order for answer in said[1:] for order in ((first, answer), (answer, first))]
                requests += [make_request(question, turn, order) for order in orders]
    return requests


def judge_answers(settings: JudgeSettings, kinds: Sequence[Kind], folder: Folder) -> list[str]:
    """Ask for every judgement that is not on disk yet.

    Args:
        settings: whom to ask.
        kinds: single, pair or both.
        folder: holds the answers, and gets the judgements.

    Returns:
        What to tell the user, in lines.

    Raises:
        JudgeError: the judge cannot be asked, or some judgements are missing in the end. What is on disk stays, and another run
            goes on.
        InputError: see `Folder` and `journal.open_journal`; a kind is unknown; the folder holds judgements of this judge that
            were made in another way.
    """
    if find_spec("openai") is None:
        raise InputError("the judge needs the openai package: pip install 'act-eval[judge]'.")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"--mode {','.join(kinds)}: choose among {', '.join(KINDS)}.")
    wanted = {kind: {request.prompt: request for request in requests_of(folder, kind)} for kind in kinds}
    folder.start_judging(settings.model, {"prompt_version": PROMPT_VERSION, "arguments": dict(settings.arguments)})
    lines, missing = [], []
    for kind, requests in wanted.items():
        file = folder.judgements_file(settings.model, kind)
        with open_journal(file) as append:
            there = folder.judgements(settings.model, kind)
            judged = {prompt for prompt, score in there.items() if score is not None or not settings.retry_missing}
            pending = [request for prompt, request in requests.items() if prompt not in judged]
            refused = asyncio.run(_ask_all(settings, pending, append, f"{settings.model}, {kind}"))
        scores = folder.judgements(settings.model, kind)
        unscored = [request for prompt, request in requests.items() if scores.get(prompt) is None]
        missing += [(request, refused.get(request.prompt, _NO_SCORE[kind])) for request in unscored]
        lines.append(f"{len(requests) - len(unscored)} of {len(requests)} judgements in {file}")
    if missing:
        raise JudgeError(_what_is_missing(missing, sum(map(len, wanted.values()))))
    return lines


async def _ask_all(settings: JudgeSettings, requests: Sequence[Request], append: Append, title: str) -> dict[str, str]:
    """Ask, `settings.concurrency` requests at a time.

    Returns:
        Why requests were refused, by prompt.
    """
    from openai import AsyncOpenAI

    if not requests:
        return {}
    left = iter(requests)
    refused: dict[str, str] = {}
    failures: list[JudgeError] = []

    async def work(judge: Judge, progress: tqdm[Any]) -> None:
        while not failures and (request := next(left, None)) is not None:
            try:
                append(await judge.judgement(request))
            except RefusedRequestError as error:
                refused[request.prompt] = str(error)
            except JudgeError as error:
                failures.append(error)
            progress.update()

    async with AsyncOpenAI(
        api_key=settings.key, base_url=settings.base_url, timeout=settings.timeout, max_retries=settings.retries
    ) as client:
        with tqdm(total=len(requests), desc=title) as progress:
            await asyncio.gather(*(work(Judge(client, settings), progress) for _ in range(settings.concurrency)))
    if failures:
        raise failures[0]
    return refused


def _what_is_missing(missing: Sequence[tuple[Request, str]], total: int) -> str:
    """One sentence: how many judgements are missing, which, and why."""
    reasons: dict[str, list[str]] = {}
    for request, reason in missing:
        reasons.setdefault(reason, []).append(
            f"question {request.question_id} turn {request.turn} ({' against '.join(request.models)})"
        )
    parts = []
    for reason, requests in reasons.items():
        shown = ", ".join(requests[:_SHOWN]) + (f" and {len(requests) - _SHOWN} more" if len(requests) > _SHOWN else "")
        parts.append(f"{reason}: {shown}")
    what = f"{len(missing)} of {total} judgements are missing: {'; '.join(parts)}"
    return f"{what}. All others are on disk; --retry-missing asks for these again."
