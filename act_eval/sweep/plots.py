"""Plots of a sweep: what each axis changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from act_eval.plotting import (
    COLUMN_WIDTH,
    GREY,
    LINE_HEIGHT,
    PAGE_WIDTH,
    colour_and_marker,
    legend_columns,
    longest_word,
    number_of_lines,
    plot,
    text_width,
    wrapped,
)
from act_eval.sweep.grid import Axis, label
from act_eval.sweep.results import SweepResults
from act_eval.sweep.tables import describe, lines, totals

_PANELS_IN_A_ROW = 3
# In inches: what names of values need side by side, what a scale takes, and what is beside the names of a legend.
_WIDTH_OF_A_NAME, _WIDTH_OF_THE_SCALE, _LEGEND_MARGIN = 0.35, 0.8, 0.6
# How far lines stand apart, so that no interval hides another: a share of the whole scale, and of the distance of two names.
_APART_ON_A_SCALE, _APART_AT_A_NAME = 0.012, 0.11


@plot("by_axis", "Difference along an axis")
def plot_axis(results: SweepResults, axis: Axis, metric: tuple[str, str]) -> Figure:
    """ACT minus baseline along an axis, with 95% intervals: the average over tasks, or the one task that there is.

    Numbers lie to scale and are joined by lines; names are categories, side by side. The first other axis has colours and
    markers, the remaining ones a panel for each combination.

    Args:
        results: of the sweep.
        axis: one of `tables.varied`.
        metric: see `tables.main_metric`.
    """
    others = [other.name for other in results.axes if other is not axis]
    found = [(line[:1], line[1:], totals(rows)) for line, rows in lines(results, axis, metric)]
    series = list(dict.fromkeys(of_series for of_series, _, _ in found))
    panels = list(dict.fromkeys(panel for _, panel, _ in found))
    texts = {each.name: each.texts() for each in results.axes}
    names = [_label(others[0], value, texts) for (value,) in series] if others else []
    shares = bool(pd.concat([rows[["baseline", "act"]] for _, _, rows in found]).stack().between(0, 1).all())
    columns = min(len(panels), _PANELS_IN_A_ROW)
    rows_of_panels = -(-len(panels) // columns)
    width = PAGE_WIDTH if columns > 1 else min(PAGE_WIDTH, max(COLUMN_WIDTH, 1.5 + 0.75 * len(axis.values)))
    width = max(width, longest_word(names, "small") + _LEGEND_MARGIN)
    of_panels = [", ".join(_label(*value, texts) for value in zip(others[1:], panel, strict=True)) for panel in panels]
    titles = [wrapped(text, (width - _WIDTH_OF_THE_SCALE) / columns - 0.1, "small") for text in of_panels]
    heading = wrapped(describe(results, metric), width - 0.2)
    names_in_a_row = legend_columns(names, width)
    height = 2.4 + LINE_HEIGHT * (max(number_of_lines([title]) for title in titles) - 1)
    is_crowded = (width - _WIDTH_OF_THE_SCALE) / columns < _WIDTH_OF_A_NAME * len(axis.values)
    if not axis.is_numeric:
        height += text_width(texts[axis.name].values()) * (1 if is_crowded else 0.5)
    lines_of_the_figure = number_of_lines([heading]) + -(-len(names) // names_in_a_row)
    figure = Figure(figsize=(width, height * rows_of_panels + 0.35 + 0.17 * lines_of_the_figure))
    all_axes = figure.subplots(rows_of_panels, columns, squeeze=False, sharex=True, sharey=True).ravel()
    entries: dict[str, Any] = {}
    for panel, title, axes in zip(panels, titles, all_axes, strict=False):
        of_panel = {series.index(of_series): rows for of_series, of, rows in found if of == panel}
        for number, places in _places(axis, of_panel).items():
            bars = _plot_line(axes, places, of_panel[number], number, "-" if axis.is_numeric else "", 100 if shares else 1)
            entries |= {names[number]: bars} if names else {}
        _name_axes(axes, axis, title, texts[axis.name].values(), is_crowded)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    figure.suptitle(heading, fontsize="medium")
    figure.supylabel(f"ACT - baseline, {'percentage points' if shares else metric[0]}", fontsize="medium")
    if entries:
        options = {"loc": "outside lower center", "fontsize": "small", "frameon": False, "ncols": names_in_a_row}
        figure.legend(list(entries.values()), list(entries), **options)
    return figure


def _places(axis: Axis, lines: Mapping[int, pd.DataFrame]) -> dict[int, np.ndarray]:
    """Where the points of each line of a panel stand on the axis: side by side where they have the same value."""
    if axis.is_numeric:
        apart = _APART_ON_A_SCALE * (max(axis.values) - min(axis.values))
        return {
            number: rows[axis.name].to_numpy(float) + apart * (place - (len(lines) - 1) / 2)
            for place, (number, rows) in enumerate(lines.items())
        }
    at = {value: [number for number, rows in lines.items() if value in set(rows[axis.name])] for value in axis.values}
    apart = min(_APART_AT_A_NAME, 0.8 / len(lines))
    return {
        number: np.array(
            [
                axis.values.index(value) + apart * (at[value].index(number) - (len(at[value]) - 1) / 2)
                for value in rows[axis.name]
            ]
        )
        for number, rows in lines.items()
    }


def _plot_line(axes: Axes, places: np.ndarray, rows: pd.DataFrame, number: int, style: str, factor: float) -> ErrorbarContainer:
    """One line with its intervals, in the colour and with the marker of its number."""
    colour, marker = colour_and_marker(number)
    delta, low, high = (rows[column].to_numpy(float) * factor for column in ("delta", "low", "high"))
    errors = np.nan_to_num(np.stack([delta - low, high - delta]))
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1, "linestyle": style}
    return axes.errorbar(places, delta, yerr=errors, capsize=2, **look)


def _name_axes(axes: Axes, axis: Axis, title: str, values: Iterable[str], is_crowded: bool) -> None:
    """The baseline, the axis's values and name, and what else is the same for all points of a panel."""
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_title(title, fontsize="small", loc="left")
    axes.set_xlabel(axis.name)
    axes.tick_params(labelbottom=True)
    if not axis.is_numeric:
        slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(axis.values)), list(values), **({"rotation": 90} if is_crowded else slanted))
        axes.set_xlim(-0.5, len(axis.values) - 0.5)


def _label(axis: str, value: Any, texts: Mapping[str, Mapping[Any, str]]) -> str:
    """A value of an axis in words; `texts` are short names of values, by axis."""
    return f"no {axis}" if value is None else label(axis, texts[axis][value] if isinstance(value, str) else value)
