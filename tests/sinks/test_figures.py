"""Figures of models of 4 to 80 layers hold on a page: labels whole and apart, axes named once, colour bars as long as maps."""

import matplotlib.style
import pytest
from helpers.figures import overlapping
from helpers.made_up_sinks import SHAPES, made_up_head_scores, made_up_statistics

from act_eval.head_scores import plot_head_scores
from act_eval.plotting import PAGE_HEIGHT, PAGE_WIDTH
from act_eval.sinks import plots
from act_eval.sinks.map_grid import columns_on_a_page

pytestmark = pytest.mark.tier("unit")

of_every_shape = pytest.mark.parametrize(("layers", "heads"), SHAPES)


def is_legible(figure):
    """Draw the figure, after which its places are final."""
    assert overlapping(figure) == ([], [])
    assert figure.get_figheight() <= PAGE_HEIGHT


def texts(figure):
    """All texts of a figure and its axes that are no numbers at an axis."""
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())]
    return [*labels, *(text.get_text() for text in figure.texts)]


def names_of_ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]


def extent(axes):
    return axes.get_window_extent()


def outline(bar):
    """The extent of a colour bar with its points."""
    return bar.spines["outline"].get_window_extent()


@pytest.mark.parametrize(("maps", "columns"), [(1, 1), (2, 2), (4, 4), (12, 4), (18, 6), (30, 6), (32, 8), (40, 8), (80, 10)])
def test_columns_of_maps(maps, columns):
    """As few columns as a page has room for, or one more that leaves fewer gaps: 4 rows of 5 for 18 would have 2."""
    assert columns_on_a_page(maps, 0.5, fewest=4) == columns


def test_columns_of_maps_with_long_titles():
    assert columns_on_a_page(4, 2.5, fewest=3) == 2
    assert columns_on_a_page(4, 9.0, fewest=3) == 1
    assert columns_on_a_page(1000, 0.5, fewest=4) == 10


@pytest.mark.tier("slow")
@of_every_shape
class TestShapes:
    def test_maps_of_layers(self, layers, heads):
        figure = plots.plot_attention_by_layer(made_up_statistics(layers, heads))
        is_legible(figure)
        assert figure.get_figwidth() == PAGE_WIDTH
        assert [texts(figure).count(name) for name in ("key position", "query position")] == [1, 1]
        *panels, bar = figure.axes
        strips, maps = panels[::2], panels[1::2]
        assert [strip.get_title() for strip in strips] == [f"layer {layer}" for layer in range(layers)]
        boxes = [extent(axes) for axes in maps]
        for axes, box, strip in zip(maps, boxes, strips, strict=True):
            assert box.width == pytest.approx(box.height)
            assert (extent(strip).x0, extent(strip).x1) == pytest.approx((box.x0, box.x1))
            assert extent(strip).y0 > box.y1
            is_leftmost, is_lowest = box.x0 == min(each.x0 for each in boxes), box.y0 == min(each.y0 for each in boxes)
            assert bool(names_of_ticks(axes.yaxis)) == is_leftmost
            assert bool(names_of_ticks(strip.yaxis)) == is_leftmost
            assert bool(names_of_ticks(axes.xaxis)) == is_lowest
        left, right = min(box.x0 for box in boxes), max(box.x1 for box in boxes)
        assert (outline(bar).x0, outline(bar).x1) == pytest.approx((left, right), abs=1)
        assert outline(bar).y1 < maps[-1].get_tightbbox().y0
        (legend,) = figure.legends
        assert legend.get_window_extent().y0 > strips[0].get_tightbbox().y1

    def test_sinks_per_head(self, layers, heads):
        figure = plots.plot_sinks_per_head(made_up_statistics(layers, heads))
        is_legible(figure)
        axes, bar = figure.axes
        assert (extent(bar).y0, extent(bar).y1) == pytest.approx((extent(axes).y0, extent(axes).y1), abs=1)
        assert extent(bar).width < 0.15 * figure.dpi

    @pytest.mark.parametrize("scored", ["some", "all"])
    def test_scores_of_heads(self, layers, heads, scored):
        table = made_up_head_scores(layers, heads)
        if scored == "all":
            columns = ["accuracy_change", "margin_change"]
            table = table[table["documents"] > 0].drop_duplicates("layer")[["layer", *columns]].merge(table[["layer", "head"]])
            table = table.assign(layer=table["layer"] - 1)
            layers -= 1
        figure = plot_head_scores(table, layers, heads)
        is_legible(figure)
        assert texts(figure).count("layer") == 1
        assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == ["not scored"] * (
            scored == "some"
        )
        for axes, bar in zip(figure.axes[:2], figure.axes[2:], strict=True):
            assert (extent(bar).y0, extent(bar).y1) == pytest.approx((extent(axes).y0, extent(axes).y1), abs=1)
            assert 0 < extent(bar).x0 - extent(axes).x1 < 0.1 * figure.dpi
            steps = [int(name) for name in names_of_ticks(axes.xaxis)]
            assert steps[-1] == (len(steps) - 1) * steps[1]
            assert heads / 2 <= steps[-1] < heads


class TestOtherFigures:
    def test_colour_bars_of_before_and_after_are_as_long_as_their_maps(self):
        figure = plots.plot_before_and_after(made_up_statistics(4, 4))
        is_legible(figure)
        before, after, change = map(extent, figure.axes[:3])
        bar, bar_of_change = map(outline, figure.axes[3:])
        assert (bar.x0, bar.x1) == pytest.approx((before.x0, after.x1), abs=1)
        assert (bar_of_change.x0, bar_of_change.x1) == pytest.approx((change.x0, change.x1), abs=1)
        assert bar.height == pytest.approx(bar_of_change.height, abs=2)
        assert texts(figure).count("key position") == 1

    @pytest.mark.tier("slow")
    @pytest.mark.parametrize("names", [["one"], [f"task {number}" for number in range(4)]], ids=len)
    def test_legends_of_attention_received_stand_outside(self, names):
        figure = plots.plot_received(dict.fromkeys(names, made_up_statistics(4, 4)))
        is_legible(figure)
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        assert len(legends) == 1 + len(names)
        for legend in legends:
            assert not any(legend.get_window_extent().padded(-1).overlaps(extent(axes)) for axes in figure.axes)
        shares = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        expected = made_up_statistics(4, 4).received_shares.mean((0, 1))
        assert shares == [f"{share:.0%}" for share in expected]

    @pytest.mark.tier("slow")
    def test_many_families(self):
        figure = plots.plot_attention_map(
            dict.fromkeys([f"act_family_{number}" for number in range(17)], made_up_statistics(4, 4))
        )
        is_legible(figure)

    def test_a_figure_is_drawn_in_any_style(self):
        with matplotlib.style.context("ggplot"):
            is_legible(plot_head_scores(made_up_head_scores(30, 9), 30, 9))
