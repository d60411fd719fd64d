"""What goes wrong in long runs: memory that runs out, logits that are not numbers."""

import logging
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from act_eval.harness.lm import ACTLM
from act_eval.harness.memory import halved, run_in_parts
from act_eval.harness.nonfinite import NonFiniteLogitsError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.search import run
from act_eval.search.passes import InfiniteMarginError
from act_eval.search.plan import plan_search
from act_eval.search.settings import SearchSettings
from act_eval.sinks import run as sinks
from act_eval.sinks.settings import SinksSettings
from act_eval.sinks.statistics import SinkStatistics

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_plots")]

TEXTS = [f"The {animal} is smaller than the {other} and" for animal in ("mouse", "cat") for other in ("horse", "cow", "dog")]
CHOICES = (" the", " the cat", " the cat is")
BAD_DOCUMENT = 2


@pytest.fixture(scope="module")
def lm():
    return ACTLM(act_profile="all", act_alpha=3, dtype="float32", device="cpu", batch_size=6)


def requests(kind):
    """Requests of six documents of a task."""
    arguments = {
        "loglikelihood": [(number, (text, choice)) for number, text in enumerate(TEXTS) for choice in CHOICES],
        "loglikelihood_rolling": [(number, (text,)) for number, text in enumerate(TEXTS)],
        "generate_until": [(number, (text, {"until": ["."], "max_gen_toks": 6})) for number, text in enumerate(TEXTS)],
    }
    return [Instance(kind, {}, values, 0, metadata=("some_task", number, 1)) for number, values in arguments[kind]]


KINDS = ["loglikelihood", "loglikelihood_rolling", "generate_until"]


def close(left, right):
    """Texts are equal, numbers to float tolerance."""
    return all(
        one == (other if isinstance(other, str) else pytest.approx(other, abs=1e-4))
        for one, other in zip(left, right, strict=True)
    )


