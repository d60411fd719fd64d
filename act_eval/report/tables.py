"""Tables of a report as text: Markdown, LaTeX, HTML cells, and the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from act_eval.report.build import Report

SIGNIFICANCE_LEVEL = 0.05
PAIRED_NOTE = (
    "Differences are paired by document; intervals are 95% percentile bootstrap over documents (10,000 resamples); p is "
    "the exact McNemar test, and Holm p the same corrected for the number of rows of its table."
)
OVERVIEW_NOTE = (
    "Best in bold; * differs from the baseline: Holm p below 0.05, or, for averages and for metrics that are not 0 or 1, a 95% "
    "interval without zero."
)
CLUSTER_NOTE = (
    "SE is the standard error of delta; clustered SE allows documents of one subject or article to depend on each other."
)
NOISE_NOTE = (
    "Noise is how much two runs of the baseline differ: the absolute difference, and how many documents have another score."
)
GROUP_NOTE = "Averages give every task the same weight; their intervals resample documents within each task."
TERMINAL_NOTE = "paired by document: bootstrap interval, exact McNemar p"
SEEDS_NOTE = "means over {} few-shot seeds ± standard deviation over seeds"

_MEANS = {"baseline": ".3f", "act": ".3f", "delta": "+.3f"}
_TERMINAL = ("task", "metric", "shots", "n", "baseline", "ACT", "delta", "95% interval", "McNemar p")
_NAMES = ("model", "settings", "task", "metric", "group", "subject", "category", "method", "profile", "keep", "decode")


@dataclass(frozen=True)
class TextTable:
    """A table ready to print.

    Attributes:
        title: what it shows.
        texts: the cells; the columns are the headers.
        bold: of the same shape, which cells are the best.
    """

    title: str
    texts: pd.DataFrame
    bold: pd.DataFrame

    @property
    def left(self) -> list[bool]:
        """Which columns hold names and stand on the left."""
        return [column in _NAMES for column in self.texts]


def report_tables(report: Report) -> list[TextTable]:
    """Models x tasks, then the comparison for each model and settings, averages, and subjects."""
    tables = [overview(report)]
    for title, rows in _by_settings(report.comparison):
        tables.append(plain_table(title, comparison_texts(rows)))
    for title, rows in _by_settings(report.groups):
        tables.append(plain_table(f"Averages over tasks, {title}", group_texts(rows)))
    for title, rows in _by_settings(report.subjects):
        tables.append(plain_table(f"Per subject, {title}", group_texts(rows)))
    return tables


def report_notes(report: Report) -> list[str]:
    """What the columns of the tables mean, a sentence or two each."""
    notes = [OVERVIEW_NOTE, PAIRED_NOTE]
    if seeds := _seeds(report.comparison):
        notes.append(f"Few-shot results are {SEEDS_NOTE.format(seeds)}.")
    if report.comparison["clusters"].notna().any():
        notes.append(CLUSTER_NOTE)
    if report.comparison["noise"].notna().any():
        notes.append(NOISE_NOTE)
    if len(report.groups):
        notes.append(GROUP_NOTE)
    return notes


def comparison_texts(comparison: pd.DataFrame) -> pd.DataFrame:
    """The comparison as text, one row per task and metric; accuracies are shares of 1.

    Columns that say nothing are left out: SE and clustered SE, without clusters; noise, without two baseline runs. Where
    several seeds were averaged, ± and the standard deviation over seeds follow the mean.
    """
    rows = []
    for _, row in comparison.iterrows():
        rows.append(
            {
                "task": row["task"],
                "metric": _metric(row),
                "shots": _number(row["num_fewshot"], ".0f"),
                "n": _number(row["n"], ".0f"),
                **dict(zip(("baseline", "ACT", "delta"), _means(row), strict=True)),
                "95% interval": _interval(row),
                "SE": _number(row["standard_error"], ".3f"),
                "clustered SE": _number(row["clustered_standard_error"], ".3f"),
                "only baseline right": _number(row["only_baseline"], ".0f"),
                "only ACT right": _number(row["only_act"], ".0f"),
                "McNemar p": _p_value(row["p"]),
                "Holm p": _p_value(row["p_holm"]),
                "noise": _noise(row),
            }
        )
    texts = pd.DataFrame(rows)
    empty = [] if comparison["clusters"].notna().any() else ["SE", "clustered SE"]
    empty += [] if comparison["noise"].notna().any() else ["noise"]
    return texts.drop(columns=empty)


def group_texts(groups: pd.DataFrame) -> pd.DataFrame:
    """Averages over tasks, or the comparison per subject, as text."""
    name = "group" if "group" in groups else "subject"
    rows = []
    for _, row in groups.iterrows():
        cells = {name: row[name]}
        if name == "group":
            cells["tasks"] = f"{row['tasks']}" if row["tasks"] == row["of_tasks"] else f"{row['tasks']} of {row['of_tasks']}"
        cells |= {"metric": _metric(row), "shots": _number(row["num_fewshot"], ".0f"), "n": _number(row["n"], ".0f")}
        cells |= {header: f"{row[column]:{form}}" for header, (column, form) in zip(_HEADERS, _MEANS.items(), strict=True)}
        rows.append({**cells, "95% interval": _interval(row)})
    return pd.DataFrame(rows)


_HEADERS = ("baseline", "ACT", "delta")


def overview(report: Report) -> TextTable:
    """Models x tasks, as papers lay it out: a row for the baseline and one for each setting of ACT, below each model.

    The best of a model is bold in each column, and a star marks what differs from the baseline (`OVERVIEW_NOTE`).
    """
    cells = pd.concat([_cells(report.comparison, "task"), _cells(report.groups, "group")], ignore_index=True)
    columns = list(dict.fromkeys(cells["column"]))
    rows, bold = [], []
    for model, of_model in cells.groupby("model", sort=False):
        first = of_model.drop_duplicates("column").set_index("column")
        values = {"baseline": first["baseline"]}
        values |= {
            str(name): of_settings.set_index("column")["act"] for name, of_settings in of_model.groupby("settings", sort=False)
        }
        stars = {
            str(name): of_settings.set_index("column")["differs"]
            for name, of_settings in of_model.groupby("settings", sort=False)
        }
        shown = pd.DataFrame(values).T.reindex(columns=columns).astype(float).round(3)
        best = shown.mul(first["sign"].reindex(columns), axis=1)
        best = best.eq(best.max()) & shown.notna()
        for settings, row in shown.iterrows():
            marks = stars.get(str(settings), pd.Series(dtype=bool)).reindex(columns, fill_value=False)
            texts = {column: _number(value, ".3f") + ("*" if marks[column] else "") for column, value in row.items()}
            rows.append({"model": model, "settings": settings, **texts})
            bold.append({"model": False, "settings": False, **best.loc[settings]})
        rows.append({"model": model, "settings": "n", **{column: _number(first["n"].get(column), ".0f") for column in columns}})
        bold.append(dict.fromkeys(["model", "settings", *columns], False))
    return TextTable("Models x tasks", pd.DataFrame(rows), pd.DataFrame(bold).astype(bool))


def _cells(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """What `overview` shows of the comparison or of the averages: a row for each cell."""
    cells = rows[["model", "settings", "n", "baseline", "act"]].copy()
    cells["column"] = labels(rows, name)
    cells["sign"] = rows["higher_is_better"].map({True: 1, False: -1}).astype(float)
    cells["differs"] = differs(rows)
    return cells


def labels(rows: pd.DataFrame, name: str, columns: Sequence[str] = ("metric", "filter", "num_fewshot", "limit")) -> pd.Series:
    """A column of names, with what else tells apart rows of the same name, such as `demo_choice, 2 shots`."""
    texts = rows[name].astype(str)
    for column in columns:
        ambiguous = rows[column].astype(str).groupby(texts).transform("nunique") > 1
        suffix = {"num_fewshot": " shots", "limit": " documents"}.get(column, "")
        values = rows[column].map(lambda value: f"{value:g}" if isinstance(value, float) else str(value)).astype(str)
        texts = texts.where(~ambiguous | rows[column].isna(), texts + ", " + values + suffix)
    return texts


def differs(rows: pd.DataFrame) -> pd.Series:
    """Which differences are significant: by Holm's p where there is one, else by the interval; see `OVERVIEW_NOTE`."""
    interval = (rows["low"] > 0) | (rows["high"] < 0)
    if "p_holm" not in rows:
        return interval
    p = rows["p_holm"].astype(float)
    return (p < SIGNIFICANCE_LEVEL).where(p.notna(), interval)


