"""Plots of scores: a radar of the categories, and bars of what ACT changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from act_eval.mt_bench.scores import ALL, BOTH, Scores
from act_eval.plotting import (
    GREY,
    LINE_HEIGHT,
    PAGE_WIDTH,
    colour_and_marker,
    longest_word,
    number_of_lines,
    plot,
    plot_bars,
    text_width,
    wrapped,
)

_FEWEST_SPOKES = 3
_HIGHEST_GRADE = 10
_NET_LABEL = "ACT's share of wins - share of losses"


@plot("radar", "Mean grade per category")
def plot_radar(scores: Scores) -> Figure | None:
    """Mean grade over both turns, a spoke for each category, a line for the baseline and for each ACT setting.

    Returns:
        None for fewer than three categories.
    """
    rows = _by_category(scores.single)
    categories = list(dict.fromkeys(rows["category"]))
    if len(categories) < _FEWEST_SPOKES:
        return None
    lines: dict[str, pd.Series] = {}
    for (model, settings), of_model in rows.groupby(["model", "settings"], sort=False):
        of_model = of_model.set_index("category").reindex(categories)
        lines.setdefault("baseline", of_model["baseline"])
        name = f"{settings}\n({model})" if settings in lines else str(settings)
        lines[name] = of_model["act"]
    width = max(5.0, longest_word(lines, "small") + 0.6)
    entries = {name: wrapped(name, width - 0.6, "small") for name in lines}
    figure = Figure(figsize=(width, 4.6 + 0.2 * number_of_lines(entries.values())))
    axes: Any = figure.subplots(subplot_kw={"projection": "polar"})
    angles = np.linspace(0, 2 * np.pi, len(categories), endpoint=False)
    for number, (name, grades) in enumerate(lines.items()):
        colour, marker = (GREY, "o") if number == 0 else colour_and_marker(number - 1)
        dashes = "--" if number == 0 else "-"
        around = np.append(angles, angles[0]), np.append(grades, grades.iloc[0])
        axes.plot(*around, color=colour, marker=marker, markersize=4, linewidth=1.3, linestyle=dashes, label=entries[name])
    axes.set_theta_offset(np.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, categories)
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side = round(np.sin(angle), 6)
        label.set_horizontalalignment("left" if side > 0 else "right" if side < 0 else "center")
    axes.set_ylim(0, _HIGHEST_GRADE)
    ticks = range(2, _HIGHEST_GRADE + 1, 2)
    axes.set_yticks(ticks, [""] * len(ticks))
    background = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    for tick in ticks:  # as texts, since labels of ticks lie below the lines
        axes.text(
            np.pi / len(categories), tick, str(tick), ha="center", va="center", fontsize="small", color=GREY, bbox=background
        )
    axes.tick_params(axis="x", pad=2)
    axes.grid(color="#cccccc", linewidth=0.6)
    axes.spines["polar"].set_visible(False)
    figure.legend(loc="outside lower left", fontsize="small", frameon=False, alignment="left")
    return figure


@plot("differences", "What ACT changed per category")
def plot_differences(scores: Scores) -> Figure | None:
    """Bars of what ACT changed per category over both turns, with 95% intervals: grades on the left, wins on the right.

    A row of panels for each ACT setting.
    """
    kinds = [
        (rows, label)
        for rows, label in (
            (_by_category(scores.single, with_all=True), "ACT - baseline, grade points"),
            (_by_category(scores.pair, with_all=True), _NET_LABEL),
        )
        if len(rows)
    ]
    if not kinds:
        return None
    models = list(dict.fromkeys((row.model, row.settings) for rows, _ in kinds for row in rows.itertuples()))
    most = max(rows["category"].nunique() for rows, _ in kinds)
    width_of_names = text_width(category for rows, _ in kinds for category in rows["category"])
    width = max(PAGE_WIDTH, len(kinds) * (width_of_names + 1.6))
    titles = [wrapped(str(settings), width - width_of_names - 0.4) for _, settings in models]
    height = 0.6 + len(models) * (0.5 + 0.26 * most) + LINE_HEIGHT * (number_of_lines(titles) - len(titles))
    figure = Figure(figsize=(width, height))
    all_axes = figure.subplots(len(models), len(kinds), sharex="col", squeeze=False)
    for of_model, (model, _), title in zip(all_axes, models, titles, strict=True):
        for axes, (rows, label) in zip(of_model, kinds, strict=True):
            shown = rows[rows["model"] == model].iloc[::-1]
            plot_bars(axes, shown["category"], shown, factor=1)
            if label == _NET_LABEL:
                axes.set_xlim(-1.05, 1.05)
            if axes in all_axes[-1]:
                axes.set_xlabel(f"{label}\n(95% interval)")
        of_model[0].set_title(title, fontsize="medium", loc="left")
    return figure


PLOTS = (plot_radar, plot_differences)


def write_plots(scores: Scores, folder: Path) -> list[Path]:
    """Write every plot that there is something to show of, as PNG and SVG, into a folder that exists.

    Returns:
        The paths of the files.
    """
    return [path for each in PLOTS for path in each.write(folder, scores)]


def _by_category(rows: pd.DataFrame, with_all: bool = False) -> pd.DataFrame:
    """The rows of both turns."""
    return rows[(rows["turn"] == BOTH) & (with_all | (rows["category"] != ALL))]
