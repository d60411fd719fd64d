"""Long names become what tells them apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.short_names import cut_names, short_names

pytestmark = pytest.mark.tier("unit")

HASHES = ("0123456789abcdef", "fedcba9876543210")
CACHED = "/data/me/.cache/huggingface/hub/models--org--name/snapshots/"
PARTS = st.lists(st.sampled_from(["a", "b", "models--x--y", "snapshots", "0f", "..", "~"]), min_size=1, max_size=6)
NAMES = st.sets(st.tuples(st.sampled_from(["", "/", "./"]), PARTS).map(lambda name: name[0] + "/".join(name[1])), max_size=6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/a/b/c/smollm2-135m-instruct"], ["smollm2-135m-instruct"]),
        (["/a/b/one", "/a/b/two"], ["one", "two"]),
        (["/a/one/best", "/a/two/best", "/a/b/c"], ["one/best", "two/best", "c"]),
        (["/a/best", "best"], ["a/best", "best"]),
        (["org1/model", "org2/model"], ["org1/model", "org2/model"]),
        (["org/model", "model"], ["org/model", "model"]),
        ([CACHED + HASHES[0]], ["org/name"]),
        ([CACHED + HASHES[0], CACHED + HASHES[1]], [f"org/name/{HASHES[0]}", f"org/name/{HASHES[1]}"]),
        ([CACHED + HASHES[0], "org/name"], [f"org/name/{HASHES[0]}", "org/name"]),
        ([CACHED.replace("org--name", "gpt2") + HASHES[0]], ["gpt2"]),
        (["./model/", "/"], ["model", "/"]),
        (["org/model (peft=my/adapter)", "/a/b/one (dtype=x)"], ["org/model (peft=my/adapter)", "one (dtype=x)"]),
        (["/a/one (dtype=x)", "/b/one (dtype=x)"], ["a/one (dtype=x)", "b/one (dtype=x)"]),
        ([], []),
    ],
)
def test_examples(names, expected):
    assert list(short_names(names).values()) == expected


def test_parts_that_stay():
    assert list(short_names(["/a/b/heads/profile.json"], parts=2).values()) == ["heads/profile.json"]


@given(NAMES)
def test_no_two_are_the_same_and_none_is_longer(names):
    short = short_names(names)
    assert set(short) == names
    assert len(set(short.values())) == len(names)
    assert all(len(text) <= len(name) for name, text in short.items())


@given(NAMES)
def test_the_order_does_not_matter(names):
    assert short_names(sorted(names)) == short_names(sorted(names, reverse=True))


def test_the_middle_of_long_names_is_left_out_where_they_stay_apart():
    heads = "0:1+2+3+4;1:1+2+3+4;2:1+2+3+4"
    assert cut_names([heads, "all"], 15) == {heads: "0:1+2+...+2+3+4", "all": "all"}
    other = heads.replace("1:", "7:")
    assert cut_names([heads, other], 15) == {heads: heads, other: other}
