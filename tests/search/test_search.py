"""The head search: exact scores, estimates, selection, documents, what is on disk, and the command."""

import copy
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.models import random_ids
from helpers.processes import run_program, run_programs
from helpers.search import evaluator, labelled_documents, naive_scores, plain_documents, random_documents
from helpers.thorough import some, thorough
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from act_eval.attention.act import ACT
from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.tasks import TaskError, load_tasks
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.profiles import HeadProfile
from act_eval.search import run, units
from act_eval.search.documents import CalibrationDocument, calibration_split, load_documents
from act_eval.search.evaluate import HeadEvaluator
from act_eval.search.exact import HeadScores
from act_eval.search.heads import SearchSpace, profile_from_heads
from act_eval.search.identity import SearchIdentity
from act_eval.search.objective import LabelPriors
from act_eval.search.resume_at_layer import DecoderLayers
from act_eval.search.run import run_search
from act_eval.search.scores import Scores
from act_eval.search.screening import screen_heads
from act_eval.search.selection import ROUNDS, HalvingPlan, choose_head_set, head_set_sizes, plan_halving, survivors
from act_eval.search.settings import SearchSettings
from act_eval.search.stages import EstimatedHeads
from act_eval.search.store import UnitStore

pytestmark = pytest.mark.tier("model")

DEMO_TASKS = ("demo_sentiment", "demo_topic", "demo_choice")


@pytest.fixture(scope="module")
def demo_lm():
    return ACTLM(act_profile="none", dtype="float32", device="cpu")


@pytest.fixture
def gqa_lm(gqa_model):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    return ACTLM(pretrained=gqa_model, tokenizer=tokenizer, act_profile="none", device="cpu")


def demo_documents(lm, demo_tasks, limit=4, **settings):
    tasks = {name: task for name in DEMO_TASKS for name, task in load_tasks(name, demo_tasks).items()}
    return load_documents(lm, tasks, PromptSettings(DEMO_TASKS, limit, **settings))


def all_heads(lm):
    return [(layer, head) for layer in range(lm.config.num_hidden_layers) for head in range(lm.config.num_attention_heads)]


class TestExactScores:
    @pytest.fixture(autouse=True)
    def _passes_are_resumed(self, caplog, request):
        """No test is about the fallback to whole passes, which would hide mistakes, but one."""
        yield
        warned = any("cannot be resumed" in record.getMessage() for record in caplog.get_records("call"))
        assert warned == ("cannot_be_resumed" in request.node.name)

    def assert_equal_naive(self, lm, act, documents, heads, batch_size=8):
        scores = evaluator(lm, act, batch_size=batch_size).score_heads(documents, heads)
        baseline_correct, baseline_margin = naive_scores(lm, act, documents, "none")
        assert scores.baseline.correct.tolist() == baseline_correct.tolist()
        np.testing.assert_allclose(scores.baseline.margin, baseline_margin, atol=1e-4)
        moved = 0
        for place, (layer, head) in enumerate(heads):
            correct, margin = naive_scores(lm, act, documents, HeadProfile({layer: (head,)}))
            assert scores.calibrated.correct[place].tolist() == correct.tolist(), (layer, head)
            np.testing.assert_allclose(scores.calibrated.margin[place], margin, atol=1e-4, err_msg=f"{layer}:{head}")
            moved += bool(np.abs(margin - baseline_margin).max() > 1e-3)
        assert moved >= len(heads) / 4
        return scores

    @pytest.mark.tier("slow")
    def test_embedded_model(self, demo_lm, demo_tasks):
        documents = demo_documents(demo_lm, demo_tasks)
        heads = some(all_heads(demo_lm), 8)
        scores = self.assert_equal_naive(demo_lm, ACT("none", alpha=5), documents, heads)
        assert scores.cost < 0.6 * len(heads) * scores.baseline_cost

    @pytest.mark.tier("slow")
    @pytest.mark.parametrize(
        ("decode", "own_contexts"), [("prefill", False), ("row", True), *thorough(("prefill", True), ("row", False))]
    )
    def test_grouped_query_model_with_longer_choices(self, gqa_lm, decode, own_contexts):
        act = ACT("none", beta=0.1, threshold=0.04, decode=decode)
        self.assert_equal_naive(gqa_lm, act, random_documents(5, 1, own_contexts), all_heads(gqa_lm)[::3])

    @pytest.mark.tier("slow")
    def test_greedy_is_greedy_in_every_token(self, gqa_lm):
        documents = []
        for seed in range(4):
            context = random_ids(30, seed=seed)
            greedy = gqa_lm.model.generate(context, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)[
                0, 30:
            ]
            for tokens in (greedy, torch.cat([greedy[:2], (greedy[2:] + 1) % 128])):
                documents.append(CalibrationDocument("words", ((tuple(context[0].tolist()), tuple(tokens.tolist())),), ()))
        scores = self.assert_equal_naive(gqa_lm, ACT("none", beta=0.1, threshold=0.04), documents, all_heads(gqa_lm)[::5])
        assert scores.baseline.correct.tolist() == [True, False] * 4

    @pytest.mark.tier("slow")
    def test_batch_size_changes_nothing(self, gqa_lm):
        act, documents, heads = ACT("none", threshold=0.04), random_documents(4, 2), all_heads(gqa_lm)[::5]
        results = [evaluator(gqa_lm, act, batch_size=size).score_heads(documents, heads) for size in (1, 3, 64)]
        for other in results[1:]:
            np.testing.assert_allclose(other.calibrated.margin, results[0].calibrated.margin, atol=1e-4)

    @pytest.mark.tier("slow")
    def test_sliding_window(self):
        from transformers import MistralConfig, MistralForCausalLM

        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=16,
        )  # fmt: skip
        model = MistralForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data *= 20
            layer.self_attn.k_proj.weight.data *= 20
        lm = ACTLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(MODEL_PATH), act_profile="none", device="cpu")
        self.assert_equal_naive(lm, ACT("none", beta=0.1, threshold=0.06), random_documents(5, 3), all_heads(lm))

    @pytest.mark.tier("slow")
    def test_a_model_that_cannot_be_resumed_runs_whole_passes(self, gqa_lm, monkeypatch):
        def resume_wrongly(self, start_layer, hidden, recording, original=DecoderLayers.resume_at):
            return original(self, start_layer, hidden + 1, recording)

        monkeypatch.setattr(DecoderLayers, "resume_at", resume_wrongly)
        act, documents, heads = ACT("none", threshold=0.04), random_documents(3, 4), all_heads(gqa_lm)[::7]
        self.assert_equal_naive(gqa_lm, act, documents, heads)

    def test_the_model_is_left_as_it_was(self, gqa_lm):
        documents, ids = random_documents(2, 5), random_ids(30, seed=1)
        before = gqa_lm.model(ids).logits
        worker = evaluator(gqa_lm, ACT("none", threshold=0.04))
        worker.score_heads(documents, all_heads(gqa_lm)[::9])
        worker.estimate(documents)
        assert torch.equal(gqa_lm.model(ids).logits, before)
        assert all(parameter.requires_grad for parameter in gqa_lm.model.parameters())
        assert not any("forward" in vars(module) for module in gqa_lm.model.modules())


