"""Whether the texts of figures are whole and apart; commands that draw none."""

from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from act_eval.plotting import Plot


def draw_nothing(patch: pytest.MonkeyPatch | None = None) -> None:
    """Have commands write texts and tables alone, while the patch lasts or as long as the process does."""
    (patch or pytest.MonkeyPatch()).setattr(Plot, "write_figure", lambda *_, **__: [])


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
    left, bottom, right, top = np.array([(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1) for _, box in boxes]).T
    across = np.minimum.outer(right, right) > np.maximum.outer(left, left)
    upright = np.minimum.outer(top, top) > np.maximum.outer(bottom, bottom)
    pairs = np.argwhere(np.tril(across & upright, -1))
    return beyond, [(boxes[one][0], boxes[other][0]) for one, other in pairs]
