"""How figures look, and the one way to make and write them.

The style is readable in grey, by colour-blind people, and at the size that a two-column paper prints.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from act_eval.errors import SettingError, explained
from act_eval.files import atomic_file, write_texts
from act_eval.near_names import did_you_mean

COLUMN_WIDTH, PAGE_WIDTH, PAGE_HEIGHT = 3.3, 6.8, 9.0  # of a two-column paper, in inches
COLOUR_BETTER = "#0072B2"
COLOUR_WORSE = "#D55E00"
GREY = "#333333"
LINE_HEIGHT = 0.15  # of normal text, in inches
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
_SMALL_PRINT = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7}
_LEGEND_HANDLE = 0.55  # what stands before a name of a legend, and between two columns, in inches
_COLOUR_BAR = 0.09  # its thickness, and the length of its points, in inches
_LOWEST_HEAD_MAP, _HIGHEST_HEAD_MAP, _HEIGHT_OF_A_LAYER = 1.5, 7.0, 0.15  # in inches
_HEAD_MAP_TICKS = MaxNLocator(8, steps=[1, 2, 4, 5, 8, 10], integer=True)
_DPI, _MOST_PIXELS = 200, 65_000  # along each side; matplotlib draws no larger pictures
_CLIP_PATH = re.compile(rb'(?<=url\(#)p[0-9a-f]{10}(?=\))|(?<=<clipPath id=")p[0-9a-f]{10}(?=")')
# A decorator, below `plot`, for functions that draw small texts. It does not hold while a figure is written, when matplotlib
# looks how many ticks there is room for, so that there are as few as with larger texts.
small_print = matplotlib.rc_context(_SMALL_PRINT)

P = ParamSpec("P")


@dataclass(eq=False)
class Plot(Generic[P]):
    """A function that draws a figure, and what holds for the figure: the name of its files, its title, style and data.

    A call draws the figure in its style, and returns None where there is nothing to show.

    Attributes:
        draw: the function.
        name: of the files, without suffix.
        title: what the figure shows, in a few words.
        data: makes the table behind the figure from the arguments of `draw`, or None where the figure shows tables of others.
        styles: matplotlib settings, or a style by its name or as a file; each changes what `STYLE` and those before it say.
    """

    draw: Callable[P, Figure | None]
    name: str
    title: str
    data: Callable[..., pd.DataFrame] | None = None
    styles: tuple[Mapping[str, Any] | str, ...] = ()

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.draw)

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> Figure | None:
        with matplotlib.style.context([STYLE, *self.styles]):
            return self.draw(*arguments, **options)

    @property
    def file_names(self) -> tuple[str, ...]:
        """What the files of the figure are called."""
        return f"{self.name}.png", f"{self.name}.svg"

    def named(self, name: str) -> Plot[P]:
        """The same plot, written to other files."""
        return replace(self, name=name)

    def styled(self, style: str) -> Plot[P]:
        """The same plot in a matplotlib style, by its name or as a file, on top of its own.

        Raises:
            SettingError: there is no such style.
        """
        check_style(style)
        return replace(self, styles=(*self.styles, style))

    def write(self, folder: Path, *arguments: P.args, **options: P.kwargs) -> list[Path]:
        """Write the figure as PNG and SVG, and its data beside it; the same arguments give the same bytes.

        Args:
            folder: exists.
            arguments, options: those of `draw`.

        Returns:
            The paths of the files.
        """
        return [*self.write_figure(folder, *arguments, **options), *self.write_data(folder, *arguments, **options)]

    def write_figure(self, folder: Path, *arguments: P.args, **options: P.kwargs) -> list[Path]:
        """Write the PNG and the SVG of `write`, or nothing without a figure."""
        figure = self(*arguments, **options)
        if figure is None:
            return []
        with matplotlib.style.context([STYLE, *self.styles]):
            return write_figure(figure, folder, self.name)

    def write_data(self, folder: Path, *arguments: P.args, **options: P.kwargs) -> list[Path]:
        """Write the CSV of `write`, or nothing without data."""
        if self.data is None:
            return []
        table = self.data(*arguments, **options)
        return write_texts({f"{self.name}.csv": table.to_csv(index=False, float_format="%.6g")}, folder)


def check_style(style: str) -> None:
    """Raise SettingError unless matplotlib knows a style of that name, or can read a style sheet from a file of that name."""
    if style not in matplotlib.style.available and not os.path.isfile(style):
        names = [name for name in matplotlib.style.available if not name.startswith("_")]
        raise SettingError(
            "style",
            f"{style}{did_you_mean(style, names)}: matplotlib has no such style and there is no such file: choose one of "
            f"{', '.join(names)}, or give a style sheet.",
        )

    def explain(error: Exception) -> SettingError:
        reason = " ".join(str(error).split())
        return SettingError("style", f"{style} cannot be read as a style sheet of matplotlib ({reason}): mend it.")

    with explained(explain, OSError, ValueError), matplotlib.style.context(style):
        pass


def plot(
    name: str, title: str, *, data: Callable[..., pd.DataFrame] | None = None, style: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, Figure | None]], Plot[P]]:
    """Make a `Plot` of the function below.

    Args:
        name, title, data: see `Plot`.
        style: matplotlib settings that this plot has besides `STYLE`.
    """
    return lambda draw: Plot(draw, name, title, data, () if style is None else (style,))


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
    dpi = min(_DPI, _MOST_PIXELS / max(figure.get_size_inches()))
    with atomic_file(png) as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    figure.set_layout_engine("none")  # everything has its place now
    with atomic_file(svg) as file:
        file.write(_svg(figure))
    return [png, svg]


def colour_and_marker(number: int) -> tuple[str, str]:
    """Colour and marker of one of many lines, counted from 0; no two are the same until there are 49."""
    return SERIES[number % len(SERIES)][0], SERIES[(number + number // len(SERIES)) % len(SERIES)][1]


def _svg(figure: Figure) -> bytes:
    """A figure as SVG, the same in every process: matplotlib names clip paths by coordinates, whose last digits may differ."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    names: dict[bytes, bytes] = {}
    return _CLIP_PATH.sub(lambda found: names.setdefault(found[0], b"clip%d" % len(names)), buffer.getvalue())


