"""Sinks stay with the rows and keys of a cache that methods of its own change."""

import copy
import pickle

import pytest
import torch
from helpers.models import random_ids
from transformers import DynamicCache, StaticCache

from act_eval.attention.act import ACT
from act_eval.attention.cache import CACHE_ATTRIBUTE
from act_eval.attention.pairs import ChosenHeads

pytestmark = pytest.mark.tier("model")

WAYS = [
    ("reorder_cache", [1, 0, 3, 2]),
    ("reorder_cache", [3, 3]),
    ("batch_select_indices", [0, 1, 0, 1]),
    ("batch_repeat_interleave", [0, 0, 1, 1, 2, 2, 3, 3]),
]


def kept(cache):
    return getattr(cache, CACHE_ATTRIBUTE)


@pytest.mark.parametrize(("method", "rows"), WAYS)
@pytest.mark.parametrize("heads", ["all", "0:1;2:0", "0:0+1|0:2;2:1"])
@pytest.mark.parametrize("copied", [False, True])
def test_rows_keep_their_sinks(gqa_model, method, rows, heads, copied):
    ids, act = random_ids(30, seed=41, rows=4), ACT(heads, method="act+mask-head" if "|" in heads else "act", alpha=1.5)
    new = random_ids(6, seed=42, rows=len(rows))
    with torch.no_grad(), act(gqa_model):
        cache = gqa_model(ids, use_cache=True).past_key_values
        original, cache = cache, copy.deepcopy(cache) if copied else cache
        getattr(cache, method)(2 if method == "batch_repeat_interleave" else torch.tensor(rows))
        result = [gqa_model(part, past_key_values=cache).logits for part in (new[:, :1], new[:, 1:])]
        same = gqa_model(ids[rows], use_cache=True).past_key_values
        expected = [gqa_model(part, past_key_values=same).logits for part in (new[:, :1], new[:, 1:])]
        if copied:
            untouched = gqa_model(new[[0] * 4], past_key_values=original).logits
            fresh = gqa_model(ids, use_cache=True).past_key_values
            assert torch.equal(untouched, gqa_model(new[[0] * 4], past_key_values=fresh).logits)
    for got, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=5e-5)


def test_static_cache(gqa_model):
    ids, new = random_ids(30, seed=43, rows=3), random_ids(3, seed=44, rows=3)
    with torch.no_grad(), ACT("all", alpha=1.5)(gqa_model):
        static = StaticCache(config=gqa_model.config, max_cache_len=40)
        gqa_model(ids, past_key_values=static)
        static.reorder_cache(torch.tensor([2, 0, 0]))
        dynamic = gqa_model(ids[[2, 0, 0]], use_cache=True).past_key_values
        result, expected = (gqa_model(new, past_key_values=cache).logits for cache in (static, dynamic))
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-5)


def test_keys_that_are_let_go_are_no_sinks(gqa_model):
    ids, act = random_ids(30, seed=45), ACT("all", alpha=1.01, beta=0.0)
    with torch.no_grad(), act(gqa_model):
        cache = gqa_model(ids, use_cache=True).past_key_values
        before = kept(cache)
        cache.crop(-10)
        after = kept(cache)
        gqa_model(ids[:, :10], past_key_values=cache)
        assert kept(cache) is after
    assert any(sinks.sinks[..., 20:].any() for sinks in before.values())
    for place, sinks in after.items():
        assert torch.equal(sinks.sinks, before[place].sinks[..., :20])
        at_new, _ = sinks.on_cache(None, 0, 30)
        assert not at_new[..., 20:].any()


def test_no_device_is_waited_for(gqa_model, monkeypatch):
    """What beams ask at each step is known since the prompt."""
    with torch.no_grad(), ACT("all", alpha=1.5)(gqa_model):
        cache = gqa_model(random_ids(30, seed=46, rows=2), use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        monkeypatch.setattr(ChosenHeads, "_on_cpu", property(lambda _: pytest.fail("a device was waited for")))
        for step in range(3):
            cache.reorder_cache(torch.tensor([1, 0]))
            gqa_model(random_ids(1, seed=step, rows=2), past_key_values=cache)


def test_the_cache_stays_what_it_was(gqa_model):
    with torch.no_grad(), ACT("all", alpha=1.5)(gqa_model):
        cache = gqa_model(random_ids(30, seed=47), use_cache=True).past_key_values
    assert isinstance(cache, DynamicCache)
    assert type(cache).__qualname__ == "DynamicCache"
    for again in (pickle.loads(pickle.dumps(cache)), copy.copy(cache)):
        assert type(again) is type(cache)
        assert kept(again).keys() == kept(cache).keys()
        assert again.get_seq_length() == 30
