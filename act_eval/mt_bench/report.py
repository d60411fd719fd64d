"""Scores as tables and plots: on the terminal, and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from act_eval.files import make_folder, remove_unwritten, write_texts
from act_eval.mt_bench.plots import PLOTS, write_plots
from act_eval.mt_bench.scores import ALL, BOTH, Scores
from act_eval.progress import print_line
from act_eval.report.statistics import differs
from act_eval.tables import BOOKTABS_NOTE, TextTable, csv_text, interval, p_value

SINGLE_NOTE = (
    "Grades from 1 to 10. Differences are paired by question; intervals are 95%, a Bayesian bootstrap over questions with room "
    "for unseen changes, and p agrees with them. In rows of both turns each question counts once, with its mean over the turns."
)
PAIR_NOTE = (
    "ACT wins or loses where the judge says so in both orders; all else is a tie. Net is the share of wins minus that of "
    "losses, with its 95% interval over questions: of the posterior of wins and losses, or, where the turns of a question "
    "differ, a Bayesian bootstrap; p is that of the exact sign test, or agrees with the bootstrap."
)
HOLM_NOTE = (
    "Holm p is p corrected for the number of categories, in each turn by itself and in both. On a terminal, a row is green or "
    "red where that is below 0.05, and one of all categories where its interval excludes zero."
)

_NAMES = ("category",)
_MARKDOWN_FILE = "scores.md"


def score_tables(scores: Scores) -> Iterator[tuple[pd.DataFrame, TextTable]]:
    """A table of grades and one of wins for each ACT setting, as far as there are any, each with the rows that it shows."""
    for (model, settings), rows in scores.single.groupby(["model", "settings"], sort=False):
        yield rows, TextTable(f"{model}: {settings}; grades by {scores.judge}", _single_texts(rows), _NAMES)
    for (model, settings), rows in scores.pair.groupby(["model", "settings"], sort=False):
        yield rows, TextTable(f"{model}: {settings}; against the baseline, by {scores.judge}", _pair_texts(rows), _NAMES)


def print_scores(scores: Scores, console: Console) -> None:
    """Show every category over both turns, and all categories per turn; green is better and red worse, see `HOLM_NOTE`."""
    for rows, table in score_tables(scores):
        shown = (rows["turn"] == BOTH) | (rows["category"] == ALL)
        significant = differs(rows)
        styles = [
            None if not significant[index] else "green" if row["delta"] > 0 else "red" for index, row in rows[shown].iterrows()
        ]
        texts, elsewhere = table.texts[shown], "single.csv" if "ACT" in table.texts else "pair.csv"
        console.print(replace(table, texts=texts).to_terminal(leave_out=["n", "p"], elsewhere=elsewhere, styles=styles))
    for note in scores.notes:
        print_line(console, note)


def write_scores(scores: Scores, output: Path) -> list[Path]:
    """Write `scores.md`, `scores.tex`, `single.csv` and `pair.csv` where there are any, and the plots.

    Of earlier scores in the folder, those files are removed that these do not have.

    Args:
        scores: see `scores.make_scores`.
        output: folder for the files; made when missing.

    Returns:
        The paths of the files.
    """
    make_folder(output)
    is_repeated = (output / _MARKDOWN_FILE).is_file()
    tables = [table for _, table in score_tables(scores)]
    notes = [*_notes(scores), *scores.notes]
    markdown = [table.to_markdown() for table in tables] + [f"{note}\n" for note in notes]
    latex = [BOOKTABS_NOTE, *(table.to_latex() for table in tables), *(f"% {note}" for note in notes)]
    texts = {
        _MARKDOWN_FILE: "\n".join(markdown),
        "scores.tex": "\n".join(latex) + "\n",
        "single.csv": csv_text(scores.single),
        "pair.csv": csv_text(scores.pair),
    }
    written = [*write_texts(texts, output), *write_plots(scores, output)]
    if is_repeated:
        remove_unwritten([*texts, *(name for each in PLOTS for name in each.file_names)], written, output)
    return written


def _single_texts(rows: pd.DataFrame) -> pd.DataFrame:
    grades = {"baseline": rows["baseline"].map("{:.2f}".format), "ACT": rows["act"].map("{:.2f}".format)}
    return pd.DataFrame({**_names(rows), **grades, "delta": rows["delta"].map("{:+.2f}".format), **_tests(rows)})


def _pair_texts(rows: pd.DataFrame) -> pd.DataFrame:
    counts = {header: rows[name].astype(str) for header, name in (("wins", "win"), ("ties", "tie"), ("losses", "loss"))}
    return pd.DataFrame({**_names(rows), **counts, "net": rows["delta"].map("{:+.2f}".format), **_tests(rows)})


def _names(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {"category": rows["category"], "turn": rows["turn"], "n": rows["n"].astype(str)}


def _tests(rows: pd.DataFrame) -> dict[str, pd.Series]:
    intervals = rows.apply(lambda row: interval(row["low"], row["high"], digits=2), axis=1)
    return {"95% interval": intervals, "p": rows["p"].map(p_value), "Holm p": rows["p_holm"].map(p_value)}


def _notes(scores: Scores) -> list[str]:
    return [*(note for note, rows in ((SINGLE_NOTE, scores.single), (PAIR_NOTE, scores.pair)) if len(rows)), HOLM_NOTE]
