"""Lists of layers as text."""

import pytest

from act_eval.errors import SettingError
from act_eval.layer_lists import check_layer_list, resolve_layers

pytestmark = pytest.mark.tier("unit")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("2", (2,)),
        ("1-3", (1, 2, 3)),
        ("3,0-1", (0, 1, 3)),
        ("0-4,2", (0, 1, 2, 3, 4)),
        (" ALL ", (0, 1, 2, 3, 4)),
        (" 1 - 2, 4", (1, 2, 4)),
    ],
)
def test_layers_of_a_model(text, layers):
    check_layer_list(text)
    assert resolve_layers(text, range(5)) == layers


def test_all_layers_of_a_hybrid_model_are_those_with_attention():
    assert resolve_layers("all", (3, 7, 11)) == (3, 7, 11)
    with pytest.raises(SettingError, match="layers names layer 4, but the model has attention in layers 3, 7, 11 alone"):
        resolve_layers("3-7", (3, 7, 11))


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1;2", "1--2", "1,,2", "1 2"])
def test_what_is_no_list_of_layers(text):
    with pytest.raises(SettingError, match="is not a list of layers: write all, or such as 2-30,33"):
        check_layer_list(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "names layer 5, but the model has layers 0 to 4"),
        ("3-1", "layers has the range 3-1: write ranges from the lower layer to the higher one"),
        ("3-1,2", "layers has the range 3-1"),
        ("0-999999999", "names layer 5"),
        ("7-9", "names layer 7, but the model has layers 0 to 4"),
        ("1,7-9", "names layer 7"),
    ],
)
def test_layers_that_the_model_lacks(text, words):
    with pytest.raises(SettingError, match=words):
        resolve_layers(text, range(5))
