"""The display of progress: bars in a terminal, a line a minute elsewhere, nothing where it is quiet."""

import io
import re

import pytest
from helpers.terminal import shown_on, terminal
from rich.console import Console

from act_eval.progress import ProgressDisplay, Row, stage_progress, time_left

pytestmark = pytest.mark.tier("unit")


class Clock:
    """Goes on when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


def shown(console_arguments, seconds_between, times):
    """What a display prints for a row that is shown again and again."""
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=80, **console_arguments)
    with ProgressDisplay(console, clock) as display:
        for number in range(times):
            display.show(Row("run 3 of 34", number / times, "about 5 min left"), Row("act_sst2, ACT", 0.5, "10 of 20"))
            clock.now += seconds_between
    return file.getvalue()


def test_a_log_file_gets_a_line_a_minute():
    lines = shown({}, seconds_between=5.0, times=60).splitlines()
    assert len(lines) == 4  # in 295 seconds
    assert lines[0] == "run 3 of 34 20%, about 5 min left; act_sst2, ACT 50%, 10 of 20"


def test_what_is_slow_gets_a_line_for_each_step():
    assert len(shown({}, seconds_between=200.0, times=4).splitlines()) == 3


def test_a_terminal_gets_bars():
    text = shown({"force_terminal": True}, seconds_between=5.0, times=3)
    assert "run 3 of 34" in text
    assert "act_sst2, ACT" in text
    assert "━" in text
    assert "\x1b[?25h" in text.rpartition("act_sst2, ACT")[2], "the cursor is shown again in the end"


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_means_nothing(terminal):
    assert shown({"quiet": True, "force_terminal": terminal}, seconds_between=100.0, times=3) == ""


def test_long_names_leave_the_lines_whole():
    with ProgressDisplay(console := terminal(width=80), Clock()) as display:
        display.show(Row("act_" + "x" * 100, 0.5, "120 of 872 documents, 35.2 a second"))
        display._bars.refresh()
    lines = re.split(r"[\r\n]", shown_on(console))
    assert 70 < max(map(len, lines)) <= 80
    assert any("120 of 872 documents, 35.2 a second" in line for line in lines)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_names_that_look_like_markup_are_shown_as_they_are(is_terminal):
    console = Console(file=io.StringIO(), width=100, force_terminal=is_terminal, color_system=None)
    clock = Clock()
    with ProgressDisplay(console, clock) as display:
        clock.now += 100
        display.show(Row("[/bold] tasks", 0.5, "[i]:cat:[/i] left"))
        display.print("[red]a:bug:b[/x]")
    for text in ("[/bold] tasks", "[i]:cat:[/i] left", "[red]a:bug:b[/x]"):
        assert text in shown_on(console)


class TestStage:
    def lines(self, steps, total=100.0):
        """What a log gets when each step takes a minute: (amount, whether an earlier run did it)."""
        clock, file = Clock(), io.StringIO()
        with stage_progress(Console(file=file, width=80), "scoring all heads", total, "layer passes", clock) as progress:
            for amount, is_kept in steps:
                clock.now += 60
                (progress.skip if is_kept else progress.advance)(amount)
        return file.getvalue().splitlines()

    def test_time_left_is_that_of_what_has_been_done(self):
        assert self.lines([(20, False), (20, False)]) == [
            "scoring all heads 20%, 20 of 100 layer passes, about 4 min left",
            "scoring all heads 40%, 40 of 100 layer passes, about 3 min left",
        ]

    def test_what_an_earlier_run_did_does_not_count_as_fast(self):
        assert self.lines([(60, True), (20, False)]) == [
            "scoring all heads 60%, 60 of 100 layer passes, time left unknown",
            "scoring all heads 80%, 80 of 100 layer passes, about 2 min left",
        ]

    def test_more_than_was_foreseen_or_nothing_at_all(self):
        assert "100%, 120 of 100 layer passes, less than a minute left" in self.lines([(120, False)])[0]
        assert "100%, 0 of 0 layer passes" in self.lines([(0, False)], total=0)[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "time left unknown"),
        (0, "less than a minute left"),
        (29, "less than a minute left"),
        (45, "about 1 min left"),
        (59.9 * 60, "about 1 h 0 min left"),
        (7 * 3600 + 240, "about 7 h 4 min left"),
        (50 * 3600, "about 50 h 0 min left"),
    ],
)
def test_time_left(seconds, text):
    assert time_left(seconds) == text