@pytest.mark.tier("slow")
class TestEstimates:
    @pytest.mark.parametrize("decode", ["prefill", "row"])
    def test_are_the_slope_at_beta_1(self, gqa_model, decode):
        """With beta near 1 calibration is a small step, which a first-order estimate gets right."""
        model = copy.deepcopy(gqa_model).double()
        lm = ACTLM(
            pretrained=model,
            tokenizer=AutoTokenizer.from_pretrained(MODEL_PATH),
            act_profile="none",
            softmax_dtype=torch.float64,
        )
        act = ACT("none", beta=0.99, threshold=0.04, decode=decode)
        worker, documents, heads = evaluator(lm, act), random_documents(4, 6), all_heads(lm)
        exact = worker.score_heads(documents, heads)
        change = exact.calibrated.margin - exact.baseline.margin
        estimates = worker.estimate(documents)
        estimated = estimates.margin_change.reshape(len(heads), -1)
        np.testing.assert_allclose(estimated, change, rtol=0.05, atol=0.01 * np.abs(change).max())
        assert np.abs(change).max() > 0
        affected = estimates.affected.reshape(len(heads), -1)
        assert not change[~affected].any()
        assert affected.any()
        assert decode == "row" or not affected.all()

    def test_beside_calibrated_heads_are_what_each_adds_to_the_others(self, gqa_model):
        """Small steps again; the reference is whole evaluations of the set with each head more, or less."""
        model = copy.deepcopy(gqa_model).double()
        tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
        lm = ACTLM(pretrained=model, tokenizer=tokenizer, act_profile="none", softmax_dtype=torch.float64)
        act, documents = ACT("none", beta=0.98, threshold=0.04), random_documents(3, 6)
        worker, calibrated = evaluator(lm, act), {(1, 0), (1, 5), (3, 2), (4, 6)}
        found = worker.estimate(documents, profile_from_heads(sorted(calibrated)))
        together, _ = worker.score_profile(documents, profile_from_heads(sorted(calibrated)))
        np.testing.assert_allclose(found.scores.margin, together.margin)
        expected, estimated = [], []
        for head in [*sorted(calibrated), (0, 3), (1, 1), (2, 7), (3, 3), (4, 0), (5, 5)]:
            with_head, _ = worker.score_profile(documents, profile_from_heads(sorted(calibrated | {head})))
            without, _ = worker.score_profile(documents, profile_from_heads(sorted(calibrated - {head})))
            expected.append(with_head.margin - without.margin)
            estimated.append(found.margin_change[head])
        np.testing.assert_allclose(estimated, expected, rtol=0.05, atol=0.02 * np.abs(expected).max())
        assert np.abs(expected).max() > 1e-5

    def test_of_corrected_margins_add_up_to_the_change_of_their_sum(self, gqa_model):
        """Documents with the same three choices, whose prior each of them changes."""
        model = copy.deepcopy(gqa_model).double()
        tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
        lm = ACTLM(pretrained=model, tokenizer=tokenizer, act_profile="none", softmax_dtype=torch.float64)
        documents, heads = labelled_documents(5, 8), all_heads(lm)
        worker = evaluator(lm, ACT("none", beta=0.99, threshold=0.04))
        priors = LabelPriors.of_search("corrected-margin", documents)
        exact = worker.score_heads(documents, heads)
        before, after = (priors.correct(documents, found) for found in (exact.baseline, exact.calibrated))
        change = (after.margin - before.margin).sum(-1)
        slopes = priors.slopes(documents, exact.baseline.log_probs)
        estimated = worker.estimate(documents, slopes=slopes).margin_change.reshape(len(heads), -1).sum(-1)
        np.testing.assert_allclose(estimated, change, rtol=0.05, atol=0.01 * np.abs(change).max())
        plain = (exact.calibrated.margin - exact.baseline.margin).sum(-1)
        assert np.abs(change - plain).max() > 0.2 * np.abs(plain).max(), "priors matter here"

    def test_baseline_scores_and_cost(self, gqa_lm):
        documents = random_documents(4, 7)
        act = ACT("none", threshold=0.04)
        estimates = evaluator(gqa_lm, act).estimate(documents)
        correct, margin = naive_scores(gqa_lm, act, documents, "none")
        assert estimates.scores.correct.tolist() == correct.tolist()
        np.testing.assert_allclose(estimates.scores.margin, margin, atol=1e-4)
        assert estimates.cost == 3 * estimates.full_pass


