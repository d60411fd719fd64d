"""The comparison as Markdown, CSV and a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

HEADERS = (
    "task",
    "metric",
    "shots",
    "n",
    "baseline",
    "ACT",
    "delta",
    "95% interval",
    "only baseline right",
    "only ACT right",
    "McNemar p",
    "Holm p",
    "noise",
)
TERMINAL_HEADERS = ("task", "metric", "shots", "n", "baseline", "ACT", "delta", "95% interval", "McNemar p")
TERMINAL_NOTE = "paired by document: bootstrap interval, exact McNemar p"
SEEDS_NOTE = "means over {} few-shot seeds ± standard deviation over seeds"
_MEANS = {"baseline": ".3f", "act": ".3f", "delta": "+.3f"}


def formatted(comparison: pd.DataFrame) -> pd.DataFrame:
    """The comparison as text, one row per task and metric, under `HEADERS`; accuracies are shares of 1.

    The column "noise", the absolute difference of two baseline runs, is there where there are two of them.
    Where several seeds were averaged, ± and the standard deviation over seeds follow the mean.
    """
    rows = []
    for _, row in comparison.iterrows():
        counts = [""] * 4
        if pd.notna(row["p"]):
            counts = [f"{row['only_baseline']:.0f}", f"{row['only_act']:.0f}", _p_value(row["p"]), _p_value(row["p_holm"])]
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}" if row["paired"] else "unpaired"
        means = [_with_spread(f"{row[name]:{form}}", row[f"{name}_sd"]) for name, form in _MEANS.items()]
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
        noise = "" if pd.isna(row["noise"]) else f"{row['noise']:.3f}"
        shots = "" if pd.isna(row["num_fewshot"]) else f"{row['num_fewshot']:.0f}"
        n = "" if pd.isna(row["n"]) else f"{row['n']:.0f}"
        rows.append((row["task"], metric, shots, n, *means, interval, *counts, noise))
    table = pd.DataFrame(rows, columns=list(HEADERS))
    return table if comparison["noise"].notna().any() else table.drop(columns="noise")


def _with_spread(mean: str, deviation: float) -> str:
    return mean if pd.isna(deviation) else f"{mean} ± {deviation:.3f}"


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown(comparison: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """One Markdown table per model and settings, with a heading each, and what was not compared."""
    parts = []
    for (model, settings), group in comparison.groupby(["model", "settings"], sort=False):
        table = formatted(group).to_markdown(index=False, disable_numparse=True)
        parts.append(f"### {model}: {settings}\n\n{table}\n")
    note = (
        "\nDifferences are paired by document; intervals are 95% percentile bootstrap over documents (10,000 resamples); p is "
        "the exact McNemar test, and Holm p the same corrected for the number of rows of its table.\n"
    )
    if seeds := _seeds(comparison):
        note += f"\nFew-shot results are {SEEDS_NOTE.format(seeds)}.\n"
    if notes:
        note += "\nNot compared:\n\n" + "".join(f"- {text}\n" for text in notes)
    return "\n".join(parts) + note


def _seeds(comparison: pd.DataFrame) -> str:
    """How many seeds were averaged, such as "5" or "3 to 5"; empty where each result has one."""
    counts = sorted({int(seeds) for seeds in comparison["seeds"] if seeds > 1})
    return " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1]))) if counts else ""


def write_tables(comparison: pd.DataFrame, notes: Sequence[str], folder: Path) -> list[Path]:
    """Write `comparison.md` and `comparison.csv`; returns their paths."""
    paths = [folder / "comparison.md", folder / "comparison.csv"]
    paths[0].write_text(markdown(comparison, notes), encoding="utf-8")
    comparison.to_csv(paths[1], index=False)
    return paths


def print_table(comparison: pd.DataFrame, console: Console) -> None:
    """Show the comparison on a terminal; green and red mark differences whose interval excludes zero."""
    for (model, settings), group in comparison.groupby(["model", "settings"], sort=False):
        caption = "\n".join([TERMINAL_NOTE, *([SEEDS_NOTE.format(seeds)] if (seeds := _seeds(group)) else [])])
        table = Table(title=f"{model}: {settings}", caption=caption, box=box.SIMPLE, padding=0)
        for header in TERMINAL_HEADERS:
            justify: Literal["left", "right"] = "left" if header in ("task", "metric") else "right"
            table.add_column("p" if header == "McNemar p" else header, justify=justify, no_wrap=True)
        texts = formatted(group)[list(TERMINAL_HEADERS)]
        for (_, row), cells in zip(group.iterrows(), texts.itertuples(index=False), strict=True):
            style = "green" if row["low"] > 0 else "red" if row["high"] < 0 else None
            table.add_row(*(cell.replace(" ± ", "\n± ") for cell in cells), style=style)
        console.print(table)
