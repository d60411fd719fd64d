"""What studies and comparisons of methods found, as pictures: the differences from the baseline on average over tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from act_eval.plotting import name_points, plot_points, text_width
from act_eval.report.build import Report
from act_eval.report.methods import MethodFindings
from act_eval.report.study import AVERAGE
from act_eval.report.study_tables import corrected_tasks
from act_eval.study_record import ALL, FOUND, SWITCHED_OFF

DELTA_LABEL = "ACT - baseline, percentage points"

_CORRECTED = f"{FOUND}, label priors corrected"
# Of the average in a study's table: what is drawn, and the columns of the difference with its ends.
_OF_STUDIES = {
    FOUND: ("delta", "low", "high"),
    _CORRECTED: ("corrected_delta", "corrected_low", "corrected_high"),
    "random heads, mean and range": ("random_delta", "random_least", "random_most"),
    ALL: ("all_heads_delta", "all_heads_low", "all_heads_high"),
    SWITCHED_OFF: ("switched_off_delta", "switched_off_low", "switched_off_high"),
}
_DIFFERENCE = ("delta", "low", "high")
_CORRECTION = "baseline, label priors corrected"
_SIDES = (("as it is", ""), ("label priors corrected in baseline and method", "corrected_"))  # of methods, and their columns


def draw_studies(report: Report) -> Figure | None:
    """What a study compares: the average difference of each variant from the baseline, a panel for each study.

    Lines are 95% intervals, of random heads the range over their sets. Where only some tasks have label priors to be corrected,
    the name says how many.
    """
    averages = [(found.model, found.table[found.table["task"] == AVERAGE]) for found in report.studies]
    panels = [(model, _of_study(rows.iloc[0])) for model, rows in averages if len(rows)]
    if not panels:
        return None
    figure = Figure(figsize=(_width(name for _, shown in panels for name in shown), 0.7 + 1.9 * len(panels)))
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (model, shown) in zip(all_axes, panels, strict=True):
        for place, ends in enumerate(reversed(shown.values())):
            plot_points(axes, ends[:, None], place, number=0 if place == len(shown) - 1 else 1, markersize=6)
        name_points(axes, list(reversed(shown)))
        if len(panels) > 1:
            axes.set_title(model, fontsize="medium", loc="left")
    figure.supxlabel(f"{DELTA_LABEL} (average over tasks)", fontsize="medium")
    return figure


def _of_study(average: pd.Series) -> dict[str, np.ndarray]:
    """What is drawn of a study, by name: difference and its ends in percentage points, of what there is in its average."""
    shown = {name: average[list(columns)].astype(float).to_numpy() * 100 for name, columns in _OF_STUDIES.items()}
    names = {_CORRECTED: f"{_CORRECTED}{corrected_tasks(average)}"}
    return {names.get(name, name): ends for name, ends in shown.items() if not np.isnan(ends).any()}


def draw_methods(report: Report) -> Figure | None:
    """The difference of each method that has heads, as it is and after label priors are corrected, with 95% intervals.

    Last stands what correcting label priors does to the baseline alone. A panel for each comparison.
    """
    panels = [(findings, _names(findings)) for findings in report.method_comparisons if len(_with_heads(findings))]
    if not panels:
        return None
    rows = [len(names) for _, names in panels]
    figure = Figure(figsize=(_width(name for _, names in panels for name in names), 0.7 + 0.3 * len(rows) + 0.36 * sum(rows)))
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (findings, names) in zip(all_axes, panels, strict=True):
        _draw_comparison(axes, findings)
        name_points(axes, names)
        if len(panels) > 1:
            axes.set_title(findings.model, fontsize="medium", loc="left")
    with_legend = [axes for axes in all_axes if len(axes.get_legend_handles_labels()[1]) > 1]
    if with_legend:
        figure.legend(
            *with_legend[0].get_legend_handles_labels(), loc="outside upper left", fontsize="small", frameon=False, ncols=2
        )
    figure.supxlabel("difference from the baseline, percentage points (average over tasks)", fontsize="medium")
    return figure


def _draw_comparison(axes: Axes, findings: MethodFindings) -> None:
    rows = _with_heads(findings)
    places = np.arange(len(rows)) + (findings.correction is not None)
    for number, (label, prefix) in enumerate(_SIDES):
        ends = rows[[f"{prefix}{column}" for column in _DIFFERENCE]].astype(float).to_numpy().T * 100
        there = ~np.isnan(ends).any(0)
        if there.any():
            shift = 0.0 if findings.correction is None else -0.14 if prefix else 0.14
            plot_points(axes, ends[:, there], places[there] + shift, number, markersize=5, label=label)
    if findings.correction is not None:
        alone = findings.correction
        plot_points(axes, 100 * np.array([[alone.delta], [alone.low], [alone.high]]), [0], number=2, markersize=5)


def _with_heads(findings: MethodFindings) -> pd.DataFrame:
    """The rows that are drawn, from the bottom to the top."""
    return findings.counting.dropna(subset=list(_DIFFERENCE)).iloc[::-1]


def _names(findings: MethodFindings) -> list[str]:
    """What stands beside the points, from the bottom to the top."""
    return [*([_CORRECTION] if findings.correction is not None else []), *_with_heads(findings)["method"]]


def _width(names: Iterator[str]) -> float:
    """Of a figure, in inches."""
    return text_width(names) + 3.6