def text_width(texts: Iterable[str], size: float | str = "medium") -> float:
    """The width of the widest line of some texts, in inches, in the style that holds.

    Args:
        texts: may be none, and may have several lines.
        size: of their letters, as matplotlib has it.
    """
    font = FontProperties(size=size)
    lines = {line for text in texts for line in text.splitlines()}
    return max((text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in lines), default=0.0) / 72


def longest_word(texts: Iterable[str], size: float | str = "medium") -> float:
    """The width of the widest word of some texts, in inches, which no line that holds them may be narrower than."""
    return text_width((word for text in texts for word in text.split()), size)


def wrapped(text: str, width: float, size: float | str = "medium") -> str:
    """A text with line breaks between words, so that it is not wider than that, in inches, unless one word is."""
    lines: list[str] = []
    for line in text.splitlines():
        first, *words = line.split(" ")
        lines.append(first)
        for word in words:
            if text_width([f"{lines[-1]} {word}"], size) <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
    return "\n".join(lines)


def number_of_lines(texts: Iterable[str]) -> int:
    """How many lines some texts have below each other."""
    return sum(len(text.splitlines()) for text in texts)


def legend_columns(names: Sequence[str], width: float, size: float | str = "small") -> int:
    """How many names of a legend stand side by side in that width, in inches."""
    return max(1, min(len(names), int(width / (text_width(names, size) + _LEGEND_HANDLE))))


def add_colour_bar(figure: Figure, image: ScalarMappable, length: float, **options: Any) -> Colorbar:
    """Add a colour bar that is as thick, and as pointed where it is open, as all others.

    Args:
        figure, image: what the bar is in, and what it explains.
        length: of the bar, in inches; about that of the axes that it stands beside, which it is as long as.
        options: of `Figure.colorbar`; `ax` or `cax` is one of them.
    """
    return figure.colorbar(image, aspect=length / _COLOUR_BAR, extendfrac=_COLOUR_BAR / length, **{"pad": 0.02, **options})


def height_of_head_map(layers: int) -> float:
    """How high a heat map of so many layers is, in inches; with all that is around it, it fits on a page."""
    return min(_HIGHEST_HEAD_MAP, max(_LOWEST_HEAD_MAP, _HEIGHT_OF_A_LAYER * layers))


def draw_head_map(axes: Axes, values: np.ndarray, layers: Sequence[int], **options: Any) -> AxesImage:
    """Draw a heat map of all heads, layers down, heads across.

    Args:
        axes: where.
        values: `[layers, heads]`; what is NaN stays empty.
        layers: their numbers.
        options: of `Axes.imshow`.
    """
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **options)
    rows, columns = (
        [int(tick) for tick in _HEAD_MAP_TICKS.tick_values(0, count - 1) if tick < count] for count in values.shape
    )
    axes.set_yticks(rows, [str(layers[row]) for row in rows])
    axes.set(xlabel="head", xticks=columns)
    axes.spines[:].set_visible(False)
    return image


def plot_bars(axes: Axes, labels: Iterable[str], rows: pd.DataFrame, factor: float = 100) -> None:
    """Draw horizontal bars of `delta` with the interval from `low` to `high`; worse and better differ in colour and hatching.

    Args:
        axes: where.
        labels: of the bars, from below.
        rows: one for each bar.
        factor: what all numbers are multiplied by; 100 turns shares into percentage points.
    """
    better = rows["delta"] >= 0
    colours = better.map({True: COLOUR_BETTER, False: COLOUR_WORSE}).tolist()
    errors = [(rows["delta"] - rows["low"]) * factor, (rows["high"] - rows["delta"]) * factor]
    bars = axes.barh(list(labels), rows["delta"] * factor, xerr=errors, color=colours, alpha=0.85, capsize=3, ecolor=GREY)
    for bar, is_better in zip(bars, better, strict=True):
        bar.set_hatch("" if is_better else "///")
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.axvline(0, color=GREY, linewidth=0.8)


def plot_points(axes: Axes, ends: np.ndarray, places: Any, number: int, **look: Any) -> None:
    """Draw differences with their intervals as points, one below the other.

    Args:
        axes: to draw in.
        ends: float `[3, points]`: the differences, and the low and high ends of their intervals.
        places: where along the vertical axis.
        number: see `colour_and_marker`.
        look: options of `Axes.errorbar`.
    """
    delta, low, high = ends
    colour, marker = colour_and_marker(number)
    look = {"color": colour, "marker": marker, "linestyle": "none", "capsize": 2, **look}
    axes.errorbar(delta, places, xerr=[delta - low, high - delta], **look)


def name_points(axes: Axes, names: Sequence[str] | pd.Series) -> None:
    """Put names beside the rows of points, upwards from 0, and a line where there is no difference."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.axvline(0, color=GREY, linewidth=0.8)
