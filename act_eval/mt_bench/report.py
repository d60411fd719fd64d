"""Scores as tables and plots: on the terminal, and as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from act_eval.files import make_folder, write_texts
from act_eval.mt_bench.plots import write_plots
from act_eval.mt_bench.scores import ALL, BOTH, Scores
from act_eval.report.tables import TextTable, differs, plain_table, table_latex, table_markdown

SINGLE_NOTE = (
    "Grades from 1 to 10. Differences are paired by question; intervals are 95% percentile bootstrap over questions (10,000 "
    "resamples). In rows of both turns each question counts once, with its mean over the turns."
)
PAIR_NOTE = (
    "ACT wins or loses where the judge says so in both orders; all else is a tie. Net is the share of wins minus that of "
    "losses, with its 95% percentile bootstrap interval over questions; p is the exact sign test, "
    "not corrected for the number of rows."
)


def score_tables(scores: Scores) -> list[TextTable]:
    """A table of grades and one of wins for each ACT setting, as far as there are any."""
    return [plain_table(title, texts) for title, _, texts in _tables(scores)]


def print_scores(scores: Scores, console: Console) -> None:
    """Show every category over both turns, and all categories per turn; green is better and red worse."""
    for title, rows, texts in _tables(scores):
        table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for column in texts:
            table.add_column(str(column), justify="left" if column == "category" else "right")
        shown = (rows["turn"] == BOTH) | (rows["category"] == ALL)
        for index, row in rows[shown].iterrows():
            style = None if not differs(rows)[index] else "green" if row["delta"] > 0 else "red"
            table.add_row(*texts.loc[index], style=style)
        console.print(table)
    for note in scores.notes:
        console.print(note, soft_wrap=True, highlight=False)


def write_scores(scores: Scores, output: Path) -> list[Path]:
    """Write `scores.md`, `scores.tex`, `single.csv` and `pair.csv` where there are any, and the plots.

    Args:
        scores: see `scores.make_scores`.
        output: folder for the files; made when missing.

    Returns:
        The paths of the files.
    """
    make_folder(output)
    tables = score_tables(scores)
    notes = [*_notes(scores), *scores.notes]
    markdown = [f"### {table.title}\n\n{table_markdown(table)}\n" for table in tables] + [f"{note}\n" for note in notes]
    latex = [f"% {table.title}\n{table_latex(table)}" for table in tables] + [f"% {note}" for note in notes]
    texts = {
        "scores.md": "\n".join(markdown),
        "scores.tex": "\n".join(["% Needs \\usepackage{booktabs}.", *latex]) + "\n",
        "single.csv": scores.single.to_csv(index=False) if len(scores.single) else None,
        "pair.csv": scores.pair.to_csv(index=False) if len(scores.pair) else None,
    }
    return [*write_texts(texts, output), *write_plots(scores, output)]


def _tables(scores: Scores) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Title, rows, and the rows as text."""
    for (model, settings), rows in scores.single.groupby(["model", "settings"], sort=False):
        yield f"{model}: {settings}; grades by {scores.judge}", rows, _single_texts(rows)
    for (model, settings), rows in scores.pair.groupby(["model", "settings"], sort=False):
        yield f"{model}: {settings}; against the baseline, by {scores.judge}", rows, _pair_texts(rows)


def _single_texts(rows: pd.DataFrame) -> pd.DataFrame:
    grades = {"baseline": rows["baseline"].map("{:.2f}".format), "ACT": rows["act"].map("{:.2f}".format)}
    return pd.DataFrame(
        {**_names(rows), **grades, "delta": rows["delta"].map("{:+.2f}".format), "95% interval": _intervals(rows)}
    )


def _pair_texts(rows: pd.DataFrame) -> pd.DataFrame:
    counts = {header: rows[name].astype(str) for header, name in (("wins", "win"), ("ties", "tie"), ("losses", "loss"))}
    p = rows["p"].map(lambda p: "" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}")
    return pd.DataFrame(
        {**_names(rows), **counts, "net": rows["delta"].map("{:+.2f}".format), "95% interval": _intervals(rows), "p": p}
    )


def _names(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {"category": rows["category"], "turn": rows["turn"], "n": rows["n"].astype(str)}


def _intervals(rows: pd.DataFrame) -> pd.Series:
    return rows["low"].map("{:+.2f}".format) + " to " + rows["high"].map("{:+.2f}".format)


def _notes(scores: Scores) -> list[str]:
    return [note for note, rows in ((SINGLE_NOTE, scores.single), (PAIR_NOTE, scores.pair)) if len(rows)]