def markdown(report: Report) -> str:
    """All tables in Markdown, with a heading each, and what was not compared."""
    parts = [f"### {table.title}\n\n{table_markdown(table)}\n" for table in report_tables(report)]
    parts += [f"{note}\n" for note in report_notes(report)]
    if report.notes:
        parts.append("Not compared:\n\n" + "".join(f"- {text}\n" for text in report.notes))
    return "\n".join(parts)


def table_markdown(table: TextTable) -> str:
    """A table in Markdown, without its title."""
    texts = table.texts.map(lambda text: text.replace("|", "\\|").replace("*", "\\*"))
    texts = texts.where(~table.bold, "**" + texts + "**")
    align = ["left" if left else "right" for left in table.left]
    return texts.to_markdown(index=False, disable_numparse=True, colalign=align)


def latex(report: Report) -> str:
    """All tables as LaTeX `tabular`s with the rules of the booktabs package, each below a comment with its title."""
    parts = ["% Needs \\usepackage{booktabs}."]
    parts += [f"% {_one_line(table.title)}\n{table_latex(table)}" for table in report_tables(report)]
    parts += [f"% {note}" for note in report_notes(report)]
    parts += [f"% Not compared: {_one_line(note)}" for note in report.notes]
    return "\n".join(parts) + "\n"


