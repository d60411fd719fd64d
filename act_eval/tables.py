"""Tables of texts, for terminals, Markdown and LaTeX, and the one form that numbers have in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

BOOKTABS_NOTE = "% Needs \\usepackage{booktabs}."
_LONG_NUMBER = 100_000  # perplexities may be astronomical
_ROUNDING = 1e-12  # of sums in another order
_WHOLE = ".0f"
_ANY_WIDTH = 1_000_000  # of a terminal, to see how much room a table takes
_MOST_NAMES = 4  # of columns that are not shown


@dataclass(frozen=True)
class TextTable:
    """A table that is ready to print.

    Attributes:
        title: what it shows.
        texts: a text for each row and column; the columns are the headers.
        left: headers of the columns that stand on the left, such as names; numbers stand on the right.
        bold: of the same shape, which texts are bold; by default none.
    """

    title: str
    texts: pd.DataFrame
    left: Collection[str] = ()
    bold: pd.DataFrame | None = None

    @property
    def is_left(self) -> list[bool]:
        """For each column whether it stands on the left."""
        return [header in self.left for header in self.texts]

    @property
    def is_bold(self) -> pd.DataFrame:
        """For each text whether it is bold."""
        return self.texts.map(lambda _: False) if self.bold is None else self.bold

    def to_markdown(self) -> str:
        """The table in Markdown, below a heading."""
        texts = self.texts.map(lambda text: text.replace("|", "\\|").replace("*", "\\*"))
        texts = texts.where(~self.is_bold, "**" + texts + "**")
        align = ["left" if left else "right" for left in self.is_left]
        return f"### {self.title}\n\n{texts.to_markdown(index=False, disable_numparse=True, colalign=align)}\n"

    def to_latex(self, *notes: str) -> str:
        """The table as a LaTeX `tabular` with the rules of the booktabs package, below its title and notes as comments."""
        style = self.texts.style.format(_mathematics, escape="latex").format_index(_mathematics, escape="latex", axis=1)
        bold = self.is_bold.map(lambda bold: "textbf:--rwrap;" if bold else "")
        style = style.apply(lambda _: bold, axis=None).hide(axis="index")
        tabular = style.to_latex(hrules=True, column_format="".join("l" if left else "r" for left in self.is_left))
        return "\n".join([*(f"% {one_line(text)}" for text in (self.title, *notes)), tabular])

    def to_terminal(
        self,
        *,
        leave_out: Sequence[str] = (),
        elsewhere: str = "",
        wrapped: str | None = None,
        notes: Sequence[str] = (),
        padding: tuple[int, int, int, int] = (0, 1, 0, 0),
        styles: Sequence[str | None] | None = None,
        ends_of_sections: Collection[int] = (),
    ) -> TerminalTable:
        """The table for a terminal, as wide as that allows.

        Args:
            leave_out: headers of the columns that a narrow terminal does without, the first one first; after these go the
                others from the right, but never the first column.
            elsewhere: where columns that are left out can be read, such as the name of a file.
            wrapped: the header of a column whose texts may go on in the next line after a space; others stay in one.
            notes: lines below the table.
            padding: above, on the right of, below and on the left of each text.
            styles: the style of each row, such as "green"; plain by default.
            ends_of_sections: the rows, by place, that have a line below them.
        """
        return TerminalTable(
            self, tuple(leave_out), elsewhere, wrapped, tuple(notes), padding, styles, frozenset(ends_of_sections)
        )


@dataclass(frozen=True)
class TerminalTable:
    """A table that takes the columns there is room for, and says which others there are. See `TextTable.to_terminal`.

    No text of a table is broken in the middle, unless the first column alone is wider than the terminal. Where there is no room
    for all columns, those that say the same in every row are said once, below the table, before others are left out.
    """

    table: TextTable
    leave_out: tuple[str, ...]
    elsewhere: str
    wrapped: str | None
    notes: tuple[str, ...]
    padding: tuple[int, int, int, int]
    styles: Sequence[str | None] | None
    ends_of_sections: frozenset[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        headers = [str(header) for header in self.table.texts]
        said_once: list[str] = []
        left_out: list[str] = []

        def shown() -> list[str]:
            return [header for header in headers if header not in (*said_once, *left_out)]

        first_to_go = [header for header in self.leave_out if header in headers]
        for header in filter(self._says_the_same, dict.fromkeys((*first_to_go, *headers[1:]))):
            if not self._fits(shown(), console, options):
                said_once.append(header)
        for header in dict.fromkeys((*first_to_go, *reversed(headers[1:]))):
            if header in shown() and not self._fits(shown(), console, options):
                left_out.append(header)
        if self.table.title:
            yield Text(self.table.title, style="table.title")
        yield self._table(shown())
        lines = [*self._about(said_once, left_out, headers), *self.notes]
        if lines:
            yield Text("\n".join(["", *lines]), style="table.caption")
        yield Text()

    def _says_the_same(self, header: str) -> bool:
        """Whether a column has one text, and the same in every row."""
        texts = self.table.texts[header]
        return texts.nunique() == 1 and bool(texts.iloc[0])

    def _fits(self, headers: Sequence[str], console: Console, options: ConsoleOptions) -> bool:
        """Whether there is room for some columns."""
        narrowest = self._table(headers, narrow=True)
        return console.measure(narrowest, options=options.update(max_width=_ANY_WIDTH)).maximum <= options.max_width

    def _table(self, headers: Sequence[str], narrow: bool = False) -> Table:
        """The table of some columns; `narrow`, its wrapped column takes no more room than its longest word."""
        texts = self.table.texts[list(headers)]
        made = Table(box=box.SIMPLE, padding=self.padding, show_edge=False, pad_edge=False)
        for header in headers:
            wraps = header == self.wrapped
            words = " ".join([header, *texts[header]]).split() if wraps else []
            made.add_column(
                Text(header),
                justify="left" if header in self.table.left else "right",
                no_wrap=not wraps and len(headers) > 1,
                overflow="fold",
                max_width=max(map(cell_len, words), default=1) if wraps and narrow else None,
            )
        for place, row in enumerate(texts.itertuples(index=False)):
            style = None if self.styles is None else self.styles[place]
            made.add_row(*map(Text, row), style=style, end_section=place in self.ends_of_sections)
        return made

    def _about(self, said_once: Sequence[str], left_out: Sequence[str], headers: Sequence[str]) -> Iterator[str]:
        """What is not in the table: what holds for all rows, and which columns there are besides."""
        if said_once:
            texts = self.table.texts.iloc[0]
            yield f"in all rows: {', '.join(f'{header} {texts[header]}' for header in headers if header in said_once)}"
        if left_out:
            names = [header for header in headers if header in left_out]
            is_many = len(names) > _MOST_NAMES
            named = f"{len(names)} columns, {names[0]} to {names[-1]}" if is_many else ", ".join(names)
            yield f"{named}: in {f'{self.elsewhere}, or in ' if self.elsewhere else ''}a wider terminal"


def csv_text(rows: pd.DataFrame) -> str | None:
    """Numbers as CSV, at full precision; None where there are no rows."""
    return rows.to_csv(index=False) if len(rows) else None


def number(value: Any, form: str) -> str:
    """A number in a form such as `+.3f`, with an exponent where it is too long for a column; empty where it is missing.

    What is left of zero after sums in another order is zero: `+0.000`. A small negative number keeps its sign: `-0.000`.
    """
    if pd.isna(value):
        return ""
    is_long = abs(value) >= _LONG_NUMBER and not form.endswith(_WHOLE)
    return f"{0.0 if abs(value) < _ROUNDING else value:{form.replace('f', 'e') if is_long else form}}"


def with_spread(mean: float, standard_deviation: float, form: str) -> str:
    """A mean and, unless it is missing, the standard deviation over seeds."""
    return number(mean, form) if pd.isna(standard_deviation) else f"{number(mean, form)} ± {number(standard_deviation, '.3f')}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """An interval of a difference; `unpaired` where it is missing."""
    return "unpaired" if pd.isna(low) else f"{number(low, f'+.{digits}f')} to {number(high, f'+.{digits}f')}"


def p_value(p: float) -> str:
    """A p-value with three digits; empty where it is missing."""
    return "" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())


def _mathematics(text: object) -> str:
    """Signs that are mathematics in LaTeX."""
    signs = re.sub(r"(?<![\w.])([-+])(?=\d)", r"$\1$", str(text))
    return signs.replace("<", "$<$").replace("±", r"$\pm$")
