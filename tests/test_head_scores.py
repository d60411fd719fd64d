"""The table of scores by head: what a search writes can be read again, and only where it is such a table."""

import numpy as np
import pandas as pd
import pytest

from act_eval.errors import InputError
from act_eval.head_scores import HEADS_FILE, fits_model, plot_head_scores, read_head_scores, write_head_scores

pytestmark = pytest.mark.tier("unit")


@pytest.fixture
def table():
    rows = [(0, 0, 2, 0.5, 0.25), (0, 1, 2, -0.5, -1), (1, 0, 0, np.nan, np.nan), (1, 1, 2, 0, 0.125)]
    return pd.DataFrame(rows, columns=["layer", "head", "documents", "accuracy_change", "margin_change"])


def test_round_trip(table, tmp_path):
    written = write_head_scores(table, tmp_path, 2, 2)
    assert [path.name for path in written] == ["heads.csv", "heads.png", "heads.svg"]
    assert all(path.stat().st_size for path in written)
    pd.testing.assert_frame_equal(read_head_scores(tmp_path), table)


@pytest.mark.parametrize(("shape", "fits"), [((2, 2), True), ((5, 9), True), ((1, 2), False), ((2, 1), False)])
def test_fits_a_model_that_has_all_its_heads(table, shape, fits):
    assert fits_model(table, *shape) == fits
    assert fits_model(table[:0], *shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not readable"),
        ("", "is not readable"),
        ("layer,head,margin_change\n0,0,0.1\n", "has no column accuracy_change"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / HEADS_FILE).write_text(text)
    with pytest.raises(InputError, match=message):
        read_head_scores(tmp_path)


def test_heads_that_were_estimated_alone_are_drawn_by_their_estimates(table):
    estimated = table.assign(margin_change=np.nan, estimate=[0.1, -0.2, 0.3, 0.0], estimate_together=0.0)
    for given, title, values in (
        (table, "margin, nats", [[0.25, -1], [np.nan, 0.125]]),
        (estimated, "margin, nats, estimated", [[0.1, -0.2], [0.3, 0.0]]),
    ):
        drawn = {axes.get_title().split("\n")[1]: axes.images[0] for axes in plot_head_scores(given, 2, 2).axes if axes.images}
        np.testing.assert_array_equal(np.ma.filled(drawn[title].get_array(), np.nan), values)