def table_latex(table: TextTable) -> str:
    """A table as a LaTeX `tabular`, without its title."""
    style = table.texts.style.format(_mathematics, escape="latex").format_index(_mathematics, escape="latex", axis=1)
    style = style.apply(lambda _: table.bold.map(lambda bold: "textbf:--rwrap;" if bold else ""), axis=None).hide(axis="index")
    return style.to_latex(hrules=True, column_format="".join("l" if left else "r" for left in table.left))


def _mathematics(cell: object) -> str:
    """Signs that are mathematics in LaTeX."""
    text = re.sub(r"(?<![\w.])([-+])(?=\d)", r"$\1$", str(cell))
    return text.replace("<", "$<$").replace("±", r"$\pm$")


def print_tables(report: Report, console: Console) -> None:
    """Show comparison and averages on a terminal; green is better and red worse, where the interval excludes zero."""
    for (model, settings), rows in report.comparison.groupby(["model", "settings"], sort=False):
        averages = report.groups[(report.groups["model"] == model) & (report.groups["settings"] == settings)]
        caption = "\n".join([TERMINAL_NOTE, *([SEEDS_NOTE.format(seeds)] if (seeds := _seeds(rows)) else [])])
        table = Table(title=f"{model}: {settings}", caption=caption, box=box.SIMPLE, padding=0)
        for header in _TERMINAL:
            justify: Literal["left", "right"] = "left" if header in _NAMES else "right"
            name = "p" if header == "McNemar p" else header
            table.add_column(name, justify=justify, no_wrap=header not in _NAMES, overflow="fold")
        _add_rows(table, rows, comparison_texts(rows))
        if len(averages):
            table.add_section()
            _add_rows(table, averages, group_texts(averages).rename(columns={"group": "task"}))
        console.print(table)


def _add_rows(table: Table, rows: pd.DataFrame, texts: pd.DataFrame) -> None:
    shown = texts.reindex(columns=list(_TERMINAL), fill_value="")
    for (_, row), cells in zip(rows.iterrows(), shown.itertuples(index=False), strict=True):
        sign = 1 if row["higher_is_better"] else -1
        worst, best = sorted((sign * row["low"], sign * row["high"]))
        style = "green" if worst > 0 else "red" if best < 0 else None
        table.add_row(*(cell.replace(" ± ", "\n± ") for cell in cells), style=style)


def _by_settings(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (model, settings), of_settings in rows.groupby(["model", "settings"], sort=False):
        yield f"{model}: {settings}", of_settings


def plain_table(title: str, texts: pd.DataFrame) -> TextTable:
    """A table with nothing in bold."""
    return TextTable(title, texts, texts.map(lambda _: False))


def _means(row: pd.Series) -> Sequence[str]:
    means = {name: f"{row[name]:{form}}" for name, form in _MEANS.items()}
    spread = {name: "" if pd.isna(row[f"{name}_sd"]) else f" ± {row[f'{name}_sd']:.3f}" for name in _MEANS}
    return [means[name] + spread[name] for name in _MEANS]


def _metric(row: pd.Series) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"


def _interval(row: pd.Series) -> str:
    return "unpaired" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"


def _noise(row: pd.Series) -> str:
    return "" if pd.isna(row["noise"]) else f"{row['noise']:.3f} ({row['noise_changed']} changed)"


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else f"{value:{form}}"


def _p_value(p: float) -> str:
    return "" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(comparison: pd.DataFrame) -> str:
    """How many seeds were averaged, such as "5" or "3 to 5"; empty where each result has one."""
    counts = sorted({int(seeds) for seeds in comparison["seeds"] if seeds > 1})
    return " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1]))) if counts else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
