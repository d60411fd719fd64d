"""Tables of texts, for terminals, Markdown and LaTeX, and the one form that numbers have in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

BOOKTABS_NOTE = "% Needs \\usepackage{booktabs}."
_LONG_NUMBER = 100_000  # perplexities may be astronomical
_WHOLE = ".0f"


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
        columns: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        caption: str | None = None,
        padding: tuple[int, int, int, int] = (0, 1, 0, 0),
        styles: Sequence[str | None] | None = None,
        ends_of_sections: Collection[int] = (),
    ) -> Table:
        """The table for a terminal, by rich.

        Args:
            columns: by header, what rich's `add_column` is told besides the side on which a column stands.
            caption: a text below the table.
            padding: above, on the right of, below and on the left of each text.
            styles: the style of each row, such as "green"; plain by default.
            ends_of_sections: the rows, by place, that have a line below them.
        """
        shown = Table(title=self.title, caption=caption, box=box.SIMPLE, padding=padding)
        for header, left in zip(self.texts, self.is_left, strict=True):
            options = (columns or {}).get(str(header), {})
            shown.add_column(str(header), **{"justify": "left" if left else "right", **options})
        for place, texts in enumerate(self.texts.itertuples(index=False)):
            style = None if styles is None else styles[place]
            shown.add_row(*texts, style=style, end_section=place in ends_of_sections)
        return shown


def csv_text(rows: pd.DataFrame) -> str | None:
    """Numbers as CSV, at full precision; None where there are no rows."""
    return rows.to_csv(index=False) if len(rows) else None


def number(value: Any, form: str) -> str:
    """A number in a form such as `+.3f`, with an exponent where it is too long for a column; empty where it is missing."""
    if pd.isna(value):
        return ""
    is_long = abs(value) >= _LONG_NUMBER and not form.endswith(_WHOLE)
    return f"{value:{form.replace('f', 'e') if is_long else form}}"


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
