"""Tables on terminals of any width: names and numbers stay whole, and what has no room is said."""

import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from act_eval.tables import TextTable, number

pytestmark = pytest.mark.tier("unit")

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_-/.[]:", min_size=1, max_size=45)
NUMBERS = st.sampled_from(["0.500", "+0.083", "-0.062", "+0.000 to +0.208", "<0.001", "0.562\n± 0.088", "12345", ""])


def printed(table, width):
    """The lines that a table takes on a terminal, without their empty ends."""
    console = Console(width=width, file=io.StringIO(), record=True, force_terminal=False)
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


def words(text):
    """What a text is made of that must not be broken."""
    return [part.strip() for part in text.splitlines() if part]


@st.composite
def tables(draw):
    rows, columns, names = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(0, 2))
    headers = draw(st.lists(NAMES, min_size=1 + names + columns, max_size=1 + names + columns, unique=True))
    column = {header: draw(st.lists(NAMES, min_size=rows, max_size=rows)) for header in headers[: 1 + names]}
    column |= {header: draw(st.lists(NUMBERS, min_size=rows, max_size=rows)) for header in headers[1 + names :]}
    return TextTable("", pd.DataFrame(column), headers[: 1 + names]), draw(st.lists(st.sampled_from(headers[1:]), unique=True))


@given(tables(), st.integers(80, 200))
def test_nothing_is_broken_and_nothing_is_lost_in_silence(drawn, width):
    """Each cell is whole where its column is, or said once below; columns that are nowhere are named or counted."""
    table, leave_out = drawn
    lines = printed(table.to_terminal(leave_out=leave_out, elsewhere="all.csv"), width)
    assert max(map(len, lines)) <= width
    rule = next(place for place, line in enumerate(lines) if set(line) == {"─"})
    header, below = lines[rule - 1], "\n".join(lines[rule + 1 :])
    shown = [name for name in table.texts if f"  {name}  " in f"  {header}  "]
    assert shown[0] == table.texts.columns[0]
    for name in shown:
        for text in table.texts[name]:
            for part in words(text):
                assert part in below
    spoken = " ".join(below.split())
    gone = [name for name in table.texts if name not in shown]
    in_all_rows = re.split(r" \d+ columns, ", spoken.partition("in all rows: ")[2])[0]
    said_once = [name for name in gone if f", {name} " in f", {in_all_rows}"]
    left_out = [name for name in gone if name not in said_once]
    assert not left_out or ", or in a wider terminal" in spoken
    if len(left_out) > 4:
        assert f"{len(left_out)} columns, " in spoken
    else:
        assert all(name in spoken for name in left_out)


@given(tables())
def test_a_wider_terminal_shows_no_less(drawn):
    table, leave_out = drawn
    counts = []
    for width in (80, 120, 200, 100_000):
        lines = printed(table.to_terminal(leave_out=leave_out), width)
        rule = next(place for place, line in enumerate(lines) if set(line) == {"─"})
        counts.append(sum(f"  {name}  " in f"  {lines[rule - 1]}  " for name in table.texts))
    assert counts == sorted(counts)
    assert counts[-1] == len(table.texts.columns)


def table_of(rows, left=("task",)):
    return TextTable("title", pd.DataFrame(rows), left)


ROWS = [
    {"task": "mmlu_high_school_government_and_politics", "metric": "acc", "n": "4", "delta": "+0.1", "p": "0.5"},
    {"task": "mmlu_anatomy", "metric": "acc", "n": "5", "delta": "-0.1", "p": "0.6"},
]


@pytest.mark.parametrize(
    ("width", "header", "below"),
    [
        (63, "task metric n delta p", []),
        (62, "task n delta p", ["in all rows: metric acc"]),
        (54, "task delta p", ["in all rows: metric acc", "n: in all.csv, or in a wider terminal"]),
        (49, "task delta", ["in all rows: metric acc", "n, p: in all.csv, or in a wider terminal"]),
        (45, "task", ["in all rows: metric acc", "n, delta, p: in all.csv, or in a wider", "terminal"]),
    ],
)
def test_what_goes_first(width, header, below):
    lines = printed(table_of(ROWS).to_terminal(leave_out=["n", "p"], elsewhere="all.csv", notes=["a note"]), width)
    assert lines[0] == "title"
    assert lines[1].split() == header.split()
    start = lines.index("", 3)
    assert lines[start:] == ["", *below, "a note", ""]


def test_without_another_place():
    assert "n: in a wider terminal" in printed(table_of(ROWS).to_terminal(leave_out=["n"]), 52)


def test_one_row_loses_nothing():
    lines = printed(table_of(ROWS[:1]).to_terminal(leave_out=["n"]), 45)
    assert lines[3] == "mmlu_high_school_government_and_politics  0.5"
    assert lines[5] == "in all rows: metric acc, n 4, delta +0.1"


def test_many_columns_are_counted():
    rows = [
        {"task": str(row), **{f"column_{number}_of_the_table": str(number * row) for number in range(20)}} for row in (1, 2)
    ]
    assert "16 columns, column_4_of_the_table to column_19_of_the_table: in a wider terminal" in printed(
        table_of(rows).to_terminal(), 80
    )


def test_texts_that_may_go_on_in_the_next_line():
    rows = [{"task": "some_name", "remark": "one two three", "n": "1"}, {"task": "other", "remark": "x", "n": "2"}]
    lines = printed(table_of(rows, ("task", "remark")).to_terminal(wrapped="remark"), 22)
    assert lines[3:6] == ["some_name  one two   1", "           three", "other      x         2"]


def test_names_in_brackets_are_no_style():
    rows = [{"task": "[bold]name[/bold] :smile:", "n": "1"}]
    assert printed(TextTable("[red]title[/red]", pd.DataFrame(rows), ["task"]).to_terminal(), 80)[::3] == [
        "[red]title[/red]",
        "[bold]name[/bold] :smile:  1",
    ]


def test_headers_and_what_stands_below_a_table_in_brackets_are_no_style():
    rows = [{"[b]task": "one", "[/x]": "[i]a[/i] :cat:", "n": str(number)} for number in range(2)]
    table = TextTable("", pd.DataFrame(rows), ["[b]task"]).to_terminal(elsewhere="[u]file", notes=["[/y] note :cat:"])
    wide = printed(table, 80)
    assert wide[0].split() == ["[b]task", "[/x]", "n"]
    assert "[/y] note :cat:" in wide
    narrow = " ".join(printed(table, 8))
    assert "in all rows: [/x] [i]a[/i] :cat:" in narrow
    assert "n: in [u]file, or in a wider terminal" in narrow


@given(NAMES.filter(lambda name: len(name) > 1), st.data())
def test_a_name_that_is_wider_than_the_terminal_goes_on_below(name, data):
    width = data.draw(st.integers(1, len(name) - 1), "width")
    lines = printed(TextTable("", pd.DataFrame([{"task": name, "n": "1"}]), ["task"]).to_terminal(), width)
    assert max(map(len, lines)) <= width
    assert name in "".join(lines)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-7e-18, "+.3f", "+0.000"),
        (-0.0, "+.3f", "+0.000"),
        (-0.0004, "+.3f", "-0.000"),
        (0.0, ".0f", "0"),
        (-0.07, "+.1f", "-0.1"),
    ],
)
def test_what_is_left_of_zero_has_no_sign_of_its_own(value, form, text):
    """The end of an interval just below zero keeps its sign."""
    assert number(value, form) == text
