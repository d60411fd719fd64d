"""Plots of a report. Those that have a name and a title here are in its folder and on its page.

Plots show scores between 0 and 1 alone, such as accuracy and F1, as percentages; of other reports a plot is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from act_eval.plotting import GREY, SERIES, Plot, plot, plot_bars
from act_eval.report.build import Report
from act_eval.report.statistics import ALL_TASKS, differs
from act_eval.report.tables import labels

_TELLING_APART = ("metric", "filter", "num_fewshot", "limit")
_LONGEST_LINE = 30
_DELTA_LABEL = "ACT - baseline, percentage points"

ReportPlot = Plot[[Report]]

PLOTS: list[ReportPlot] = []  # of every report, in their order on the page


def make_plots(report: Report, style: str | None = None) -> Mapping[str, Figure]:
    """Draw every plot that the report has data for.

    Args:
        report: what to plot.
        style: name of a matplotlib style or path of a style sheet, on top of the project's.

    Returns:
        The figures, by the name of their files.

    Raises:
        SettingError: there is no such style.
    """
    figures = {each.name: each(report) for each in _styled(style)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def write_plots(report: Report, folder: Path, style: str | None = None) -> list[Path]:
    """Write every plot as PNG and SVG into a folder that exists; the same report gives the same bytes.

    Args:
        report, style: see `make_plots`.
        folder: exists.

    Returns:
        The paths of the files.

    Raises:
        SettingError: there is no such style.
    """
    return [path for each in _styled(style) for path in each.write(folder, report)]


def _styled(style: str | None) -> list[ReportPlot]:
    return PLOTS if style is None else [each.styled(style) for each in PLOTS]


def report_plot(name: str, title: str) -> Callable[[Callable[[Report], Figure | None]], ReportPlot]:
    """Make a plot of the function below, and put it into every report.

    Args:
        name: of its files, without suffix.
        title: on the page.
    """

    def register(draw: Callable[[Report], Figure | None]) -> ReportPlot:
        made = plot(name, title)(draw)
        PLOTS.append(made)
        return made

    return register


@report_plot("improvement", "Difference per task")
def plot_improvement(report: Report) -> Figure | None:
    """Bars of the difference per task with 95% intervals, sorted, a panel for each ACT setting.

    Worse and better differ in colour and in hatching.
    """
    comparison = _shares(report.comparison)
    if comparison.empty:
        return None
    panels = sorted((rows for _, rows in comparison.groupby("settings")), key=lambda rows: -rows["delta"].mean())
    figure = Figure(figsize=(6.4, 0.8 + sum(0.6 + 0.3 * len(rows) for rows in panels)))
    names = labels(comparison, "task", (*_TELLING_APART, "model"))
    ratios = [len(rows) + 0.5 for rows in panels]
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, rows in zip(all_axes, panels, strict=True):
        rows = rows.sort_values("delta")
        plot_bars(axes, names[rows.index], rows)
        axes.set_title(_wrapped(rows["settings"].iloc[0]), fontsize="medium", loc="left")
    all_axes[-1].set_xlabel(f"{_DELTA_LABEL} (95% interval, paired)")
    return figure


@report_plot("scatter", "Baseline against ACT")
def plot_scatter(report: Report) -> Figure | None:
    """Baseline against ACT, a point per model and task, with the diagonal; a colour and a marker for each ACT setting.

    Points that differ from the baseline significantly are filled and have labels.
    """
    comparison = _shares(report.comparison)
    if comparison.empty:
        return None
    figure = Figure(figsize=(5.2, 5.4))
    axes = figure.subplots()
    values = comparison[["baseline", "act"]].to_numpy() * 100
    margin = max(1.0, 0.08 * (values.max() - values.min()))
    ends = max(0.0, values.min() - margin), min(100.0, values.max() + margin)
    axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
    names = labels(comparison, "task", (*_TELLING_APART, "model"))
    for number, (settings, rows) in enumerate(comparison.groupby("settings")):
        colour, marker = SERIES[number % len(SERIES)]
        for significant, fill in ((True, colour), (False, "none")):
            points = rows[differs(rows) == significant]
            label = settings if significant == bool(differs(rows).any()) else None
            axes.scatter(
                points["baseline"] * 100,
                points["act"] * 100,
                marker=marker,
                edgecolor=colour,
                facecolor=fill,
                label=label,
                zorder=2,
                clip_on=False,
            )
        for index, row in rows[differs(rows)].iterrows():
            right = row["baseline"] * 100 < np.mean(ends)
            axes.annotate(
                names[index],
                (row["baseline"] * 100, row["act"] * 100),
                xytext=(6 if right else -6, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize="small",
            )
    axes.set(xlabel="baseline, %", ylabel="ACT, %", xlim=ends, ylim=ends, aspect="equal")
    legend = {"loc": "outside upper left", "fontsize": "small", "frameon": False, "alignment": "left"}
    figure.legend(**legend, title="filled: significant", title_fontsize="small")
    return figure


@report_plot("heat_map", "Differences, models x tasks")
def plot_heat_map(report: Report) -> Figure | None:
    """Differences in percentage points, models and ACT settings down, tasks across; a star marks significance.

    The colour scale is symmetric around zero, and every tile says its number.
    """
    comparison = _shares(report.comparison)
    if comparison.empty:
        return None
    rows = comparison.assign(
        row=comparison["settings"]
        if comparison["model"].nunique() == 1
        else comparison["model"] + "\n" + comparison["settings"],
        column=labels(comparison, "task", _TELLING_APART),
        star=differs(comparison).map({True: "*", False: ""}),
    )
    deltas, stars = (rows.pivot(index="row", columns="column", values=name) for name in ("delta", "star"))
    values = deltas.to_numpy(float) * 100
    limit = np.nanmax(np.abs(values)) or 1
    names = [_wrapped(name) for name in deltas.index]
    longest = max(len(line) for name in names for line in name.splitlines())
    width = max(4.8, 1.4 + 0.075 * longest + 0.62 * values.shape[1])
    figure = Figure(figsize=(width, 1.5 + 0.5 * values.shape[0] + 0.07 * max(map(len, deltas))))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.65 * limit else "black"
            text = f"{value:+.1f}{stars.iat[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(len(deltas.columns)), deltas.columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(deltas)), names)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=_DELTA_LABEL.replace(", ", ",\n"))
    return figure


@report_plot("number_of_heads", "Difference against the number of calibrated heads")
def plot_number_of_heads(report: Report) -> Figure | None:
    """Difference against the number of calibrated heads with 95% intervals, where there are two numbers or more.

    A line per model and metric, of the average over all tasks, or of the one task that there is.
    """
    groups = report.groups
    rows = groups[groups["group"] == ALL_TASKS] if (groups["group"] == ALL_TASKS).any() else groups
    rows = _shares(report.comparison.rename(columns={"task": "group"}) if rows.empty else rows)
    if rows["num_heads"].nunique() < 2:
        return None
    varying = [name for name in ("model", "group", "metric", "filter", "num_fewshot") if rows[name].nunique(dropna=False) > 1]
    figure = Figure(figsize=(5.6, 3.4))
    axes = figure.subplots()
    for number, (name, line) in enumerate(rows.groupby(varying, dropna=False) if varying else [((), rows)]):
        colour, marker = SERIES[number % len(SERIES)]
        line = line.sort_values(["num_heads", "settings"])
        errors = [(line["delta"] - line["low"]) * 100, (line["high"] - line["delta"]) * 100]
        heads = line["num_heads"].astype(float)
        label = ", ".join(map(str, name)) or None
        axes.errorbar(
            heads,
            line["delta"] * 100,
            yerr=errors,
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            linewidth=1,
            label=label,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    what = "" if "group" in varying else f"{rows['group'].iloc[0]}: "
    axes.set(xlabel="calibrated heads", ylabel=f"{what}{_DELTA_LABEL}".replace(", ", ",\n"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if varying:
        axes.legend(fontsize="small", frameon=False)
    return figure


@report_plot("subjects", "Difference per subject")
def plot_subjects(report: Report) -> Figure | None:
    """Difference per subject (MMLU) with 95% intervals, sorted, a panel beside the other for each ACT setting."""
    subjects = _shares(report.subjects)
    if subjects.empty:
        return None
    names = [name for name in ("model", "settings", "metric", "num_fewshot") if subjects[name].nunique(dropna=False) > 1]
    panels = [rows for _, rows in subjects.groupby(["model", "settings", "metric", "num_fewshot"], dropna=False)]
    order = subjects.groupby("subject", observed=True)["delta"].mean().sort_values(kind="stable").index
    figure = Figure(figsize=(2.2 + 2.8 * len(panels), 1.0 + 0.2 * len(order)))
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, rows in zip(all_axes, panels, strict=True):
        rows = rows.set_index("subject").reindex(order)
        plot_bars(axes, [f"{subject} ({n:.0f})" for subject, n in rows["n"].items()], rows)
        title = "\n".join(str(rows[name].dropna().iloc[0]) for name in names)
        axes.set_title(_wrapped(title), fontsize="small", loc="left")
        axes.set_xlabel(_DELTA_LABEL.replace(", ", ",\n"))
        axes.margins(y=0.01)
    return figure


def _shares(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose scores are shares of 1, where more is better."""
    scores = rows[["baseline", "act"]].astype(float)
    shares = ((scores >= 0) & (scores <= 1)).all(axis=1)
    return rows[shares & rows["higher_is_better"].astype(bool)]


def _wrapped(text: str) -> str:
    return text.replace(", beta", ",\nbeta") if len(text) > _LONGEST_LINE else text
