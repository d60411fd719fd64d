"""Have the answers in a folder judged: which requests there are, which are still to be asked, and what is missing in the end.

Some requests are under way at a time, and every judgement is put on disk as it comes. What the client gives up on ends the run;
requests that are under way are waited for, since they may be paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from typing import get_args

from rich.console import Console

from act_eval.errors import InputError, SettingError
from act_eval.mt_bench.folder import ComparisonFolder
from act_eval.mt_bench.grading import PROMPT_VERSION, Kind, Request, make_request
from act_eval.mt_bench.journal import Append, open_journal
from act_eval.mt_bench.judge_client import ATTEMPTS, JudgeClient, JudgeError, RefusedRequestError, connect
from act_eval.mt_bench.questions import TURNS
from act_eval.mt_bench.settings import JudgeSettings
from act_eval.progress import StageProgress, stage_progress

KINDS: tuple[Kind, ...] = get_args(Kind)

_SHOWN = 3
_NO_SCORE = {
    "single": f"the judge gave no grade from 1 to 10 in [[ ]] in {ATTEMPTS} attempts",
    "pair": f"the judge gave no verdict A, B or tie in [[ ]] in {ATTEMPTS} attempts",
}


def judge_answers(
    settings: JudgeSettings, kinds: Sequence[Kind], folder: ComparisonFolder, console: Console | None = None
) -> list[str]:
    """Ask for every judgement that is not on disk yet.

    Args:
        settings: whom to ask.
        kinds: single, pair or both.
        folder: holds the answers, and gets the judgements.
        console: shows how far it is; stderr by default.

    Returns:
        What to tell the user, in lines.

    Raises:
        JudgeError: the judge cannot be asked, or some judgements are missing in the end. What is on disk stays, and another run
            goes on.
        SettingError: a kind is unknown.
        InputError: the folder holds no answers, files that cannot be read, or judgements of this judge that were made in
            another way; another process is judging; or the openai package is not installed.
    """
    if find_spec("openai") is None:
        raise InputError("the judge needs the openai package: pip install 'act-eval[judge]'.")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise SettingError("mode", f"{','.join(kinds)}: choose among {', '.join(KINDS)}.")
    wanted = {kind: {request.prompt: request for request in requests_of(folder, kind)} for kind in kinds}
    folder.start_judging(settings.model, {"prompt_version": PROMPT_VERSION, "arguments": dict(settings.arguments)})
    console = console or Console(stderr=True)
    lines, missing = [], []
    for kind, requests in wanted.items():
        file = folder.judgements_file(settings.model, kind)
        with open_journal(file) as append:
            there = folder.judgements(settings.model, kind)
            judged = {prompt for prompt, score in there.items() if score is not None or not settings.retry_missing}
            pending = [request for prompt, request in requests.items() if prompt not in judged]
            with stage_progress(console, f"{settings.model}, {kind}", len(requests), "judgements") as progress:
                progress.skip(len(requests) - len(pending))
                refused = asyncio.run(_ask_all(settings, pending, append, progress))
        scores = folder.judgements(settings.model, kind)
        unscored = [request for prompt, request in requests.items() if scores.get(prompt) is None]
        missing += [(request, refused.get(request.prompt, _NO_SCORE[kind])) for request in unscored]
        lines.append(f"{len(requests) - len(unscored)} of {len(requests)} judgements in {file}")
    if missing:
        raise JudgeError(_what_is_missing(missing, sum(map(len, wanted.values()))))
    return lines


def requests_of(folder: ComparisonFolder, kind: Kind) -> list[Request]:
    """List what a judge is to be asked about a folder: each reply for itself, or ACT against baseline in both orders.

    Raises:
        InputError: the folder holds no answers, or files that cannot be read.
    """
    baseline, *variants = folder.variants()
    answers = {variant.model_id: folder.answers(variant.model_id) for variant in (baseline, *variants)}
    requests = []
    for question in folder.questions():
        said = [of_model[question.question_id] for of_model in answers.values() if question.question_id in of_model]
        of_baseline = answers[baseline.model_id].get(question.question_id)
        for turn in TURNS:
            if kind == "single":
                requests += [make_request(question, turn, (answer,)) for answer in said]
            elif of_baseline is not None:
                orders = [order for answer in said[1:] for order in ((of_baseline, answer), (answer, of_baseline))]
                requests += [make_request(question, turn, order) for order in orders]
    return requests


async def _ask_all(
    settings: JudgeSettings, requests: Sequence[Request], append: Append, progress: StageProgress
) -> dict[str, str]:
    """Ask, `settings.concurrency` requests at a time.

    Returns:
        Why requests were refused, by prompt.
    """
    if not requests:
        return {}
    pending = iter(requests)
    refused: dict[str, str] = {}
    failures: list[JudgeError] = []

    async def work(client: JudgeClient) -> None:
        while not failures and (request := next(pending, None)) is not None:
            try:
                append(await client.judgement(request))
            except RefusedRequestError as error:
                refused[request.prompt] = str(error)
            except JudgeError as error:
                failures.append(error)
            progress.advance(1)

    async with connect(settings) as client:
        await asyncio.gather(*(work(client) for _ in range(settings.concurrency)))
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
    return f"{what}. All others are on disk; retry_missing asks for these again."
