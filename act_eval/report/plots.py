"""Plots of the comparison, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
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

    A panel for each ACT setting. Bars are sorted; worse and better differ in colour (safe for colour-blind readers) and in
    hatching (readable in grey).

    Args:
        comparison: what `statistics.compare` returned.
        folder: where to write; must exist.

    Returns:
        The paths of the two files.
    """
    panels = sorted((rows for _, rows in comparison.groupby("settings")), key=lambda rows: -rows["delta"].mean())
    varying = [column for column in ("metric", "model", "num_fewshot") if comparison[column].nunique() > 1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.8 + sum(0.45 + 0.3 * len(rows) for rows in panels)))
        ratios = [len(rows) + 0.5 for rows in panels]
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, rows in zip(all_axes, panels, strict=True):
            _plot_panel(axes, rows.sort_values("delta", ignore_index=True), varying)
        all_axes[-1].set_xlabel("ACT - baseline, percentage points (95% interval, paired)")
        paths = [folder / "improvement.png", folder / "improvement.svg"]
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _plot_panel(axes: Axes, rows: pd.DataFrame, varying: list[str]) -> None:
    labels = [", ".join(str(row[column]) for column in ("task", *varying)) for _, row in rows.iterrows()]
    better = rows["delta"] >= 0
    colours = better.map({True: COLOUR_BETTER, False: COLOUR_WORSE}).tolist()
    errors = [(rows["delta"] - rows["low"]) * 100, (rows["high"] - rows["delta"]) * 100]
    bars = axes.barh(labels, rows["delta"] * 100, xerr=errors, color=colours, alpha=0.85, capsize=3, ecolor="#333333")
    for bar, is_better in zip(bars, better, strict=True):
        bar.set_hatch("" if is_better else "///")
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_title(rows["settings"].iloc[0], fontsize=9, loc="left")
