"""What a search leaves behind: the profile, tables, and the heat map of heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from act_eval.files import atomic_file
from act_eval.plotting import STYLE, write_figure
from act_eval.profiles import HeadProfile

PROFILE_FILE, HEADS_FILE, UNIONS_FILE = "profile.json", "heads.csv", "heads_together.csv"


def write_profile(profile: HeadProfile, folder: Path) -> None:
    """Write `profile.json`."""
    with atomic_file(folder / PROFILE_FILE) as file:
        file.write(profile.to_json().encode())


def write_heads(table: pd.DataFrame, folder: Path, num_layers: int, num_heads: int) -> None:
    """Write `heads.csv`, a row for each head, and `heads.png` and `heads.svg`, the heat maps of its columns."""
    with atomic_file(folder / HEADS_FILE) as file:
        file.write(table.to_csv(index=False, float_format="%.6f").encode())
    plot_heads(table, folder, num_layers, num_heads)


def write_unions(table: pd.DataFrame, folder: Path) -> None:
    """Write `heads_together.csv`, a row for each number of heads tried together."""
    with atomic_file(folder / UNIONS_FILE) as file:
        file.write(table.to_csv(index=False, float_format="%.6f").encode())


def plot_heads(table: pd.DataFrame, folder: Path, num_layers: int, num_heads: int) -> list[Path]:
    """Heat maps of what calibrating each head alone changes: accuracy and margin, layers down, heads across.

    Heads that were not scored are hatched. The colour scale is symmetric and the same for worse and better.

    Args:
        table: with columns `layer`, `head`, `accuracy_change` (a share) and `margin_change` (nats).
        folder: where `heads.png` and `heads.svg` go.
        num_layers, num_heads: of the model.

    Returns:
        The paths of the two files.
    """
    panels = (("accuracy_change", 100, "accuracy, percentage points"), ("margin_change", 1, "margin, nats"))
    with matplotlib.rc_context({**STYLE, "hatch.color": "#bbbbbb", "hatch.linewidth": 0.5}):
        height = min(9.0, 1.3 + 5.6 * num_layers / max(num_heads, 8) / 2)
        figure = Figure(figsize=(6.8, max(2.4, height)))
        for axes, (column, factor, label) in zip(figure.subplots(1, 2), panels, strict=True):
            values = np.full((num_layers, num_heads), np.nan)
            values[table["layer"], table["head"]] = table[column] * factor
            limit = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0
            axes.patch.set(hatch="////", facecolor="white", edgecolor="#bbbbbb")
            image = axes.imshow(
                values, cmap="RdBu", vmin=-(limit or 1), vmax=limit or 1, aspect="auto", interpolation="nearest"
            )
            axes.set(xlabel="head", ylabel="layer", xticks=_ticks(num_heads), yticks=_ticks(num_layers))
            axes.set_title(f"ACT on one head - baseline:\n{label}", fontsize=9)
            figure.colorbar(image, ax=axes, shrink=0.85)
        return write_figure(figure, folder, "heads")


def _ticks(count: int) -> Sequence[int]:
    return range(0, count, max(1, -(-count // 8)))