class TestSearchSpace:
    def test_all_layers_but_the_first_two_and_the_last(self, gqa_model):
        config = copy.deepcopy(gqa_model.config)
        space = SearchSpace.from_config(config, None)
        assert space.layers == tuple(range(2, config.num_hidden_layers - 1))
        assert space.heads == [(layer, head) for layer in space.layers for head in range(config.num_attention_heads)]
        config.num_hidden_layers = 3
        with pytest.raises(InputError, match="layers must be given, such as all: the model has 3 layers"):
            SearchSpace.from_config(config, None)
        assert SearchSpace.from_config(config, "all").layers == (0, 1, 2)


class TestMode:
    @pytest.mark.parametrize(
        ("mode", "selection", "heads", "found"),
        [
            ("auto", "validated", 64, "exact"),
            ("auto", "improving", 65, "screened"),
            ("auto", "validated", 65, "estimated"),
            ("exact", "validated", 65, "exact"),
            ("estimated", "validated", 2, "estimated"),
        ],
    )
    def test_auto_goes_by_the_number_of_heads_and_the_selection(self, mode, selection, heads, found):
        settings = SearchSettings(
            ModelSettings({"act_alpha": 5}, batch_size=2), PromptSettings(("a",)), None, mode, 0.1, selection
        )
        assert SearchIdentity(settings, SearchSpace((0,), 1, heads), {}, "", {}).mode == found


class ScreenedStages:
    """Scores of noise: no head can be told from another. No head affects the documents `unaffected`."""

    def __init__(self, space, documents, unaffected):
        self.priors, self._space, self._rng = LabelPriors(), space, np.random.default_rng(0)
        self._affected = np.ones((len(space.heads), documents), dtype=bool)
        self._affected[:, unaffected] = False
        self._done = 0

    def estimate_heads(self, documents):
        return EstimatedHeads(np.zeros(self._affected.shape), self._affected, 3.0, float(len(documents)))

    def score_heads(self, name, documents, heads, text):
        numbers = [self._space.heads.index(head) for head in heads]
        affected = self._affected[numbers][:, self._done : self._done + len(documents)]
        self._done += len(documents)
        margin = np.where(affected, self._rng.normal(size=affected.shape), 0.0)
        costs = (1 - np.array([layer for layer, _ in heads]) / self._space.num_layers) @ affected
        baseline = Scores(np.zeros(len(documents), dtype=bool), np.zeros(len(documents)))
        scores = HeadScores(baseline, Scores(margin > 0, margin), len(documents) + costs.sum(), len(documents))
        return np.arange(len(documents)), scores


