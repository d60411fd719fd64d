"""Plots of a report. Those that have a name and a title here are in its folder and on its page.

Plots show scores between 0 and 1 alone, such as accuracy and F1, as percentages; of other reports a plot is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from act_eval.plotting import (
    GREY,
    LINE_HEIGHT,
    Plot,
    colour_and_marker,
    legend_columns,
    longest_word,
    name_points,
    number_of_lines,
    plot,
    plot_bars,
    plot_points,
    text_width,
    wrapped,
)
from act_eval.report.build import Report
from act_eval.report.rankings import rankings
from act_eval.report.statistics import ALL_TASKS, differs
from act_eval.report.study_plots import DELTA_LABEL, draw_methods, draw_studies
from act_eval.report.tables import group_names, labels

_TELLING_APART = ("metric", "filter", "num_fewshot", "limit")
_TASKS_SIDE_BY_SIDE = 12  # in the heat map; more of them stand below each other
_FEW_BARS = 40  # that are drawn apart
_PANELS_IN_A_ROW = 4
_PLACES = ((6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top"))
_FILLED = "filled: significant"
_BESIDE, _WIDEST = 0.02, 0.4  # from one to the next point of the same number of heads, and all, as shares of axis and next gap
_LEGEND_MARGIN = 0.6  # beside the names of a legend, in inches

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
    shown = report.with_short_names()
    figures = {each.name: each(shown) for each in _styled(style)}
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
    shown = report.with_short_names()
    return [path for each in _styled(style) for path in each.write(folder, shown)]


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


plot_studies = report_plot("study", "Study: differences from the baseline, on average over its tasks")(draw_studies)
plot_methods = report_plot("methods", "Methods: differences from the baseline, on average over the tasks")(draw_methods)


@report_plot("improvement", "Difference per task")
def plot_improvement(report: Report) -> Figure | None:
    """Bars of the difference per task with 95% intervals, sorted, a panel for each ACT setting.

    Worse and better differ in colour and in hatching.
    """
    comparison = _shares(report.comparison)
    if comparison.empty:
        return None
    figure, panels = _panels_of_settings(comparison)
    for axes, rows, names in panels:
        plot_bars(axes, names, rows)
        axes.margins(y=min(0.05, 0.5 / len(rows)))
    return figure


@report_plot("label_priors", "Difference before and after label priors are corrected")
def plot_label_priors(report: Report) -> Figure | None:
    """The difference per task as it is and after label priors are corrected, with 95% intervals, a panel for each ACT setting.

    A point that moves to zero was a shift of which label the model prefers.
    """
    priors = _shares(report.label_priors)
    if priors.empty:
        return None
    figure, panels = _panels_of_settings(priors)
    for axes, rows, names in panels:
        for number, (label, end) in enumerate((("as it is", "_before"), ("label priors corrected", ""))):
            ends = rows[[f"{name}{end}" for name in ("delta", "low", "high")]].astype(float).to_numpy().T * 100
            plot_points(axes, ends, np.arange(len(rows)) + (0.16 if end else -0.16), number, markersize=5, label=label)
        name_points(axes, names)
    handles, entries = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, entries, loc="outside upper left", fontsize="small", frameon=False, ncols=2)
    return figure


def _panels_of_settings(comparison: pd.DataFrame) -> tuple[Figure, list[tuple[Axes, pd.DataFrame, pd.Series]]]:
    """A figure with a panel for each ACT setting below the other, and the rows of each by difference, with their names."""
    panels = sorted((rows for _, rows in comparison.groupby("settings")), key=lambda rows: -rows["delta"].mean())
    names = labels(comparison, "task", (*_TELLING_APART, "model"))
    settings = [rows["settings"].iloc[0] for rows in panels]
    width_of_names = text_width(names)
    width_of_bars = max(3.4, 6.0 - width_of_names, longest_word(settings))
    titles = [wrapped(text, width_of_bars) for text in settings]
    height_of_a_bar = 0.3 if len(comparison) <= _FEW_BARS else 0.2
    height = (
        0.8 + sum(0.6 + height_of_a_bar * len(rows) for rows in panels) + LINE_HEIGHT * (number_of_lines(titles) - len(titles))
    )
    figure = Figure(figsize=(0.4 + width_of_names + width_of_bars, height))
    ratios = [len(rows) + 0.5 for rows in panels]
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, title in zip(all_axes, titles, strict=True):
        axes.set_title(title, fontsize="medium", loc="left")
    figure.supxlabel(f"{DELTA_LABEL} (95% interval, paired)", fontsize="medium")
    in_order = [rows.sort_values("delta") for rows in panels]
    return figure, [(axes, rows, names[rows.index]) for axes, rows in zip(all_axes, in_order, strict=True)]


@report_plot("scatter", "Baseline against ACT")
def plot_scatter(report: Report) -> Figure | None:
    """Baseline against ACT, a point per model and task, with the diagonal; a colour and a marker for each ACT setting.

    Points that differ from the baseline significantly are filled, and have labels where there is room.
    """
    comparison = _shares(report.comparison)
    if comparison.empty:
        return None
    all_settings = comparison["settings"].unique()
    width = max(5.2, longest_word(all_settings, "small") + _LEGEND_MARGIN)
    entries = {settings: wrapped(settings, width - _LEGEND_MARGIN, "small") for settings in all_settings}
    figure = Figure(figsize=(width, 5.2 + LINE_HEIGHT * number_of_lines(entries.values())))
    axes = figure.subplots()
    values = comparison[["baseline", "act"]].to_numpy() * 100
    margin = max(1.0, 0.08 * (values.max() - values.min()))
    ends = max(0.0, values.min() - margin), min(100.0, values.max() + margin)
    axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
    names = labels(comparison, "task", (*_TELLING_APART, "model"))
    for number, (settings, rows) in enumerate(comparison.groupby("settings")):
        colour, marker = colour_and_marker(number)
        for significant, fill in ((True, colour), (False, "none")):
            points = rows[differs(rows) == significant]
            label = entries[settings] if significant == bool(differs(rows).any()) else None
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
    axes.set(xlabel="baseline, %", ylabel="ACT, %", xlim=ends, ylim=ends, aspect="equal")
    options = {"loc": "outside upper left", "fontsize": "small", "frameon": False, "alignment": "left"}
    legend = figure.legend(**options, title=_FILLED, title_fontsize="small")
    significant = comparison[differs(comparison)].sort_values("delta", key=abs, ascending=False)
    points = significant[["baseline", "act"]].to_numpy() * 100
    if _annotate(figure, axes, names[significant.index], points, values) < len(points):
        legend.get_title().set_text(f"{_FILLED}, named where there is room")
    return figure


def _annotate(figure: Figure, axes: Axes, names: Iterable[str], points: np.ndarray, others: np.ndarray) -> int:
    """Put names beside points, those first that come first, where they cover no other and stay inside the figure.

    Where there are several places, the one that covers the fewest points is taken.

    Args:
        figure, axes: with all else that is in them.
        names: of the points.
        points: float `[points, 2]`.
        others: all points that there are, of the same form.

    Returns:
        How many there was room for.
    """
    for _ in range(2):  # the layout below a high legend is right from the second time on
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # everything stays where it is now
    numbers = [text for axis in (axes.xaxis, axes.yaxis) for text in (*axis.get_ticklabels(), axis.label)]
    drawn = axes.transData.transform(others)
    placed: list[Bbox] = [text.get_window_extent() for text in numbers]
    found = 0
    for name, point in zip(names, points, strict=True):
        boxes = {}
        for x, y, horizontal, vertical in _PLACES:
            look: dict[str, Any] = {"textcoords": "offset points", "ha": horizontal, "va": vertical, "fontsize": "small"}
            text = axes.annotate(name, point, xytext=(x, y), **look)
            text.set_in_layout(False)
            box = text.get_window_extent().padded(1)
            inside = axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1 and axes.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1
            if inside and not any(box.overlaps(other) for other in placed):
                boxes[text] = box
            else:
                text.remove()
        chosen = min(boxes, key=lambda text: boxes[text].count_contains(drawn), default=None)
        for text in boxes:
            if text is not chosen:
                text.remove()
        if chosen is not None:
            placed.append(boxes[chosen])
            found += 1
    return found


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
    deltas.index = stars.index = [wrapped(name, max(2.2, longest_word(deltas.index))) for name in deltas.index]
    if len(deltas.columns) > max(_TASKS_SIDE_BY_SIDE, len(deltas)):
        deltas, stars = deltas.T, stars.T
    values = deltas.to_numpy(float) * 100
    limit = np.nanmax(np.abs(values)) or 1
    row_height, column_width = (
        max(least, LINE_HEIGHT * (0.7 + max(number_of_lines([name]) for name in names)))
        for least, names in ((0.3, deltas.index), (0.62, deltas.columns))
    )
    width = max(4.8, 1.9 + text_width(deltas.index) + column_width * values.shape[1])
    height = max(1.0, row_height * values.shape[0]) + 0.4 + text_width(deltas.columns)
    figure = Figure(figsize=(width, max(2.6, height)))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.65 * limit else "black"
            text = f"{value:+.1f}{stars.iat[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    axes.set_xticks(range(len(deltas.columns)), deltas.columns, rotation=90)
    axes.set_yticks(range(len(deltas)), deltas.index)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=DELTA_LABEL.replace(", ", ",\n"))
    figure.draw_without_rendering()  # the layout of a colour bar beside high axes is right from the second time on
    return figure


@report_plot("number_of_heads", "Difference against the number of calibrated heads")
def plot_number_of_heads(report: Report) -> Figure | None:
    """Difference against the number of calibrated heads with 95% intervals, where there are two numbers or more.

    Of the average over all tasks, or of the one task that there is. Points are joined along a ranking of heads (`rankings`) of
    one model and metric; others are apart, each with a name. Those of the same number of heads stand side by side.
    """
    groups = report.groups
    rows = groups[groups["group"] == ALL_TASKS] if (groups["group"] == ALL_TASKS).any() else groups
    rows = _shares(report.comparison.rename(columns={"task": "group"}) if rows.empty else rows)
    if rows["num_heads"].nunique() < 2:
        return None
    rows = rows.assign(group=group_names(rows)) if "tasks" in rows else rows
    varying = [name for name in ("model", "group", "metric", "filter", "num_fewshot") if rows[name].nunique(dropna=False) > 1]
    lines = list(_lines_of_heads(rows, varying, rankings(report.runs)))
    width = max(5.6, longest_word((name for name, _ in lines), "small") + _LEGEND_MARGIN)
    entries = [wrapped(name, width - _LEGEND_MARGIN, "small") for name, _ in lines]
    columns = legend_columns(entries, width)
    figure = Figure(figsize=(width, 3.4 + LINE_HEIGHT * -(-number_of_lines(entries) // columns)))
    axes = figure.subplots()
    places = _side_by_side([line["num_heads"].astype(float) for _, line in lines])
    for number, (entry, (_, line), heads) in enumerate(zip(entries, lines, places, strict=True)):
        colour, marker = colour_and_marker(number)
        errors = [(line["delta"] - line["low"]) * 100, (line["high"] - line["delta"]) * 100]
        axes.errorbar(
            heads,
            line["delta"] * 100,
            yerr=errors,
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            linewidth=1,
            label=entry or None,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    moved = any((place != line["num_heads"]).any() for place, (_, line) in zip(places, lines, strict=True))
    side_by_side = " (points of the same number side by side)" if moved else ""
    axes.set(xlabel=f"calibrated heads{side_by_side}", ylabel=DELTA_LABEL.replace(", ", ",\n"))
    if "group" not in varying:
        axes.set_title(rows["group"].iloc[0], fontsize="medium", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(entries):
        figure.legend(loc="outside lower left", fontsize="small", frameon=False, ncols=columns)
    return figure


def _lines_of_heads(
    rows: pd.DataFrame, varying: Sequence[str], chains: Mapping[str, Sequence[Sequence[str]]]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows that are joined, by number of heads, each with its name, which is empty where there is one line.

    Args:
        rows: all of them.
        varying: columns that tell lines apart, besides rankings of heads.
        chains: see `rankings.rankings`.
    """
    first = {(model, settings): chain[0] for model, of_model in chains.items() for chain in of_model for settings in chain}
    keys = zip(rows["model"], rows["settings"], strict=True)
    rows = rows.assign(ranking=[first.get(key, key[1]) for key in keys])
    parts = [part for _, part in rows.groupby(list(varying), dropna=False)] if varying else [rows]
    are_several = any(part["ranking"].nunique() > 1 for part in parts)
    for names, line in rows.groupby([*varying, "ranking"], dropna=False):
        line = line.sort_values(["num_heads", "settings"])
        ends = dict.fromkeys(line["settings"].iloc[[0, -1]])
        yield ", ".join([*map(str, names[:-1]), *([" to ".join(ends)] if are_several else [])]), line


