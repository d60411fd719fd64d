"""How far a comparison is: which run of how many, how fast it is, and how long all of them still take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from act_eval.harness.request_progress import Advance, RequestCount
from act_eval.progress import Clock, ProgressDisplay, Row, print_line, time_left


@dataclass(frozen=True)
class RunSize:
    """What is known of a run before it begins.

    Attributes:
        name: what it is called where progress is shown.
        task: name of its task; the same task takes as many tokens in every run.
        kind: the method of lm-eval's model that answers its requests.
        documents: how many it has.
    """

    name: str
    task: str
    kind: str
    documents: int


@dataclass
class _Measured:
    """Sums over what has run."""

    seconds: float = 0.0
    tokens: float = 0.0

    def add(self, seconds: float, tokens: float) -> None:
        self.seconds += seconds
        self.tokens += tokens


@dataclass
class Work:
    """What is still to be done: tokens by the kind of their requests, and the documents that they are of."""

    tokens: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    documents: int = 0


class RunTimes:
    """Learns from runs how long others take: from their documents, their tokens, and how fast tokens of each kind run."""

    def __init__(self) -> None:
        self._tokens_per_document: dict[str, float] = {}
        self._kind_of_task: dict[str, str] = {}
        self._speeds: defaultdict[str, _Measured] = defaultdict(_Measured)
        self._around = _Measured()  # time beside the model's, by document

    def learn_tokens(self, run: RunSize, tokens: float) -> None:
        """Take in how many tokens all documents of a run have."""
        self._tokens_per_document[run.task] = tokens / max(run.documents, 1)
        self._kind_of_task[run.task] = run.kind

    def learn_speed(self, kind: str, tokens: float, seconds: float) -> None:
        """Take in how long some tokens took the model."""
        self._speeds[kind].add(seconds, tokens)

    def learn_around(self, run: RunSize, seconds: float) -> None:
        """Take in how long a whole run took beside the model's time."""
        self._around.add(seconds, run.documents)

    def seconds_for_tokens(self, kind: str, tokens: float) -> float | None:
        """How long the model takes for tokens of a kind, or of any where none of that kind have run; None before any have."""
        measured = self._speeds[kind]
        if not measured.tokens:
            measured = _Measured(
                sum(other.seconds for other in self._speeds.values()), sum(other.tokens for other in self._speeds.values())
            )
        return tokens * measured.seconds / measured.tokens if measured.tokens else None

    def work_of(self, runs: Iterable[RunSize]) -> Work:
        """What some whole runs take, as far as it is known by now."""
        work = Work()
        for run in runs:
            work.documents += run.documents
            work.tokens[run.kind] += run.documents * self._expected_tokens(run)
        return work

    def seconds_for(self, work: Work) -> float | None:
        """How long some work takes; None before anything has run."""
        around = self._around.seconds / self._around.tokens if self._around.tokens else 0.0
        seconds = [self.seconds_for_tokens(kind, tokens) for kind, tokens in work.tokens.items()]
        known = [each for each in seconds if each is not None]
        return around * work.documents + sum(known) if len(known) == len(seconds) else None

    def seconds_for_run(self, run: RunSize) -> float | None:
        """How long a whole run takes; None before anything has run."""
        return self.seconds_for(self.work_of([run]))

    def _expected_tokens(self, run: RunSize) -> float:
        """Tokens of a document: of the same task, else on average over tasks of the same kind, else over all."""
        if run.task in self._tokens_per_document:
            return self._tokens_per_document[run.task]
        same = [tokens for task, tokens in self._tokens_per_document.items() if self._kind_of_task[task] == run.kind]
        known = same or list(self._tokens_per_document.values())
        return sum(known) / len(known) if known else 0.0


class ComparisonProgress:
    """Shows how far runs are, which go one after the other.

    Args:
        runs: in their order.
        console: where it is shown.
        clock: measures time.
    """

    def __init__(self, runs: Sequence[RunSize], console: Console, clock: Clock = time.monotonic) -> None:
        self._runs, self._console, self._clock = runs, console, clock
        self._display = ProgressDisplay(console, clock)
        self._times = RunTimes()
        self._number, self._model_seconds, self._later = 0, 0.0, Work()

    def __enter__(self) -> ComparisonProgress:
        self._display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._display.__exit__(None, None, None)

    @contextmanager
    def run(self, number: int) -> Iterator[None]:
        """Show a run, by its place among all of them, while the block lasts."""
        run = self._runs[number]
        self._number, self._model_seconds = number, 0.0
        self._later = self._times.work_of(self._runs[number + 1 :])
        print_line(self._console, f"[{number + 1}/{len(self._runs)}] {run.name}")
        self._show(0.0, "preparing its requests", None)
        start = self._clock()
        yield
        self._times.learn_around(run, self._clock() - start - self._model_seconds)

    @contextmanager
    def requests(self, count: RequestCount) -> Iterator[Advance]:
        """Show the requests of the run that is under way; a `RequestProgress`."""
        run, start = self._runs[self._number], self._clock()
        if count.answered:
            kept = f"{count.answered} of {count.requests} answers are there from an earlier start, and are kept."
            print_line(self._console, kept)
        if count.answered < count.requests:
            self._times.learn_tokens(run, count.tokens * count.requests / (count.requests - count.answered))
            self._later = self._times.work_of(self._runs[self._number + 1 :])
        answered, tokens, seconds = count.answered, 0, 0.0
        self._show(answered / max(count.requests, 1), _documents(run, answered, count), None)

        def advance(requests: int, of_them: int) -> None:
            nonlocal answered, tokens, seconds
            answered, tokens = answered + requests, tokens + of_them
            now = self._clock() - start
            self._times.learn_speed(count.kind, of_them, now - seconds)
            seconds = now
            speed = (answered - count.answered) / count.requests * run.documents / seconds if seconds else 0.0
            left = (count.tokens - tokens) * seconds / tokens if tokens else None
            self._show(answered / count.requests, f"{_documents(run, answered, count)}, {speed:.3g} a second", left)

        yield advance
        self._model_seconds += self._clock() - start

    def _show(self, share: float, detail: str, seconds_left: float | None) -> None:
        """Show the current run, of which a share is done, and all runs.

        Args:
            share: from 0 to 1.
            detail: what stands beside its bar.
            seconds_left: that the current run still takes, or None to go by other runs.
        """
        run = self._runs[self._number]
        later = self._times.seconds_for(self._later)
        this = self._times.seconds_for_run(run) if seconds_left is None else seconds_left
        left = None if later is None or this is None else later + this
        whole = (self._number + share) / len(self._runs)
        self._display.show(
            Row(f"run {self._number + 1} of {len(self._runs)}", whole, time_left(left)), Row(run.name, share, detail)
        )


def _documents(run: RunSize, answered: int, count: RequestCount) -> str:
    return f"{int(answered / max(count.requests, 1) * run.documents)} of {run.documents} documents"