class TestSelection:
    @given(st.lists(st.floats(0.01, 1), min_size=1, max_size=60), st.floats(0.1, 20))
    def test_the_plan_keeps_to_the_budget(self, costs, budget):
        costs = np.array(costs)
        plan = plan_halving(range(len(costs)), costs, budget)
        spent = sum(share * costs[:number].sum() for (share, _), number in zip(ROUNDS, plan.heads_per_round, strict=True))
        assert spent <= budget or plan.heads_per_round[0] == 1
        assert list(plan.heads_per_round) == sorted(plan.heads_per_round, reverse=True)

    @given(st.integers(0, 10**6), st.floats(0.5, 20))
    def test_survivors_hold_the_best_and_keep_to_the_budget(self, seed, budget):
        rng = np.random.default_rng(seed)
        costs = rng.uniform(0.05, 1, 40)
        plan = plan_halving(range(40), costs, budget)
        entering = list(range(plan.heads_per_round[0]))
        changes = rng.normal(size=(len(entering), 12))
        spent = ROUNDS[0][0] * costs[entering].sum()
        kept = survivors(entering, changes, plan, 1, spent)
        best = [entering[place] for place in np.argsort(-changes.mean(-1))[: plan.heads_per_round[1]]]
        assert kept[: len(best)] == best
        assert len(set(kept)) == len(kept)
        doubtful = kept[plan.heads_per_round[1] :]  # which may stay to the end
        spent += ROUNDS[1][0] * costs[kept].sum()
        spent += ROUNDS[2][0] * (costs[kept[: plan.heads_per_round[2]]].sum() + costs[doubtful].sum())
        assert spent <= budget + 1e-9 or not doubtful

    def test_a_head_that_is_clearly_worse_is_dropped_and_one_that_may_be_better_is_kept(self):
        plan = HalvingPlan((4, 2, 1), np.full(4, 0.1), 0.4)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=30)
        other = rng.normal(size=30)
        doubtful = 4 * (other - other.mean()) + noise.mean() + 0.85
        changes = np.stack([noise + 1, noise + 0.9, doubtful, noise + 0.5 + 0.01 * other])
        assert survivors([0, 1, 2, 3], changes, plan, 1, 0.1) == [0, 1, 2]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("unaffected", [slice(0), slice(0, 8), slice(8, 16), slice(0, 16)])
    def test_screening_keeps_to_the_budget_also_where_a_round_affects_no_head(self, unaffected):
        documents, space, budget = plain_documents(32), SearchSpace((0,), 1, 40), 0.3
        stages = ScreenedStages(space, len(documents), unaffected)
        costs = screen_heads(stages, space, documents, budget).costs
        baseline = costs.full_pass  # each document is in one round
        assert 0 < costs.exact - baseline <= budget * len(space.heads) * costs.full_pass

    def test_sizes_of_head_sets(self):
        assert head_set_sizes(0) == [0]
        assert head_set_sizes(1) == [0, 1]
        assert head_set_sizes(4) == [0, 1, 2, 4]
        assert head_set_sizes(5) == [0, 1, 2, 4, 5]

    def test_the_smallest_head_set_that_is_as_good_as_the_best_is_chosen(self):
        noise, every = np.random.default_rng(0).normal(size=20), np.ones(4, dtype=bool)
        right = lambda count: np.arange(20) < count  # noqa: E731
        correct = np.stack([right(10), right(18), right(18), right(12)])
        slightly_different = np.stack([noise, noise, noise + 0.1 * noise[::-1], noise])
        assert choose_head_set(correct, slightly_different, every) == 1
        assert choose_head_set(correct, np.stack([noise, noise, noise + 0.1, noise]), every) == 2
        assert choose_head_set(correct[::-1], np.stack([noise] * 4), every) == 1
        assert choose_head_set(correct[:1], noise[None], every[:1]) == 0

    def test_only_supported_head_sets_are_chosen(self):
        noise = np.random.default_rng(0).normal(size=20)
        correct = np.stack([np.arange(20) < count for count in (10, 18, 18, 12)])
        margin = np.stack([noise] * 4)
        assert choose_head_set(correct, margin, np.array([False, False, True, True])) == 2
        assert choose_head_set(correct, margin, np.array([False, False, False, True])) == 3
        assert choose_head_set(correct, margin, np.zeros(4, dtype=bool)) is None


