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


@pytest.mark.parametrize("name", ["rep[x]", "rep[/x]", "[bold]", "a:cat:b", "[link=x]y[/link]"])
def test_names_that_look_like_markup_are_said_as_they_are(said, name):
    terminal.say([f"{name}: it is done."])
    terminal.say_written([Path(name, "report.html")])
    assert said.getvalue().splitlines() == [f"{name}: it is done.", f"wrote to {name}: report.html"]
