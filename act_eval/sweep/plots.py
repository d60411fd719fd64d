"""Plots of a sweep: what each axis changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from act_eval.plotting import COLUMN_WIDTH, GREY, PAGE_WIDTH, SERIES, plot
from act_eval.report.statistics import ALL_TASKS
from act_eval.sweep.grid import Axis, label
from act_eval.sweep.results import SweepResults
from act_eval.sweep.tables import describe, lines, totals

_PANELS_IN_A_ROW = 3
_LONGEST_NAME = 23
_HEIGHT_OF_A_LETTER = 0.035  # of slanted names below an axis, in inches
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
    names = [_label(others[0], value) for (value,) in series] if others else []
    shares = bool(pd.concat([rows[["baseline", "act"]] for _, _, rows in found]).stack().between(0, 1).all())
    columns = min(len(panels), _PANELS_IN_A_ROW)
    rows_of_panels = -(-len(panels) // columns)
    width = PAGE_WIDTH if columns > 1 else min(PAGE_WIDTH, max(COLUMN_WIDTH, 1.5 + 0.75 * len(axis.values)))
    legend_columns = _legend_columns(names, width)
    height = 2.4 + (0 if axis.is_numeric else _HEIGHT_OF_A_LETTER * max(len(_short(str(value))) for value in axis.values))
    figure = Figure(figsize=(width, height * rows_of_panels + 0.5 + 0.17 * -(-len(names) // legend_columns)))
    all_axes = figure.subplots(rows_of_panels, columns, squeeze=False, sharex=True, sharey=True).ravel()
    entries: dict[str, Any] = {}
    for panel, axes in zip(panels, all_axes, strict=False):
        of_panel = {series.index(of_series): rows for of_series, of, rows in found if of == panel}
        for number, places in _places(axis, of_panel).items():
            bars = _plot_line(axes, places, of_panel[number], number, "-" if axis.is_numeric else "", 100 if shares else 1)
            entries |= {names[number]: bars} if names else {}
        _name_axes(axes, axis, [_label(name, value) for name, value in zip(others[1:], panel, strict=True)])
    for axes in all_axes[len(panels) :]:
        axes.remove()
    tasks = [task for task in dict.fromkeys(results.table["task"]) if task != ALL_TASKS]
    figure.suptitle(describe(metric, tasks), fontsize="medium")
    figure.supylabel(f"ACT - baseline, {'percentage points' if shares else metric[0]}", fontsize="medium")
    if entries:
        options = {"loc": "outside lower center", "fontsize": "small", "frameon": False, "ncols": legend_columns}
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
    colour, marker = SERIES[number % len(SERIES)]
    delta, low, high = (rows[column].to_numpy(float) * factor for column in ("delta", "low", "high"))
    errors = np.nan_to_num(np.stack([delta - low, high - delta]))
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1, "linestyle": style}
    return axes.errorbar(places, delta, yerr=errors, capsize=2, **look)


def _name_axes(axes: Axes, axis: Axis, names: Sequence[str]) -> None:
    """The baseline, the axis's values and name, and what else is the same for all points of a panel."""
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_title(", ".join(names), fontsize="small", loc="left")
    axes.set_xlabel(axis.name)
    axes.tick_params(labelbottom=True)
    if not axis.is_numeric:
        axes.set_xticks(
            range(len(axis.values)),
            [_short(str(value)) for value in axis.values],
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_xlim(-0.5, len(axis.values) - 0.5)


def _label(axis: str, value: Any) -> str:
    return f"no {axis}" if value is None else _short(label(axis, value))


def _short(name: str) -> str:
    """A name whose middle is left out where it is long, such as a path or a list of heads; tables have it whole."""
    half = (_LONGEST_NAME - 3) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


def _legend_columns(names: Sequence[str], width: float) -> int:
    """How many names of a legend stand side by side in a figure of that width, in inches."""
    return max(1, min(len(names), int(width / (0.07 * (max(map(len, names), default=0) + 6)))))
