"""The comparison as Markdown, CSV and a table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

HEADERS = (
    "task",
    "metric",
    "n",
    "baseline",
    "ACT",
    "delta",
    "95% interval",
    "only baseline right",
    "only ACT right",
    "McNemar p",
)
TERMINAL_HEADERS = ("task", "metric", "n", "baseline", "ACT", "delta", "95% interval", "McNemar p")
TERMINAL_NOTE = "paired by document: bootstrap interval, exact McNemar p"


def formatted(comparison: pd.DataFrame) -> pd.DataFrame:
    """The comparison as text, one row per task and metric, under `HEADERS`; accuracies are shares of 1."""
    rows = []
    for _, row in comparison.iterrows():
        counts = ["", "", ""]
        if pd.notna(row["p"]):
            counts = [f"{row['only_baseline']:.0f}", f"{row['only_act']:.0f}", _p_value(row["p"])]
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        cells = [f"{row['n']}", f"{row['baseline']:.3f}", f"{row['act']:.3f}", f"{row['delta']:+.3f}", interval, *counts]
        rows.append((row["task"], row["metric"], *cells))
    return pd.DataFrame(rows, columns=list(HEADERS))


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown(comparison: pd.DataFrame) -> str:
    """One Markdown table per model and settings, with a heading each."""
    parts = []
    for (model, settings), group in comparison.groupby(["model", "settings"], sort=False):
        table = formatted(group).to_markdown(index=False, disable_numparse=True)
        parts.append(f"### {model}: {settings}\n\n{table}\n")
    note = (
        "\nDifferences are paired by document; intervals are 95% percentile bootstrap over documents (10,000 resamples); p is "
        "the exact McNemar test, not corrected for the number of tasks.\n"
    )
    return "\n".join(parts) + note


def write_tables(comparison: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `comparison.md` and `comparison.csv`; returns their paths."""
    paths = [folder / "comparison.md", folder / "comparison.csv"]
    paths[0].write_text(markdown(comparison), encoding="utf-8")
    comparison.to_csv(paths[1], index=False)
    return paths


def print_table(comparison: pd.DataFrame, console: Console) -> None:
    """Show the comparison on a terminal; green and red mark differences whose interval excludes zero."""
    for (model, settings), group in comparison.groupby(["model", "settings"], sort=False):
        table = Table(title=f"{model}: {settings}", caption=TERMINAL_NOTE, box=box.SIMPLE, padding=0)
        for header in TERMINAL_HEADERS:
            justify: Literal["left", "right"] = "left" if header in ("task", "metric") else "right"
            table.add_column("p" if header == "McNemar p" else header, justify=justify, no_wrap=True)
        texts = formatted(group)[list(TERMINAL_HEADERS)]
        for (_, row), cells in zip(group.iterrows(), texts.itertuples(index=False), strict=True):
            style = "green" if row["low"] > 0 else "red" if row["high"] < 0 else None
            table.add_row(*cells, style=style)
        console.print(table)
