"""What commands say on the terminal."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from act_eval.cli import terminal

pytestmark = pytest.mark.tier("unit")


@pytest.fixture
def said(monkeypatch):
    """What is printed on a narrow terminal."""
    shown = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=shown, width=20))
    return shown


def test_files_that_were_written_have_a_line_for_each_folder(said):
    names = ["study.csv", "report.html", "study.png", "study.svg", "plots/sinks.png", "a.b.csv", "a.b.md", "notes"]
    terminal.say_written(Path("results", name) for name in names)
    assert said.getvalue().splitlines() == [
        "wrote to results: study.{csv,png,svg}, report.html, a.b.{csv,md}, notes",
        "wrote to results/plots: sinks.png",
    ]


def test_where_nothing_was_written_nothing_is_said(said):
    terminal.say_written([])
    assert said.getvalue() == ""
