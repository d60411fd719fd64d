"""What a comparison says about how far it is, and how well it foresees its end."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from act_eval.compare.progress import ComparisonProgress, RunSize, RunTimes
from act_eval.harness.request_progress import RequestCount

pytestmark = pytest.mark.tier("unit")

SPEEDS = {"loglikelihood": 500.0, "generate_until": 50.0}  # tokens a second
PREPARING = 0.01  # seconds a document


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Comparison:
    """Runs in a time that a clock is told, with a display that is asked for the seconds left."""

    def __init__(self, runs, tokens_per_document):
        self.clock, self.file, self.left = Clock(), io.StringIO(), []
        self.runs, self.tokens = runs, tokens_per_document
        self.progress = ComparisonProgress(runs, Console(file=self.file, width=200), self.clock)

    def seconds(self, run):
        return run.documents * (self.tokens[run.task] / SPEEDS[run.kind] + PREPARING)

    def run(self, number, answered=0):
        run = self.runs[number]
        with self.progress.run(number):
            self.clock.now += PREPARING * run.documents
            tokens = self.tokens[run.task]
            waiting = run.documents - answered
            with self.progress.requests(RequestCount(run.kind, run.documents, waiting * tokens, answered)) as advance:
                for _ in range(waiting):
                    self.clock.now += tokens / SPEEDS[run.kind]
                    advance(1, tokens)

    @property
    def lines(self):
        return self.file.getvalue().splitlines()


def runs(tasks=("a", "b"), variants=("ACT", "baseline"), documents=400, kind="loglikelihood"):
    return [RunSize(f"{task}, {variant}", task, kind, documents) for variant in variants for task in tasks]


def minutes(line):
    """The minutes that a line of the log says are left."""
    found = re.search(r"about (?:(\d+) h )?(\d+) min left", line)
    return 60 * int(found[1] or 0) + int(found[2]) if found else 0


def test_each_run_is_named_and_the_log_says_how_far_all_of_them_are():
    comparison = Comparison(runs(), {"a": 100, "b": 100})
    for number in range(4):
        comparison.run(number)
    assert [line for line in comparison.lines if line.startswith("[")] == [
        "[1/4] a, ACT",
        "[2/4] b, ACT",
        "[3/4] a, baseline",
        "[4/4] b, baseline",
    ]
    timed = [line for line in comparison.lines if not line.startswith("[")]
    assert len(timed) == int(comparison.clock.now // 60)
    assert timed[0] == "run 1 of 4 18%, about 4 min left; a, ACT 70%, 280 of 400 documents, 5 a second"


def test_the_end_is_foreseen_from_what_has_run():
    """Within a tenth, or a minute, once the task and the variant have been met; tokens differ by task, speed does not."""
    comparison = Comparison(runs(), {"a": 300, "b": 900})
    total = sum(map(comparison.seconds, comparison.runs))
    for number in range(4):
        comparison.run(number)
    for line in comparison.lines:
        if line.startswith("run") and not line.startswith("run 1"):
            done = float(re.search(r"(\d+) of 400 documents", line)[1])
            number = int(re.search(r"run (\d)", line)[1])
            spent = sum(map(comparison.seconds, comparison.runs[: number - 1]))
            spent += done * (comparison.tokens[comparison.runs[number - 1].task] / 500) + PREPARING * 400
            assert minutes(line) == pytest.approx((total - spent) / 60, rel=0.1, abs=1)


def test_kinds_of_requests_have_their_own_speed():
    sizes = [
        RunSize("a, ACT", "a", "loglikelihood", 300),
        RunSize("g, ACT", "g", "generate_until", 300),
        RunSize("a, baseline", "a", "loglikelihood", 300),
        RunSize("g, baseline", "g", "generate_until", 300),
    ]
    comparison = Comparison(sizes, {"a": 100, "g": 100})
    comparison.run(0)
    comparison.run(1)
    times = comparison.progress._times
    for run in sizes[2:]:
        assert times.seconds_for_run(run) == pytest.approx(comparison.seconds(run))


def test_before_anything_has_run_nothing_is_foreseen():
    times = RunTimes()
    assert times.seconds_for_run(RunSize("a", "a", "loglikelihood", 10)) is None
    assert times.seconds_for_tokens("loglikelihood", 10) is None


def test_what_is_kept_is_said_and_does_not_count_as_fast():
    comparison = Comparison(runs(documents=1000), {"a": 100, "b": 100})
    comparison.run(0, answered=900)
    assert "900 of 1000 answers are there from an earlier start, and are kept." in comparison.lines
    for run in comparison.runs[1:]:
        assert comparison.progress._times.seconds_for_run(run) == pytest.approx(comparison.seconds(run))
    comparison.run(1, answered=1000)
    assert comparison.progress._times.seconds_for_run(comparison.runs[2]) == pytest.approx(
        comparison.seconds(comparison.runs[2])
    )


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 1000), st.integers(0, 50)), min_size=1, max_size=6))
def test_any_runs(sizes):
    """No division by nothing, shares from 0 to 1, and in the end all has been told."""
    tasks = {str(number): tokens for number, (_, tokens, _) in enumerate(sizes)}
    planned = [RunSize(task, task, "loglikelihood", sizes[int(task)][0]) for task in tasks]
    comparison = Comparison(planned, tasks)
    shares = []
    show = comparison.progress._display.show
    comparison.progress._display.show = lambda *rows: (shares.extend(row.share for row in rows), show(*rows))
    for number, (documents, _, answered) in enumerate(sizes):
        comparison.run(number, min(answered, documents))
    assert all(0 <= share <= 1 for share in shares)
    assert shares[-2:] == pytest.approx([1.0, 1.0])
