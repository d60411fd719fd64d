"""Places for attention maps in a figure that holds on a page of a paper, however many they are. All lengths are in inches."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from act_eval.plotting import COLUMN_WIDTH, PAGE_HEIGHT, PAGE_WIDTH

_LEFT, _RIGHT, _BETWEEN = 0.5, 0.1, 0.08
_LEGEND, _TITLE, _BELOW_A_STRIP = 0.22, 0.19, 0.04
_SHARE_OF_A_STRIP, _LOWEST_STRIP = 0.18, 0.12
_BELOW_MAPS, _COLOUR_BAR, _BELOW_THE_BAR = 0.4, 0.09, 0.42
_LABEL_OF_KEYS, _LABEL_OF_QUERIES = 0.32, 0.04  # how far below the maps, and from the figure's left edge


@dataclass(frozen=True)
class MapGrid:
    """An empty figure of square maps in rows.

    Names of axes and numbers at them stand at the left and below the lowest maps alone. All places are fixed: to look for a
    layout takes minutes where there are 80 maps.

    Attributes:
        figure: of the width of a column or a page.
        strips: axes of the same width above each map, for what belongs to its keys.
        maps: axes of the maps.
        bar: axes of one colour bar, below all maps and as long as a row of them.
        width: of a row of maps, and of the bar.
        left: where the maps begin, as a share of the figure's width.
    """

    figure: Figure
    strips: list[Axes]
    maps: list[Axes]
    bar: Axes
    width: float
    left: float

    @classmethod
    def of(cls, maps: int, columns: int) -> MapGrid:
        """A grid of so many maps, at least one, in so many columns."""
        rows, heights = -(-maps // columns), _heights(columns)
        width, height = _width(columns), _height(maps, columns)
        below = _BELOW_MAPS + _COLOUR_BAR + _BELOW_THE_BAR
        borders = {"left": _LEFT / width, "right": 1 - _RIGHT / width, "bottom": below / height, "top": 1 - _LEGEND / height}
        between = {"hspace": 0, "wspace": _BETWEEN / _side(columns)}
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("none")
        grid = figure.add_gridspec(rows * len(heights), columns, height_ratios=heights * rows, **borders, **between)
        strips, all_axes = [], []
        for place in range(maps):
            row, column = divmod(place, columns)
            strip, axes = (figure.add_subplot(grid[row * len(heights) + part, column]) for part in (1, 3))
            for each in (strip, axes):
                each.tick_params(labelleft=column == 0, labelbottom=place + columns >= maps, pad=2)
            strips.append(strip)
            all_axes.append(axes)
        middle = (borders["left"] + borders["right"]) / 2
        figure.text(middle, (below - _LABEL_OF_KEYS) / height, "key position", ha="center", va="bottom")
        upright = (_LABEL_OF_QUERIES / width, (borders["bottom"] + borders["top"]) / 2)
        figure.text(*upright, "query position", rotation="vertical", va="center")
        place_of_bar = (borders["left"], _BELOW_THE_BAR / height, borders["right"] - borders["left"], _COLOUR_BAR / height)
        return cls(figure, strips, all_axes, figure.add_axes(place_of_bar), width - _LEFT - _RIGHT, borders["left"])


def columns_on_a_page(maps: int, width_of_titles: float, fewest: int) -> int:
    """In how many columns maps are largest while the figure is no higher than a page.

    A column more is taken where that leaves fewer places of the last row empty. Where a page has no room for so many maps, as
    many stand side by side as their titles allow.

    Args:
        maps: how many, at least one.
        width_of_titles: of the widest one.
        fewest: columns to have where there are as many maps and their titles have room.
    """
    room = max(1, int((PAGE_WIDTH - _LEFT - _RIGHT + _BETWEEN) / (width_of_titles + _BETWEEN)))
    most = min(maps, room)
    choices = range(min(fewest, most), most + 1)
    first = next((columns for columns in choices if _height(maps, columns) <= PAGE_HEIGHT), most)
    return min(first, min(first + 1, most), key=lambda columns: (-maps % columns, columns))


def _width(columns: int) -> float:
    return COLUMN_WIDTH if columns == 1 else PAGE_WIDTH


def _side(columns: int) -> float:
    """The side of a map."""
    return (_width(columns) - _LEFT - _RIGHT - (columns - 1) * _BETWEEN) / columns


def _heights(columns: int) -> list[float]:
    """The heights of a title, a strip, the room below it, and a map."""
    side = _side(columns)
    return [_TITLE, max(_LOWEST_STRIP, _SHARE_OF_A_STRIP * side), _BELOW_A_STRIP, side]


def _height(maps: int, columns: int) -> float:
    """The height of the figure."""
    return _LEGEND + -(-maps // columns) * sum(_heights(columns)) + _BELOW_MAPS + _COLOUR_BAR + _BELOW_THE_BAR
