"""What a prefill found, asked for by the key indices of the decode steps that follow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from act_eval.attention.cache import MaskOfPrefill

pytestmark = pytest.mark.tier("unit")


@given(
    st.lists(st.booleans(), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30),
)
def test_keys_after_a_prefill_are_not_marked(marked: list[bool], steps: list[tuple[int, int]]) -> None:
    mask, dropped, end = torch.tensor([marked, marked[::-1]]), 0, len(marked)
    of_prefill = MaskOfPrefill(mask)
    for new, let_go in steps:
        end += new
        dropped = min(dropped + let_go, end - 1)
        expected = torch.zeros(2, end, dtype=torch.bool)
        expected[:, : len(marked)] = mask
        assert torch.equal(of_prefill.on_cache(slice(dropped, end)), expected[:, dropped:])
    assert torch.equal(mask, torch.tensor([marked, marked[::-1]]))


def test_most_decode_steps_copy_no_mask() -> None:
    of_prefill = MaskOfPrefill(torch.ones(1, 100, dtype=torch.bool))
    storages = {of_prefill.on_cache(slice(0, end)).untyped_storage().data_ptr() for end in range(101, 200)}
    assert len(storages) == 1
