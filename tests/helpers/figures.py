"""Whether the texts of figures are whole and apart."""

from unittest.mock import patch

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def overlapping(figure):
    """Pairs of texts of a figure that cover each other, and texts beyond its edges."""
    drawn, draw = {}, Text.draw

    def draw_and_note(text, renderer):
        draw(text, renderer)
        if text.get_visible() and text.get_text():
            drawn[text] = text.get_window_extent(renderer)

    with patch.object(Text, "draw", draw_and_note):
        FigureCanvasAgg(figure).draw()
    boxes = [(text.get_text(), box) for text, box in drawn.items()]
    assert boxes
    width, height = figure.bbox.size
    beyond = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    shrunk = [(text, box.x0 + 1, box.x1 - 1, box.y0 + 1, box.y1 - 1) for text, box in boxes]
    covered = [
        (one[0], two[0])
        for place, one in enumerate(shrunk)
        for two in shrunk[:place]
        if min(one[2], two[2]) > max(one[1], two[1]) and min(one[4], two[4]) > max(one[3], two[3])
    ]
    return beyond, covered