@pytest.mark.tier("slow")
class TestDocuments:
    def test_are_training_documents_as_lm_eval_renders_them(self, demo_lm, demo_tasks):
        documents = demo_documents(demo_lm, demo_tasks, limit=5)
        assert [document.task for document in documents] == [name for name in DEMO_TASKS for _ in range(5)]
        (task,) = load_tasks("demo_topic", demo_tasks).values()
        train = {tuple(demo_lm.tok_encode(task.config.description + task.doc_to_text(doc))) for doc in task.training_docs()}
        for document in documents:
            if document.task == "demo_topic":
                assert {context for context, _ in document.requests} <= train
                assert len(document.gold) == 1

    def test_gold_is_what_the_task_counts_as_right(self, demo_lm, demo_tasks):
        (task,) = load_tasks("demo_choice", demo_tasks).values()
        documents = demo_documents(demo_lm, demo_tasks, limit=6)
        by_prompt = {demo_lm.tok_decode(list(doc.requests[0][0])): doc for doc in documents if doc.task == "demo_choice"}
        checked = 0
        for doc in task.training_docs():
            document = by_prompt.get(task.config.description + task.doc_to_text(doc))
            if document is not None:
                assert document.gold == (doc["label"],)
                checked += 1
        assert checked == 6

    def test_documents_of_the_evaluation_split_are_left_out(self, demo_lm, demo_tasks):
        (task,) = load_tasks("demo_topic", demo_tasks).values()
        task.dataset["test"] = task.dataset["train"].select(range(490))
        documents = load_documents(demo_lm, {"demo_topic": task}, PromptSettings((), seed=1))
        assert len(documents) == 10

    @pytest.mark.tier("slow")
    def test_the_seed_draws_the_examples(self, demo_lm, demo_tasks):
        def contexts(seed, shots):
            (task,) = load_tasks("demo_sentiment", demo_tasks).values()
            task.dataset["train"] = task.dataset["train"].select(range(30))
            task.sampler.replace_df(list(task.dataset["train"]))
            documents = load_documents(demo_lm, {"demo_sentiment": task}, PromptSettings((), seed=seed, num_fewshot=shots))
            return [document.requests[0][0] for document in documents]

        assert contexts(1, 0) == contexts(2, 0)
        assert contexts(1, 2) == contexts(1, 2)
        assert contexts(1, 2) != contexts(2, 2)

    def test_few_shot_examples_do_not_hold_the_document_itself(self, demo_lm, demo_tasks):
        (task,) = load_tasks("demo_topic", demo_tasks).values()
        task.dataset["train"] = task.dataset["train"].select(range(4))
        task.sampler.replace_df(list(task.dataset["train"]))
        documents = load_documents(demo_lm, {"demo_topic": task}, PromptSettings((), 4, seed=1, num_fewshot=3))
        texts = [task.doc_to_text(doc) for doc in task.training_docs()]
        for document in documents:
            prompt = demo_lm.tok_decode(list(document.requests[0][0]))
            assert [prompt.count(text) for text in texts] == [1, 1, 1, 1]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"training_split": None}, "no split besides"),
            ({"training_split": "test"}, "no split besides"),
            ({"output_type": "generate_until"}, "generate_until"),
        ],
    )
    def test_refused(self, demo_tasks, changes, words):
        (task,) = load_tasks("demo_topic", demo_tasks).values()
        for key, value in changes.items():
            task.set_config(key, value)
        with pytest.raises(TaskError, match=words):
            calibration_split(task)

    def test_validation_split_where_there_is_no_training_split(self, demo_tasks):
        (task,) = load_tasks("demo_topic", demo_tasks).values()
        task.set_config("training_split", None)
        task.set_config("validation_split", "train")
        assert calibration_split(task) == "train"


@pytest.mark.tier("unit")
class TestStore:
    def test_round_trip_and_half_written_files(self, tmp_path):
        store = UnitStore.open(tmp_path / "new" / "folder", {"seed": 1}, 0)
        assert store.load("unit-0") is None
        arrays = {"margin": np.arange(6.0).reshape(2, 3)}
        store.save("unit-0", arrays)
        np.testing.assert_array_equal(store.load("unit-0")["margin"], arrays["margin"])
        file = tmp_path / "new" / "folder" / "units" / "unit-0.npz"
        file.write_bytes(file.read_bytes()[:100])
        assert store.load("unit-0") is None

    def test_nothing_is_unpickled(self, tmp_path):
        store = UnitStore.open(tmp_path, {}, 0)
        np.savez(tmp_path / "units" / "unit-0.npz", margin=np.array([{"a": 1}], dtype=object))
        loaded = store.load("unit-0")
        assert loaded is None

    def test_another_search_is_set_aside_with_the_difference(self, tmp_path, caplog):
        first = {"act": {"beta": 0.4}, "layers": [1, 2]}
        UnitStore.open(tmp_path, first, 0).save("unit-0", {"margin": np.ones(1)})
        assert UnitStore.open(tmp_path, {"act": {"beta": 0.4}, "layers": (1, 2)}, 0).load("unit-0") is not None
        assert caplog.messages == []
        assert UnitStore.open(tmp_path, {"act": {"beta": 0.2}, "layers": [1, 2]}, 0).load("unit-0") is None
        assert "the work begins anew, since this has changed: act.beta (0.4; now 0.2)." in caplog.text
        assert UnitStore.open(tmp_path, first, 0).load("unit-0") is not None

    def test_unwritable_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write to"):
            UnitStore.open(tmp_path / "file" / "folder", {}, 0)

    def test_full_disk(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 2**21, 2**21))
        UnitStore.open(tmp_path, {}, 2**20)
        with pytest.raises(InputError, match="2 MiB free, but the search needs about 3 MiB"):
            UnitStore.open(tmp_path, {}, 3 * 2**20)


