"""Requests that were stopped after any batch go on with the next one, and get the answers that they would have got."""

import contextlib

import pytest
import torch
from helpers.requests import prompts, requests, scored_pairs

from act_eval.harness.lm import ACTLM
from act_eval.harness.request_progress import RequestCount
from act_eval.harness.scoring import group_by_context, tokens_of_requests

pytestmark = pytest.mark.tier("model")

SETTINGS = {"act_profile": "all", "act_alpha": 3, "act_beta": 0.1, "dtype": "float32", "device": "cpu"}
SAMPLED = {"do_sample": True, "temperature": 5.0, "top_k": 0}
UNTIL = {"until": ["\n\n"], "max_gen_toks": 6}

KINDS = {
    "loglikelihood": requests("loglikelihood", [*scored_pairs(9), *scored_pairs(2)]),
    "loglikelihood_rolling": requests("loglikelihood_rolling", [(text * 12,) for text in (*prompts(5), prompts(1)[0])]),
    "generate_until": requests(
        "generate_until", [(text, {**UNTIL, "max_gen_toks": 4 + i % 2}) for i, text in enumerate(prompts(9))]
    ),
    "sampled": requests("generate_until", [(text, {**UNTIL, **SAMPLED}) for text in (*prompts(7), prompts(1)[0])]),
}


class StoppedError(Exception):
    pass


class Watched:
    """Progress that stops after some batches; counts what it is told."""

    def __init__(self, batches=None):
        self.batches, self.requests, self.tokens, self.counts = batches, 0, 0, []

    @contextlib.contextmanager
    def __call__(self, count: RequestCount):
        self.counts.append(count)
        yield self.advance

    def advance(self, requests, tokens):
        self.requests, self.tokens = self.requests + requests, self.tokens + tokens
        if self.batches is not None:
            self.batches -= 1
            if self.batches == 0:
                raise StoppedError


@pytest.fixture(scope="module")
def lm():
    model = ACTLM(**SETTINGS, batch_size=2, max_length=96)
    model.scorer()  # tries once whether it can be packed
    return model


@pytest.fixture
def passes(lm):
    """How often the model has run."""
    counted = []
    hook = lm.model.register_forward_pre_hook(lambda *_: counted.append(1))
    yield counted
    hook.remove()


def answer(lm, kind, progress=None):
    lm.progress = progress or Watched()
    torch.manual_seed(0)
    method = "generate_until" if kind == "sampled" else kind
    return getattr(lm, method)(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
class TestStopped:
    def test_after_any_batch(self, lm, passes, kind, tmp_path):
        expected, in_all = answer(lm, kind), len(passes)
        watched = Watched()
        with lm.recording(tmp_path / "whole", "run"):
            assert answer(lm, kind, watched) == expected
        batches = -(-watched.requests // 2)
        for stop in range(1, batches, 2):
            passes.clear()
            folder = tmp_path / str(stop)
            with pytest.raises(StoppedError), lm.recording(folder, "run"):
                answer(lm, kind, Watched(stop))
            later = Watched()
            with lm.recording(folder, "run"):
                assert answer(lm, kind, later) == expected
            assert len(passes) == in_all, "something ran twice"
            (count,) = later.counts
            assert count.requests == watched.requests
            assert count.requests == count.answered + later.requests
            assert count.tokens == later.tokens < watched.tokens

    def test_again_and_again(self, lm, passes, kind, tmp_path):
        expected, in_all = answer(lm, kind), len(passes)
        passes.clear()
        while True:
            try:
                with lm.recording(tmp_path, "run"):
                    found = answer(lm, kind, Watched(1))
                    break
            except StoppedError:
                continue
        assert found == expected
        assert len(passes) == in_all

    def test_all_answered_no_pass(self, lm, passes, kind, tmp_path):
        with lm.recording(tmp_path, "run"):
            expected = answer(lm, kind)
        passes.clear()
        with lm.recording(tmp_path, "run"):
            assert answer(lm, kind) == expected
        assert not passes

    def test_another_batch_size_runs_what_is_missing(self, lm, kind, tmp_path):
        with pytest.raises(StoppedError), lm.recording(tmp_path, "run"):
            answer(lm, kind, Watched(2))
        wider = ACTLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=3, max_length=96, **SETTINGS)
        later = Watched()
        with wider.recording(tmp_path, "run"):
            answer(wider, kind, later)
        (count,) = later.counts
        assert count.answered > 0
        assert later.requests == count.requests - count.answered

    def test_a_run_of_another_name_starts_at_the_beginning(self, lm, kind, tmp_path):
        with lm.recording(tmp_path, "run"):
            answer(lm, kind)
        other = Watched()
        with lm.recording(tmp_path, "other"):
            answer(lm, kind, other)
        assert other.counts[0].answered == 0


def test_each_repeat_of_a_sampled_request_has_its_own_answer(lm, tmp_path):
    lm.progress = Watched()
    repeated = requests("generate_until", [(prompts(1)[0], {**UNTIL, **SAMPLED})] * 6)
    torch.manual_seed(0)
    expected = lm.generate_until(repeated)
    assert len(set(expected)) > 1
    for stop in (1, 2):
        lm.progress = Watched(stop)
        torch.manual_seed(0)
        with pytest.raises(StoppedError), lm.recording(tmp_path / str(stop), "run"):
            lm.generate_until(repeated)
        lm.progress = Watched()
        torch.manual_seed(0)
        with lm.recording(tmp_path / str(stop), "run"):
            assert lm.generate_until(repeated) == expected


@pytest.mark.tier("unit")
def test_a_context_that_choices_share_runs_once():
    """And the last token of a continuation is never fed to the model."""
    requests = [((1, 2, 3, 4), (5,)), ((9,), (8, 7)), ((1, 2, 3, 4), (5, 6, 7))]
    assert tokens_of_requests(group_by_context(requests)) == [4, 2, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_automatic_batch_size(kind, tmp_path):
    lm = ACTLM(**SETTINGS, batch_size="auto", max_batch_size=2, max_length=96)
    expected = answer(lm, kind)
    with pytest.raises(StoppedError), lm.recording(tmp_path, "run"):
        answer(lm, kind, Watched(2))
    with lm.recording(tmp_path, "run"):
        assert answer(lm, kind) == expected


def test_what_is_known_needs_no_measured_batch_size(tmp_path, passes, lm):
    automatic = ACTLM(
        pretrained=lm.model, tokenizer=lm.tokenizer, batch_size="auto", max_batch_size=2, max_length=96, **SETTINGS
    )
    for kind in KINDS:
        with lm.recording(tmp_path, kind):
            answer(lm, kind)
        passes.clear()
        with automatic.recording(tmp_path, kind):
            answer(automatic, kind)
        assert not passes
