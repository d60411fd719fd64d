"""The table of scores by head that a search writes: its file, and its heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from act_eval.errors import InputError
from act_eval.files import write_texts
from act_eval.plotting import PAGE_WIDTH, plot

HEADS_FILE = "heads.csv"
_COLUMNS = ("layer", "head", "accuracy_change", "margin_change")
_ESTIMATED = "estimate_together"  # a column of searches by estimates alone


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
    of_margin = ("estimate", 1, "margin, nats, estimated") if _ESTIMATED in table else ("margin_change", 1, "margin, nats")
    panels = (("accuracy_change", 100, "accuracy, percentage points"), of_margin)
    height = min(9.0, 1.3 + 5.6 * num_layers / max(num_heads, 8) / 2)
    figure = Figure(figsize=(PAGE_WIDTH, max(2.4, height)))
    for axes, (column, factor, label) in zip(figure.subplots(1, 2), panels, strict=True):
        values = np.full((num_layers, num_heads), np.nan)
        values[table["layer"], table["head"]] = table[column] * factor
        limit = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0
        axes.patch.set(hatch="////", facecolor="white", edgecolor="#bbbbbb")
        image = axes.imshow(values, cmap="RdBu", vmin=-(limit or 1), vmax=limit or 1, aspect="auto", interpolation="nearest")
        axes.set(xlabel="head", ylabel="layer", xticks=_ticks(num_heads), yticks=_ticks(num_layers))
        axes.set_title(f"ACT on one head - baseline:\n{label}", fontsize=9)
        figure.colorbar(image, ax=axes, shrink=0.85)
    return figure


def _ticks(count: int) -> Sequence[int]:
    return range(0, count, max(1, -(-count // 8)))