class TestOutOfMemory:
    @pytest.fixture
    def small_memory(self, lm):
        """A model that fails as CUDA does when a batch has more than two texts; yields the sizes that it was given."""
        lm.scorer()  # tries once whether the model can be packed
        sizes = []

        def fail(module, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            packed = int((kwargs["position_ids"] == 0).sum()) if kwargs.get("position_ids") is not None else 1
            sizes.append(packed if len(ids) == 1 else len(ids))
            if sizes[-1] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        hook = lm.model.register_forward_pre_hook(fail, with_kwargs=True)
        yield sizes
        hook.remove()

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_batch_is_halved_and_answers_stay(self, lm, kind, request, caplog):
        expected = getattr(lm, kind)(requests(kind))
        sizes = request.getfixturevalue("small_memory")
        with caplog.at_level(logging.WARNING, logger="act_eval"):
            answers = getattr(lm, kind)(requests(kind))
        assert len(answers) == len(expected)
        assert close(answers, expected)
        assert sizes[0] == 6
        assert "A batch of 6 does not fit into memory: going on with 3." in caplog.text

    def test_the_smaller_size_is_kept(self, lm, small_memory):
        lm.loglikelihood(requests("loglikelihood"))
        assert [size for size in small_memory if size > 2] == [6, 3]

    def test_nothing_to_halve(self, lm):
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        assert [halved(error, size) for size in (6, 5, 2)] == [3, 3, 1]
        with pytest.raises(torch.OutOfMemoryError):
            halved(error, 1)
        with pytest.raises(RuntimeError, match="shape"):
            halved(RuntimeError("shape mismatch"), 8)

    def test_what_a_failed_run_held_is_free_before_the_next(self):
        held = []

        def run(items):
            assert all(reference() is None for reference in held)
            tensor = torch.zeros(3)
            held.append(weakref.ref(tensor))
            if len(items) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return list(items)

        assert run_in_parts(run, range(3)) == [[0], [1], [2]]
        assert len(held) == 5

    def test_other_errors_are_not_swallowed(self, lm):
        def fail(module, args):
            raise RuntimeError("shape mismatch")

        hook = lm.model.register_forward_pre_hook(fail)
        try:
            for kind in KINDS:
                with pytest.raises(RuntimeError, match="shape mismatch"):
                    getattr(lm, kind)(requests(kind))
        finally:
            hook.remove()


class TestSearch:
    """The same in a search for heads."""

    SETTINGS = SearchSettings(
        ModelSettings({"act_alpha": 5}, batch_size=8),
        PromptSettings(("demo_choice",), limit=4),
        layers="all",
        mode="exact",
        selection="top-k",
        k=2,
    )

    @pytest.fixture
    def searched_lm(self, monkeypatch):
        lm = ACTLM(act_profile="none", dtype="float32", device="cpu")
        monkeypatch.setattr(LMWithoutWeights, "with_weights", lambda _: lm)
        return lm

    def test_out_of_memory(self, searched_lm, tmp_path, caplog):
        expected = run.run_search(self.SETTINGS, tmp_path / "whole")
        rows = []

        def fail(module, args, kwargs):
            rows.append(len(kwargs["input_ids"]))
            if rows[-1] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        hook = searched_lm.model.register_forward_pre_hook(fail, with_kwargs=True)
        try:
            found = run.run_search(self.SETTINGS, tmp_path / "parts")
        finally:
            hook.remove()
        assert {4, 8} <= set(rows)
        assert "does not fit into memory" in caplog.text
        assert found.profile.heads == expected.profile.heads
        whole, parts = (
            sum(float(np.load(file)["plain_cost"]) for file in (tmp_path / name / "units").glob("exact*"))
            for name in ("whole", "parts")
        )
        assert 0.7 * whole < parts <= whole, "less padding alone makes parts cheaper"
        numbers = expected.heads.select_dtypes("number").columns
        np.testing.assert_allclose(found.heads[numbers], expected.heads[numbers], atol=1e-4)

    def test_non_finite_logits(self, searched_lm, tmp_path):
        hook = searched_lm.model.model.layers[1].register_forward_hook(lambda module, args, output: output * float("inf"))
        try:
            with pytest.raises(NonFiniteLogitsError, match=r"document of demo_choice that begins with .* beginning in layer 1"):
                run.run_search(self.SETTINGS, tmp_path)
        finally:
            hook.remove()

    @pytest.mark.filterwarnings("error:.*encountered:RuntimeWarning")
    @pytest.mark.parametrize("mode", ["exact", "estimated"])
    def test_choices_without_any_probability_are_no_trouble(self, searched_lm, tmp_path, caplog, mode):
        settings = replace(self.SETTINGS, objective="entropy", mode=mode)
        first = max(plan_search(settings).to_search, key=lambda document: document.length)  # resuming is tried on it
        (_, continuation), *_ = first.requests

        def forbid_a_choice(module, args, output):
            output[..., continuation[0]] = -torch.inf
            return output

        hook = searched_lm.model.lm_head.register_forward_hook(forbid_a_choice)
        try:
            found = run.run_search(settings, tmp_path)
        finally:
            hook.remove()
        assert "cannot be resumed" not in caplog.text
        assert np.isfinite(found.heads["estimate_together" if mode == "estimated" else "margin_change"]).all()

    @pytest.mark.parametrize("which", ["right", "others"])
    @pytest.mark.parametrize(
        ("objective", "mode"),
        [
            ("margin", "exact"),
            ("margin", "estimated"),
            ("margin", "screened"),
            ("corrected-margin", "exact"),
            ("accuracy", "exact"),
        ],
    )
    def test_margins_that_are_not_finite(self, searched_lm, tmp_path, objective, mode, which):
        """They would decide alone which heads are chosen."""
        settings = replace(self.SETTINGS, objective=objective, mode=mode)
        document = plan_search(settings).to_search[0]
        of_choices = [continuation[0] for _, continuation in document.requests]
        forbidden = [token for number, token in enumerate(of_choices) if (number in document.gold) == (which == "right")]

        def forbid(module, args, output):
            output[..., forbidden] = -torch.inf
            return output

        hook = searched_lm.model.lm_head.register_forward_hook(forbid)
        try:
            with pytest.raises(InfiniteMarginError, match=r"document of demo_choice that .* objective=entropy"):
                run.run_search(settings, tmp_path)
        finally:
            hook.remove()

    @pytest.mark.parametrize(("objective", "mode"), [("entropy", "exact"), ("entropy", "estimated"), ("margin", "exact")])
    def test_a_document_none_of_whose_choices_has_any_probability(self, searched_lm, tmp_path, objective, mode):
        def forbid_all_but_padding(module, args, output):
            output[..., 1:] = -torch.inf
            return output

        hook = searched_lm.model.lm_head.register_forward_hook(forbid_all_but_padding)
        try:
            with pytest.raises(NonFiniteLogitsError, match=r"document of demo_choice that .* beginning in the output layer"):
                run.run_search(replace(self.SETTINGS, objective=objective, mode=mode), tmp_path)
        finally:
            hook.remove()


class TestSinks:
    """The same where attention sinks are counted."""

    SETTINGS = SinksSettings(ModelSettings({"act_alpha": 5}, batch_size=5), PromptSettings(("demo_choice",), limit=5))

    @pytest.fixture
    def lm(self, monkeypatch):
        lm = ACTLM(act_profile="all", act_alpha=5, dtype="float32", device="cpu")
        monkeypatch.setattr(LMWithoutWeights, "with_weights", lambda _: lm)
        return lm

    @pytest.mark.tier("slow")
    def test_out_of_memory(self, lm, tmp_path, caplog):
        """In the third layer, when the first two have counted the batch already: nothing is counted twice."""
        sinks.run_sinks(self.SETTINGS, tmp_path / "whole")

        def fail(module, args, kwargs):
            if len(args[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        hook = lm.model.model.layers[2].register_forward_pre_hook(fail, with_kwargs=True)
        try:
            sinks.run_sinks(self.SETTINGS, tmp_path / "parts")
        finally:
            hook.remove()
        assert "A batch of 5 does not fit into memory: going on with 3." in caplog.text
        whole, parts = (SinkStatistics.load(tmp_path / name / "statistics_demo_choice.npz") for name in ("whole", "parts"))
        assert (parts.documents, parts.tokens) == (whole.documents, whole.tokens)
        for name in ("sinks", "received", "positions", "token_sinks", "before", "after"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-5)

    def test_non_finite_logits(self, lm, tmp_path):
        hook = lm.model.model.layers[1].register_forward_hook(lambda module, args, output: output * float("inf"))
        try:
            with pytest.raises(NonFiniteLogitsError, match=r"document of demo_choice that begins with .* beginning in layer 1"):
                sinks.run_sinks(self.SETTINGS, tmp_path)
        finally:
            hook.remove()
        assert not list(tmp_path.glob("*.npz"))


class TestNonFiniteLogits:
    @pytest.fixture(params=[0, 2])
    def bad_layer(self, lm, request):
        """A layer that overflows at the tokens of the bad document; yields its index."""
        layer, bad_tokens = request.param, lm.tok_encode(TEXTS[BAD_DOCUMENT])[:-1]
        bad = []

        def find_bad_tokens(module, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            bad.clear()
            if ids.shape[-1] >= len(bad_tokens):
                bad.extend((ids.unfold(-1, len(bad_tokens), 1) == torch.tensor(bad_tokens)).all(-1).nonzero().tolist())

        def overflow(module, args, output):
            for row, start in bad:
                output[row, start : start + len(bad_tokens)] = float("nan")

        hooks = [
            lm.model.register_forward_pre_hook(find_bad_tokens, with_kwargs=True),
            lm.model.model.layers[layer].mlp.register_forward_hook(overflow),
        ]
        yield layer
        for hook in hooks:
            hook.remove()

    @pytest.mark.parametrize("kind", KINDS)
    def test_document_and_layer_are_named(self, lm, kind, bad_layer):
        with pytest.raises(NonFiniteLogitsError) as stop:
            getattr(lm, kind)(requests(kind))
        assert str(stop.value).startswith(f"the model's logits for some_task, document {BAD_DOCUMENT} (")
        assert f"beginning in layer {bad_layer}: choose another dtype" in str(stop.value)

    def test_nothing_stays_on_the_model(self, lm, bad_layer):
        before = [len(module._forward_hooks) for module in lm.model.modules()]
        with pytest.raises(NonFiniteLogitsError):
            lm.loglikelihood(requests("loglikelihood"))
        assert [len(module._forward_hooks) for module in lm.model.modules()] == before
