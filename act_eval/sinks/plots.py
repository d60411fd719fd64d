"""Figures of attention sinks, as the paper has them, from collected statistics. Each function returns a figure.

Widths are those of one column (3.3 inches) or both (6.8 inches) of a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from act_eval.plotting import (
    COLUMN_WIDTH,
    LINE_HEIGHT,
    PAGE_WIDTH,
    SERIES,
    add_colour_bar,
    draw_head_map,
    height_of_head_map,
    legend_columns,
    plot,
    small_print,
    text_width,
)
from act_eval.sinks import tables
from act_eval.sinks.map_grid import MapGrid, columns_on_a_page
from act_eval.sinks.statistics import KINDS, SinkStatistics

MOST_NAMES = len(SERIES)

_ATTENTION = "Blues"
_CHANGE = "cividis"
_LINES = ("-", "--", ":")
_LABELLED_TOKENS = 45
_LARGEST_NUMBERED_MAP = 16
_HARDLY_ANY = 0.01
_BESIDE_A_TITLE, _BELOW_A_COLOUR_BAR = 0.3, 0.05  # in inches


@plot("attention_map", "Average attention maps")
@small_print
def plot_attention_map(statistics: Mapping[str, SinkStatistics]) -> Figure:
    """Average attention maps by relative position, over documents, heads and layers; a panel for each name.

    Above each map stands where sinks are: sinks per document and head, for each bin of positions.

    Args:
        statistics: with maps, by name of task or task family.
    """
    maps = {name: of_name.map_before.mean(0) for name, of_name in statistics.items()}
    sinks = {name: of_name.positions.mean((0, 1)) / of_name.documents for name, of_name in statistics.items()}
    return _maps(maps, sinks, fewest_columns=3)


@plot("attention_map_layers", "Average attention map of each layer")
@small_print
def plot_attention_by_layer(statistics: SinkStatistics) -> Figure:
    """The average attention map of each layer, over documents and heads; all layers of a model on one page.

    Above each map stands where sinks are: sinks per document and head, for each bin of positions.
    """
    names = [f"layer {layer}" for layer in statistics.layers]
    sinks = statistics.positions.mean(1) / statistics.documents
    maps = statistics.map_before
    return _maps(dict(zip(names, maps, strict=True)), dict(zip(names, sinks, strict=True)), fewest_columns=4)


@plot("document_map", "Attention map of one document", data=tables.document)
@small_print
def plot_document(statistics: SinkStatistics, document: Sequence[str]) -> Figure:
    """The exact attention map of one document, over heads and layers, with its tokens.

    Above it stands in what share of heads each token is a sink; the tokens that are sinks most often are named below.

    Args:
        statistics: of this document alone, with a bin for each token.
        document: text of each token.
    """
    n = statistics.bins
    if statistics.documents != 1 or len(document) != n:
        raise ValueError("the map of a document needs the statistics of it alone, with a bin for each of its tokens.")
    shares = statistics.positions.mean((0, 1))
    figure = Figure(figsize=(PAGE_WIDTH, PAGE_WIDTH))
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 7))
    values = statistics.map_before.mean(0)
    options = {"extent": (0, n, n, 0), "aspect": "auto", "interpolation": "nearest"}
    image = axes.imshow(values, cmap=_ATTENTION, norm=_log_scale([values], n), **options)
    strip.bar(np.arange(n) + 0.5, shares, width=1, color=SERIES[1][0])
    strip.set_ylabel("sink in,\n% of heads")
    strip.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    labelled = list(range(n)) if n <= _LABELLED_TOKENS else _peaks(shares, _LABELLED_TOKENS)
    rows = range(0, n, -(-n // _LABELLED_TOKENS))
    axes.set_xticks(np.add(labelled, 0.5), [tables.readable(document[place]) for place in labelled], rotation=90)
    axes.set_yticks(np.add(rows, 0.5), [tables.readable(document[place]) for place in rows])
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, fontsize=6)
    axes.set(xlabel="key", ylabel="query")
    add_colour_bar(figure, image, 0.7 * PAGE_WIDTH, ax=axes, label="attention weight (log scale)", extend="both")
    return figure


@plot("before_and_after", "Average attention before and after calibration")
@small_print
def plot_before_and_after(statistics: SinkStatistics) -> Figure:
    """The average attention map over documents, heads and layers, the same of the calibrated maps, and the difference.

    What loses attention is dark, and what gains it is bright, so that the difference can be read in grey.
    """
    before, after = statistics.map_before.mean(0), statistics.map_after.mean(0)
    change = np.where((before > 0) | (after > 0), after - before, np.nan)
    figure = Figure(figsize=(PAGE_WIDTH, 3.0))
    panels = figure.subplots(1, 3, sharey=True)
    scale = _log_scale([before, after], statistics.bins)
    for axes, title, values in zip(panels, ("before ACT", "after ACT"), (before, after), strict=False):
        image = _draw_map(axes, values, scale)
        axes.set_title(title)
    below: dict[str, Any] = {"location": "bottom", "pad": 0.03}
    length = (PAGE_WIDTH - 0.6) / 3
    add_colour_bar(figure, image, 2 * length, ax=panels[:2], label=_map_label(statistics.bins), extend="both", **below)
    limit = float(np.nanmax(np.abs(change))) or 1.0
    image = _draw_map(panels[2], change, SymLogNorm(limit / 100, vmin=-limit, vmax=limit), _CHANGE)
    panels[2].set_title("after - before")
    bar = add_colour_bar(figure, image, length, ax=panels[2], label="change (log scale on both sides)", **below)
    ticks = [-limit, -limit / 100, 0, limit / 100, limit]
    bar.set_ticks(ticks, labels=[f"{tick:.1g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
    bar.minorticks_off()
    panels[0].set_ylabel("query position")
    panels[1].set_xlabel("key position")  # of all three
    return figure


@plot("attention_received", "Attention that sinks and other tokens receive", data=tables.received)
@small_print
def plot_received(statistics: Mapping[str, SinkStatistics]) -> Figure:
    """How the mean attention of keys is distributed: the first token, other sinks, other tokens; a panel for each name.

    Above each panel stands what share of all attention each kind receives.

    Args:
        statistics: by name of task or task family.
    """
    table = tables.received(statistics)
    rows, columns = _grid(list(statistics), 3)
    figure = Figure(figsize=(COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, 0.8 + 1.9 * rows))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    styles: list[dict[str, Any]] = [
        {"color": SERIES[place][0], "linestyle": line, "linewidth": 1.3} for place, line in enumerate(_LINES)
    ]
    for axes, (name, of_name) in zip(panels.flat, table.groupby("name", sort=False), strict=False):
        for kind, style in zip(KINDS, styles, strict=True):
            line = of_name[of_name["kind"] == kind]
            edges = [*line["low"], line["high"].iloc[-1]]
            axes.stairs(line["share_of_keys"], edges, label=f"{line['share'].iloc[0]:.0%}", **style)
        axes.set(xscale="log")
        axes.set_title(name, pad=15)
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "borderpad": 0.2, "borderaxespad": 0}
        axes.legend(frameon=False, ncols=len(KINDS), handlelength=1.6, handletextpad=0.4, columnspacing=1, **above)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    top = float(table["share_of_keys"].max())
    lower = table.groupby(["name", "kind"])["share_of_keys"].cumsum()
    panels[0, 0].set(xlim=(float(table["low"][lower > _HARDLY_ANY].min()), 1), ylim=(0, 1.05 * top))
    for axes in panels.flat[max(0, len(statistics) - columns) : len(statistics)]:
        axes.tick_params(labelbottom=True)
    _drop_empty(panels, len(statistics))
    figure.supxlabel("mean attention that a key receives (log scale)", fontsize="medium")
    figure.supylabel("keys of this kind, %", fontsize="medium")
    kinds = [Line2D([], [], label=kind, **style) for kind, style in zip(KINDS, styles, strict=True)]
    at: dict[str, Any] = {"loc": "outside upper center", "frameon": False, "ncols": len(KINDS), "columnspacing": 1}
    figure.legend(handles=kinds, title="above each panel: shares of all attention", title_fontsize=7, **at)
    return figure


@plot("sink_positions", "Where in their documents sinks are", data=tables.positions)
@small_print
def plot_sink_positions(statistics: Mapping[str, SinkStatistics]) -> Figure:
    """Where in their documents sinks are, as a share of each name's sinks; a line for each name.

    Args:
        statistics: by name of task or task family, `MOST_NAMES` at most.
    """
    if len(statistics) > MOST_NAMES:
        raise ValueError(f"{len(statistics)} lines cannot be told apart: give at most {MOST_NAMES}.")
    table = tables.positions(statistics)
    columns = legend_columns(list(statistics), COLUMN_WIDTH, rcParams["legend.fontsize"])
    figure = Figure(figsize=(COLUMN_WIDTH, 2.5 + LINE_HEIGHT * -(-len(statistics) // columns)))
    axes = figure.subplots()
    for (colour, marker), (name, rows) in zip(SERIES, table.groupby("name", sort=False), strict=False):
        middle = (rows["low"] + rows["high"]) / 2
        axes.plot(middle, rows["share"], color=colour, marker=marker, markersize=3.5, linewidth=1, label=name)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="relative position of the token", ylabel="share of all sinks, %")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    figure.legend(loc="outside lower left", frameon=False, ncols=columns)
    return figure


@plot("sinks_per_head", "Sinks per document in each head", data=tables.heads)
@small_print
def plot_sinks_per_head(statistics: SinkStatistics) -> Figure:
    """How many sinks a document has in each head: a heat map, layers down, heads across."""
    values = statistics.sinks_per_document
    layers, heads = values.shape
    height = height_of_head_map(layers)
    figure = Figure(figsize=(COLUMN_WIDTH, height + 0.5))
    axes = figure.subplots()
    limit = float(values.max()) or 1.0
    image = draw_head_map(axes, values, statistics.layers, cmap=_ATTENTION, vmin=0, vmax=limit)
    if heads <= 8 and layers <= _LARGEST_NUMBERED_MAP:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 0.6 * limit else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=6)
    axes.set_ylabel("layer")
    add_colour_bar(figure, image, height, ax=axes, label="sinks per document")
    return figure


@plot("sink_tokens", "Tokens that are sinks", data=tables.tokens)
@small_print
def plot_sink_tokens(statistics: SinkStatistics, text: Callable[[int], str], top: int = 15) -> Figure:
    """The tokens that are sinks most often, with their share of all sinks, and how often they are a sink where they occur.

    Args:
        statistics: over all documents.
        text: a token's text by its id.
        top: how many tokens.
    """
    table = tables.tokens(statistics, text, top)[::-1]
    figure = Figure(figsize=(COLUMN_WIDTH, 0.7 + 0.17 * max(len(table), 1)))
    axes = figure.subplots()
    axes.barh(range(len(table)), table["share"], color=SERIES[0][0])
    axes.set_yticks(range(len(table)), table["token"])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    for place, (share, rate) in enumerate(zip(table["share"], table["rate"], strict=True)):
        axes.annotate(f"{rate:.1%}", (share, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6)
    axes.margins(x=0.16, y=0.02)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}")
    axes.set_xlabel("share of all sinks, %\n(at the bar: share of its occurrences)")
    return figure


# In the order in which their tables are written:
ALL = (
    plot_attention_map,
    plot_attention_by_layer,
    plot_before_and_after,
    plot_received,
    plot_sink_positions,
    plot_sinks_per_head,
    plot_sink_tokens,
    plot_document,
)
WITH_DATA = (plot_received, plot_sink_positions, plot_sinks_per_head, plot_sink_tokens, plot_document)


def _maps(maps: Mapping[str, np.ndarray], sinks: Mapping[str, np.ndarray], fewest_columns: int) -> Figure:
    """Maps with one colour scale, each below a strip of bars that says where sinks are."""
    columns = columns_on_a_page(len(maps), text_width(maps, rcParams["axes.titlesize"]), fewest_columns)
    grid = MapGrid.of(len(maps), columns)
    bins = next(iter(maps.values())).shape[-1]
    scale = _log_scale(list(maps.values()), bins)
    most = max(float(values.max()) for values in sinks.values()) or 1.0
    for strip, axes, (name, values) in zip(grid.strips, grid.maps, maps.items(), strict=True):
        strip.stairs(sinks[name], np.linspace(0, 1, bins + 1), fill=True, color=SERIES[1][0])
        strip.set(xlim=(0, 1), xticks=[], ylim=(0, most), yticks=[most], yticklabels=[f"{most:.2g}"])
        strip.set_title(name, pad=3)
        image = _draw_map(axes, values, scale)
    options = {"orientation": "horizontal", "extend": "both", "label": _map_label(bins)}
    add_colour_bar(grid.figure, image, grid.width, cax=grid.bar, **options)
    entry = Patch(color=SERIES[1][0], label="sinks per document and head")
    at = {"loc": "upper left", "bbox_to_anchor": (grid.left, 1), "borderaxespad": 0.4, "borderpad": 0}
    grid.figure.legend(handles=[entry], frameon=False, handlelength=1, **at)
    return grid.figure


def _draw_map(axes: Axes, values: np.ndarray, scale: Normalize, colours: str = _ATTENTION) -> AxesImage:
    """A map by relative position."""
    image = axes.imshow(values, cmap=colours, norm=scale, extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
    ticks = {0: "0", 0.5: "0.5", 1: "1"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_yticks(list(ticks), list(ticks.values()))
    labels = axes.get_xticklabels()
    if labels:  # the 1 of one map and the 0 of the next would read as 10
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
    return image


def _log_scale(maps: Sequence[np.ndarray], bins: int) -> Normalize:
    """From a quarter of what uniform attention over all bins would be to what few bins exceed (both ends are open)."""
    seen = np.concatenate([values[values > 0] for values in maps])
    return LogNorm(1 / (4 * bins), max(float(np.quantile(seen, 0.99)), 1 / bins))


def _map_label(bins: int) -> str:
    return f"attention per 1/{bins} of the keys (log scale)"


def _peaks(values: np.ndarray, most: int) -> list[int]:
    """The places of the highest values above zero, far enough apart for labels that do not overlap; 0 is always one."""
    apart, chosen = len(values) / most, [0]
    for place in np.argsort(-values, kind="stable").tolist():
        if values[place] > 0 and all(abs(place - other) >= apart for other in chosen):
            chosen.append(place)
    return chosen


def _grid(names: Sequence[str], most_columns: int) -> tuple[int, int]:
    """How many rows and columns panels with these names above them stand in, so that the names are whole."""
    room = int(PAGE_WIDTH / (text_width(names, rcParams["axes.titlesize"]) + _BESIDE_A_TITLE))
    rows = -(-len(names) // max(1, min(most_columns, room)))
    return rows, -(-len(names) // rows)


def _drop_empty(panels: np.ndarray, used: int) -> None:
    for axes in panels.flat[used:]:
        axes.remove()
