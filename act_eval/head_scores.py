"""The table of scores by head that a search writes: its file, and its heat map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from act_eval.errors import InputError
from act_eval.files import write_texts
from act_eval.plotting import PAGE_WIDTH, add_colour_bar, draw_head_map, height_of_head_map, plot

HEADS_FILE = "heads.csv"
ESTIMATE_TOGETHER = "estimate_together"
"""The column that a search by estimates alone has: what a head is worth while the best others are calibrated, in nats."""

_UNSCORED: dict[str, Any] = {"hatch": "////", "edgecolor": "#bbbbbb"}
_AROUND_THE_MAPS = 1.1  # titles, labels and legend, in inches
_COLUMNS = ("layer", "head", "accuracy_change", "margin_change")


def read_head_scores(folder: Path) -> pd.DataFrame:
    """Read the table that a search wrote.

    Args:
        folder: of the search.

    Returns:
        A row for each head that was searched, with at least the columns `layer`, `head`, `accuracy_change` (a share) and
        `margin_change` (nats), which are NaN for heads that were not scored; those are nearly all in a search by estimates.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    file = folder / HEADS_FILE
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not readable ({error}): give the folder of an `act-eval search`.") from error
    missing = set(_COLUMNS) - set(table.columns)
    if missing:
        raise InputError(f"{file} has no column {min(missing)}: give the folder of an `act-eval search`.")
    return table


def fits_model(table: pd.DataFrame, num_layers: int, num_heads: int) -> bool:
    """Whether a model of this shape has all heads of the table."""
    return not len(table) or bool(table["layer"].max() < num_layers and table["head"].max() < num_heads)


def write_head_scores(table: pd.DataFrame, folder: Path, num_layers: int, num_heads: int) -> list[Path]:
    """Write `heads.csv`, a row for each head, and `heads.png` and `heads.svg`, the heat maps of its changes.

    Args:
        table: see `read_head_scores`.
        folder: exists.
        num_layers, num_heads: of the model.

    Returns:
        The paths of the files.
    """
    written = write_texts({HEADS_FILE: table.to_csv(index=False, float_format="%.6f")}, folder)
    return [*written, *plot_head_scores.write(folder, table, num_layers, num_heads)]


@plot("heads", "What ACT on one head changes", style={"hatch.color": "#bbbbbb", "hatch.linewidth": 0.5})
def plot_head_scores(table: pd.DataFrame, num_layers: int, num_heads: int) -> Figure:
    """Draw heat maps of what calibrating each head alone changes: accuracy and margin, layers down, heads across.

    Heads that were not scored are hatched; where heads were only estimated, the estimates are drawn in place of the margin.
    The colour scale is symmetric and the same for worse and better.

    Args:
        table: see `read_head_scores`.
        num_layers, num_heads: of the model.
    """
    of_margin = (
        ("estimate", 1, "margin, nats, estimated") if ESTIMATE_TOGETHER in table else ("margin_change", 1, "margin, nats")
    )
    panels = (("accuracy_change", 100, "accuracy, percentage points"), of_margin)
    height = height_of_head_map(num_layers)
    figure = Figure(figsize=(PAGE_WIDTH, height + _AROUND_THE_MAPS), layout=ConstrainedLayoutEngine(wspace=0.05))
    all_axes = figure.subplots(1, len(panels), sharey=True)
    unscored = False
    for axes, (column, factor, label) in zip(all_axes, panels, strict=True):
        values = np.full((num_layers, num_heads), np.nan)
        values[table["layer"], table["head"]] = table[column] * factor
        unscored |= bool(np.isnan(values).any())
        limit = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0
        axes.patch.set(facecolor="white", **_UNSCORED)
        image = draw_head_map(axes, values, range(num_layers), cmap="RdBu", vmin=-(limit or 1), vmax=limit or 1)
        axes.set_title(f"ACT on one head - baseline:\n{label}", fontsize="medium")
        add_colour_bar(figure, image, height, ax=axes)
    all_axes[0].set_ylabel("layer")
    if unscored:
        entry = Patch(facecolor="white", label="not scored", **_UNSCORED)
        figure.legend(handles=[entry], loc="outside lower left", frameon=False, fontsize="small")
    return figure
