"""The one style of all plots: readable in grey, by colour-blind people, and at the size that a two-column paper prints."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from act_eval.files import atomic_file

COLOUR_BETTER = "#0072B2"
COLOUR_WORSE = "#D55E00"
GREY = "#333333"
SERIES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "act-eval",
    "figure.constrained_layout.use": True,
}
COLUMN_WIDTH, PAGE_WIDTH = 3.3, 6.8


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes.

    Args:
        figure: to be written inside the style context that it was made in.
        folder: exists.
        name: of the files, without suffix.

    Returns:
        The paths of the two files.
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with atomic_file(png) as file:
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    with atomic_file(svg) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    return [png, svg]