def _side_by_side(lines: Sequence[pd.Series]) -> list[np.ndarray]:
    """Where the points of lines stand: at their numbers of heads, and beside each other where several lines have the same."""
    lines_at = Counter(number for line in lines for number in set(line))
    numbers = sorted(lines_at)
    step = min(_BESIDE * (numbers[-1] - numbers[0]), _WIDEST * np.diff(numbers).min() / max(lines_at.values()))
    drawn: Counter[float] = Counter()
    places = []
    for line in lines:
        places.append(np.array([number + step * (drawn[number] - (lines_at[number] - 1) / 2) for number in line]))
        drawn.update(set(line))
    return places


@report_plot("subjects", "Difference per subject")
def plot_subjects(report: Report) -> Figure | None:
    """Difference per subject (MMLU) with 95% intervals, sorted, a panel beside the other for each ACT setting."""
    subjects = _shares(report.subjects)
    if subjects.empty:
        return None
    names = [name for name in ("model", "settings", "metric", "num_fewshot") if subjects[name].nunique(dropna=False) > 1]
    panels = [rows for _, rows in subjects.groupby(["model", "settings", "metric", "num_fewshot"], dropna=False)]
    order = subjects.groupby("subject", observed=True)["delta"].mean().sort_values(kind="stable").index
    titles = ["\n".join(str(rows[name].dropna().iloc[0]) for name in names) for rows in panels]
    width = max(2.6, longest_word(titles, "small"))
    titles = [wrapped(title, width, "small") for title in titles]
    documents = subjects.groupby("subject", observed=True)["n"].max()
    width_of_names = text_width(f"{subject} ({documents[subject]:.0f})" for subject in order)
    columns = min(len(panels), _PANELS_IN_A_ROW)
    rows_of_panels = -(-len(panels) // columns)
    height = 1.0 + 0.2 * len(order) + LINE_HEIGHT * max(number_of_lines([title]) for title in titles)
    figure = Figure(figsize=(0.4 + width_of_names + (width + 0.2) * columns, height * rows_of_panels))
    all_axes = figure.subplots(rows_of_panels, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.remove()
    for axes, rows, title in zip(all_axes, panels, titles, strict=False):
        rows = rows.set_index("subject").reindex(order)
        plot_bars(axes, [f"{subject} ({n:.0f})" for subject, n in rows["n"].items()], rows)
        axes.set_title(title, fontsize="small", loc="left")
        axes.set_xlabel(DELTA_LABEL.replace(", ", ",\n"))
        axes.tick_params(labelbottom=True)
        axes.margins(y=0.01)
    return figure


def _shares(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose scores are shares of 1, where more is better."""
    scores = rows[["baseline", "act"]].astype(float)
    shares = ((scores >= 0) & (scores <= 1)).all(axis=1)
    return rows[shares & rows["higher_is_better"].astype(bool)]
