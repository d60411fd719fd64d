"""Plots of the comparison, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

COLOUR_BETTER = "#0072B2"
COLOUR_WORSE = "#D55E00"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "act-eval",
    "figure.constrained_layout.use": True,
}


def plot_improvement(comparison: pd.DataFrame, folder: Path) -> list[Path]:
    """Bar chart of the difference per task with 95% intervals: `improvement.png` and `improvement.svg`.

    Bars are sorted; worse and better differ in colour (safe for colour-blind readers) and in hatching (readable in grey).

    Args:
        comparison: what `statistics.compare` returned.
        folder: where to write; must exist.

    Returns:
        The paths of the two files.
    """
    rows = comparison.sort_values("delta", ignore_index=True)
    labels = _labels(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(rows)))
        axes = figure.subplots()
        better = rows["delta"] >= 0
        colours = better.map({True: COLOUR_BETTER, False: COLOUR_WORSE}).tolist()
        errors = [(rows["delta"] - rows["low"]) * 100, (rows["high"] - rows["delta"]) * 100]
        bars = axes.barh(labels, rows["delta"] * 100, xerr=errors, color=colours, alpha=0.85, capsize=3, ecolor="#333333")
        for bar, is_better in zip(bars, better, strict=True):
            bar.set_hatch("" if is_better else "///")
        axes.use_sticky_edges = False
        axes.margins(x=0.06)
        axes.axvline(0, color="#333333", linewidth=0.8)
        axes.set_xlabel("ACT - baseline, percentage points (95% interval, paired by document)")
        settings = rows["settings"].unique()
        axes.set_title(settings[0] if len(settings) == 1 else "ACT against baseline", fontsize=9)
        paths = [folder / "improvement.png", folder / "improvement.svg"]
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _labels(rows: pd.DataFrame) -> list[str]:
    """A distinct label for each row: the task, and whatever else varies."""
    varying = [column for column in ("metric", "model", "settings", "num_fewshot") if rows[column].nunique() > 1]
    return [", ".join(str(row[column]) for column in ("task", *varying)) for _, row in rows.iterrows()]