SEARCH = ["--tasks", "demo_sentiment,demo_topic", "--limit", "8", "--batch-size", "8", "--device", "cpu", "--layers", "1-3"]
MODEL_ARGS = ["--model-args", "act_alpha=5,dtype=float32"]
SCREENED = ("--mode", "screened", "--budget", "0.05")
ESTIMATED = ("--mode", "estimated", "--objective", "corrected-margin")
TABLES = ("profile.json", "heads.csv")
WRITTEN = (*TABLES, "heads.png", "heads.svg")


def search(output, *extra):
    result = CliRunner().invoke(cli.app, ["search", *SEARCH, *MODEL_ARGS, "-o", str(output), *extra])
    if result.exception:
        raise result.exception
    return result.output


def assert_same_files(left, right, names=WRITTEN):
    for name in names:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("search")
    search(output, *SCREENED)
    return output


@pytest.mark.tier("slow")
class TestCommand:
    def test_writes_a_profile_that_act_hf_takes(self, finished):
        profile = HeadProfile.load(finished / "profile.json")
        lm = ACTLM(act_profile=str(finished / "profile.json"), device="cpu")
        assert lm.profile.content_hash == profile.content_hash
        assert profile.settings["alpha"] == 5
        assert profile.provenance["tasks"] == {"demo_sentiment": "train", "demo_topic": "train"}
        assert profile.provenance["documents"] == {"search": 8, "validation": 8}

    def test_units_have_the_names_and_arrays_that_earlier_searches_go_on_from(self, finished):
        found = {}
        for file in (finished / "units").glob("*.npz"):
            name = r"(estimate|exact[012]|resuming|union\d+-[0-9a-f]{16})-\d+"
            stage = re.fullmatch(name, file.stem).group(1).partition("-")[0]
            with np.load(file) as arrays:
                found[stage.rstrip("0123456789")] = {name: array.ndim for name, array in arrays.items()}
        assert found == {
            "estimate": {"margin_change": 3, "affected": 3, "cost": 0, "plain_cost": 0},
            "exact": {"correct": 2, "margin": 2, "cost": 0, "plain_cost": 0},
            "resuming": {"error": 0},
            "union": {"correct": 1, "margin": 1, "cost": 0},
        }

    def test_table_has_every_head(self, finished):
        table = pd.read_csv(finished / "heads.csv")
        assert list(zip(table["layer"], table["head"], strict=True)) == [
            (layer, head) for layer in (1, 2, 3) for head in range(8)
        ]
        assert table["estimate"].notna().all()
        scored = table["documents"] == 8
        assert 0 < scored.sum() < len(table)
        assert table.loc[scored, ["accuracy_change", "margin_change", "margin_change_demo_topic"]].notna().all(axis=None)
        assert table.loc[table["documents"] == 0, "margin_change"].isna().all()

    def test_a_finished_search_computes_nothing(self, finished, tmp_path, monkeypatch):
        copied = tmp_path / "copied"
        shutil.copytree(finished, copied)
        for name in (*WRITTEN, "units/resuming-0.npz"):  # which searches of earlier versions do not have
            (copied / name).unlink()
        for method in ("score_heads", "estimate", "score_profile"):
            monkeypatch.setattr(HeadEvaluator, method, None)
        search(copied, *SCREENED)
        assert_same_files(finished, copied)

    def test_goes_on_from_units_that_an_earlier_version_finished(self, finished, tmp_path):
        """Which found out anew in every run whether passes can be resumed at a layer."""
        copied = tmp_path / "copied"
        shutil.copytree(finished, copied)
        for file in [*copied.glob("units/exact[12]-*.npz"), *copied.glob("units/union*.npz"), copied / "units/resuming-0.npz"]:
            file.unlink()
        kept = {file.name: file.stat().st_mtime_ns for file in copied.glob("units/*.npz")}
        search(copied, *SCREENED)
        assert kept.items() <= {file.name: file.stat().st_mtime_ns for file in copied.glob("units/*.npz")}.items()
        assert_same_files(finished, copied, sorted(str(file.relative_to(finished)) for file in finished.rglob("*.*")))

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            (["--seed", "2"], "documents ("),
            (["--model-args", "act_alpha=3,dtype=float32"], "act.alpha (5; now 3)"),
            *thorough(
                (["--layers", "1-2"], "layers ("),
                (["--batch-size", "9"], "batch_size (8; now 9)"),
                (["--selection", "improving"], "selection (validated; now improving)"),
            ),
        ],
    )
    @pytest.mark.usefixtures("without_plots")
    def test_changed_settings_begin_anew_and_nothing_is_lost(self, finished, tmp_path, monkeypatch, caplog, extra, words):
        output, fresh = tmp_path / "output", tmp_path / "fresh"
        shutil.copytree(finished, output)
        search(output, *SCREENED, *extra)
        assert words in caplog.text
        search(fresh, *SCREENED, *extra)
        assert_same_files(output, fresh, TABLES)
        for method in ("score_heads", "estimate", "score_profile"):
            monkeypatch.setattr(HeadEvaluator, method, None)
        search(output, *SCREENED)
        assert_same_files(finished, output)

    @pytest.mark.usefixtures("without_plots")
    def test_changed_weights_begin_anew(self, tmp_path, caplog):
        """Here one number of one matrix."""
        model = AutoModelForCausalLM.from_pretrained(MODEL_PATH)
        AutoTokenizer.from_pretrained(MODEL_PATH).save_pretrained(tmp_path / "model")
        arguments = (*SCREENED, "--limit", "2", "--model-args", f"pretrained={tmp_path / 'model'},act_alpha=5,dtype=float32")
        model.save_pretrained(tmp_path / "model")
        search(tmp_path / "search", *arguments)
        model.lm_head.weight.data[7, 3] += 1
        model.save_pretrained(tmp_path / "model")
        search(tmp_path / "search", *arguments)
        assert re.search(r"has changed: model.weights \(\w{16}; now \w{16}\)", caplog.text)
        assert len(list(tmp_path.glob("search/earlier-*/profile.json"))) == 1

    @pytest.mark.tier("model")
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--mode", "quick"], "--mode 'quick'"),
            (["--selection", "best"], "--selection 'best'"),
            (["--objective", "loss"], "--objective 'loss'"),
            (["--objective", "accuracy", "--mode", "estimated"], "--objective accuracy goes by exact scores"),
            (["--mode", "estimated", "--selection", "improving"], "--selection improving goes by exact accuracies"),
            (["--selection", "top-k"], "--k"),
            (["--k", "3"], "--k"),
            (["--limit", "0"], "--limit"),
            (["--budget", "0"], "--budget"),
            (["--layers", "some"], "--layers 'some'"),
            (["--tasks", ""], "no task was named"),
            (["--model-args", "act_profile=all"], "act_profile"),
            (["--model-args", "act_head_share=0.5"], "act_head_share does not go with a search"),
            (["--model-args", "act_beta=1"], "act_beta=1 changes nothing"),
            (["--model-args", "act_method=temperature,act_theta=1"], "act_theta=1 changes nothing"),
            (["--model-args", "act_gamma=1"], "takes beta, not gamma"),
            (["--tasks", "act_squad_v1"], "act_squad_v1"),
        ],
    )
    def test_bad_input_before_the_model_is_loaded(self, tmp_path, monkeypatch, arguments, words):
        monkeypatch.setattr(ACTLM, "__init__", None)
        with pytest.raises(InputError, match=words):
            search(tmp_path, *arguments)

    def test_by_estimates_of_corrected_margins(self, tmp_path, monkeypatch):
        """Two of the tasks have labels; choices of the third are its documents' own."""
        tasks = ("--tasks", ",".join(DEMO_TASKS), "--limit", "12")
        said = search(tmp_path, *ESTIMATED, *tasks)
        assert "24 heads were estimated" in said
        assert re.search(r"No head was chosen|heads were chosen", said)
        table = pd.read_csv(tmp_path / "heads.csv")
        assert table[["estimate", "estimate_together", "with_sinks"]].notna().all(axis=None)
        assert {"accuracy_change", "margin_change"} <= set(table.columns)
        sets = pd.read_csv(tmp_path / "heads_together.csv")
        assert {"heads", "chosen", "p_value", "accuracy_low", "accuracy_high", "plain_accuracy_change"} <= set(sets.columns)
        assert sets["chosen"].sum() == 1
        profile = HeadProfile.load(tmp_path / "profile.json")
        assert profile.provenance["mode"] == "estimated"
        assert profile.provenance["objective"] == "corrected-margin"
        assert profile.provenance["evidence"]["documents"] == 18
        assert profile.provenance["full_passes"]["total"] <= 13
        with np.load(next(tmp_path.glob("units/*union0-*.npz"))) as arrays:
            assert arrays["log_probs"].shape[0] == 4
        finished = {name: (tmp_path / name).read_bytes() for name in (*WRITTEN, "heads_together.csv")}
        for name in finished:
            (tmp_path / name).unlink()
        for method in ("score_heads", "estimate", "score_profile"):
            monkeypatch.setattr(HeadEvaluator, method, None)
        search(tmp_path, *ESTIMATED, *tasks)
        assert finished == {name: (tmp_path / name).read_bytes() for name in finished}

    def test_an_empty_profile_is_the_baseline_and_cannot_be_compared(self, tmp_path):
        (tmp_path / "profile.json").write_text(HeadProfile({}, provenance={"source": "act-eval search"}).to_json())
        lm = ACTLM(act_profile=str(tmp_path / "profile.json"), device="cpu")
        assert lm.profile.size == 0
        arguments = ["--tasks", "demo_topic", "--limit", "2", "--model-args", f"act_profile={tmp_path / 'profile.json'}"]
        result = CliRunner().invoke(cli.app, ["compare", *arguments, "-o", str(tmp_path / "compare")])
        assert isinstance(result.exception, InputError)
        assert "search on more documents if it is of a search that found evidence for none" in str(result.exception)

    @pytest.mark.parametrize("limit", ["2", "3"])
    def test_few_documents(self, tmp_path, limit):
        search(tmp_path, "--mode", "screened", "--budget", "0.5", "--limit", limit)
        table = pd.read_csv(tmp_path / "heads.csv")
        assert (table["documents"] == table["documents"].max()).any()
        assert table["documents"].max() == int(limit)

    def test_selections(self, tmp_path):
        model = ModelSettings({"act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=8)
        settings = {"model": model, "prompts": PromptSettings(("demo_topic",), limit=6)}
        result = run_search(SearchSettings(**settings, layers="1-2", selection="top-k", k=3), tmp_path / "top")
        best = result.heads.sort_values("margin_change", ascending=False).head(3)
        assert {(layer, head) for layer, heads in result.profile.heads.items() for head in heads} == set(
            zip(best["layer"], best["head"], strict=True)
        )
        result = run_search(SearchSettings(**settings, layers="1-2", selection="improving"), tmp_path / "improving")
        improving = result.heads[result.heads["accuracy_change"] > 0]
        assert {(layer, head) for layer, heads in result.profile.heads.items() for head in heads} == set(
            zip(improving["layer"], improving["head"], strict=True)
        )

    @pytest.mark.tier("process")
    def test_python_m(self):
        answer = subprocess.run(
            [sys.executable, "-m", "act_eval", "search", "--help"], capture_output=True, text=True, check=True
        )
        assert "Find the heads" in answer.stdout


def test_each_process_takes_its_share(demo_lm, tmp_path, monkeypatch):
    model, prompts = ModelSettings({"act_alpha": 5}, batch_size=2), PromptSettings(DEMO_TASKS, limit=8)
    settings = SearchSettings(model, prompts, mode="exact", selection="improving")
    processes = SimpleNamespace(is_main_process=False, main_process_first=nullcontext)
    monkeypatch.setattr(run, "shared_processes", lambda: processes)
    monkeypatch.setattr(demo_lm, "_rank", 1)
    monkeypatch.setattr(demo_lm, "_world_size", 3)
    monkeypatch.setattr(LMWithoutWeights, "with_weights", lambda _: demo_lm)
    shares = []

    def gather(parts):
        shares.append([sorted(part) for part in parts])
        raise InterruptedError

    monkeypatch.setattr(units, "gather_object", gather)
    with pytest.raises(InterruptedError):
        run_search(settings, tmp_path / "search")
    assert shares == [[[1, 4, 7, 10]]]
    assert len(list((tmp_path / "search" / "units").glob("exact-*.npz"))) == 4


@pytest.mark.tier("process")
@pytest.mark.parametrize("mode", [SCREENED, ESTIMATED], ids=["screened", "estimated"])
def test_two_processes_give_the_same(tmp_path, mode):
    command = ["search", *SEARCH, *MODEL_ARGS, *mode]
    results = [run_program(*command, "-o", tmp_path / "one"), *run_programs(2, *command, "-o", tmp_path / "two")]
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert_same_files(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("one", "two"))
    assert one == two
