"""Attention sinks made visible: statistics equal those of full attention maps, the figures and their data, the command."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.figures import overlapping
from helpers.models import LargestTensor, random_ids
from transformers import AutoTokenizer, BloomConfig, MistralConfig, MistralForCausalLM
from typer.testing import CliRunner

from act_eval.attention.act import ACT
from act_eval.attention.calibration import calibrate
from act_eval.attention.layer import MODULE_ATTRIBUTE
from act_eval.attention.limits import ComputeLimits
from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH, corpus
from act_eval.errors import InputError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.without_weights import LMWithoutWeights
from act_eval.methods.temperature import Temperature
from act_eval.methods.to_first_token import ToFirstToken
from act_eval.profiles import HeadProfile, ProfileError
from act_eval.sinks import SinkStatistics, collect, collect_task, plots, run, tables
from act_eval.sinks import documents as documents_module
from act_eval.sinks.settings import SinksSettings
from act_eval.sinks.statistics import MEAN_EDGES
from act_eval.sinks.store import StatisticsStore
from act_eval.sinks.write import token_text

pytestmark = pytest.mark.tier("model")

BINS = 12
LONG_NAMES = [f"mmlu_high_school_government_and_politics_{number}" for number in range(7)]
LENGTHS = (40, 9, 31, 12, 25)
SOME = HeadProfile({1: (0, 3), 2: (2,), 4: (1, 5, 6, 7)})
ACTS = [
    ACT(SOME, beta=0.3, threshold=0.06),
    ACT("all", alpha=2, keep="first-token"),
    ACT(SOME, threshold=0.06, method=ToFirstToken(0.2), sink_share=0.5),
    ACT(SOME, threshold=0.06, min_queries=7),
]
TASKS = "demo_sentiment,demo_topic"


@pytest.fixture(scope="module")
def documents():
    return [random_ids(length, seed)[0].tolist() for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def full_maps(gqa_model, documents):
    """The attention of each document from eager attention, float32 `[layers, heads, n, n]`."""
    return eager_maps(gqa_model, documents)


@torch.no_grad()
def eager_maps(model, documents):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    return [torch.cat(model(torch.tensor([ids]), output_attentions=True).attentions) for ids in documents]


def batches(documents, size=2, side="left"):
    for start in range(0, len(documents), size):
        some = documents[start : start + size]
        width = max(map(len, some))
        ids, mask = torch.full((len(some), width), 5), torch.zeros(len(some), width, dtype=torch.long)
        for row, document in enumerate(some):
            place = slice(width - len(document), None) if side == "left" else slice(len(document))
            ids[row, place], mask[row, place] = torch.tensor(document), 1
        yield {"input_ids": ids, "attention_mask": mask}


def by_position(maps, bins):
    """Maps `[..., n, n]` cut into n * bins fine parts, which are averaged (queries) and summed (keys) over each bin."""
    n = maps.shape[-1]
    fine = maps.repeat(bins, axis=-2).repeat(bins, axis=-1) / bins
    return fine.reshape(*maps.shape[:-2], bins, n, bins, n).mean(-3).sum(-1)


def expected(maps, documents, act, vocabulary, window=None):
    """All statistics from full maps, with numpy and loops."""
    num_layers, num_heads = maps[0].shape[:2]
    sums = {
        "sinks": np.zeros((num_layers, num_heads), int),
        "documents_with_sinks": np.zeros((num_layers, num_heads), int),
        "received": np.zeros((num_layers, num_heads, 3)),
        "mean_histogram": np.zeros((num_layers, num_heads, 3, len(MEAN_EDGES) - 1), int),
        "positions": np.zeros((num_layers, num_heads, BINS)),
        "token_sinks": np.zeros(vocabulary, int),
        "token_occurrences": np.zeros(vocabulary, int),
        "before": np.zeros((num_layers, BINS, BINS)),
        "after": np.zeros((num_layers, BINS, BINS)),
    }
    for weights, ids in zip(maps, documents, strict=True):
        n = len(ids)
        np.add.at(sums["token_occurrences"], ids[1:], 1)
        calibrated = weights.clone()
        for layer in range(num_layers):
            heads = list(range(num_heads)) if act.profile == "all" else list(act.profile.heads.get(layer, ()))
            names = ("method", "threshold", "alpha", "keep", "sink_share", "min_queries")
            settings = {name: getattr(act, name) for name in names}
            calibrated[layer, heads] = calibrate(weights[layer, heads], **settings)
            for head in range(num_heads):
                attention = weights[layer, head].double().numpy()
                found = False
                for key in range(n):
                    seen_by = n - key if window is None else min(n - key, window)
                    mean = attention[key:, key].sum() / seen_by
                    is_sink = key > 0 and mean > (act.threshold if act.alpha is None else act.alpha / n)
                    is_sink = is_sink and seen_by >= act.min_queries
                    kind = 0 if key == 0 else 1 if is_sink else 2
                    sums["received"][layer, head, kind] += attention[:, key].sum() / n
                    sums["mean_histogram"][layer, head, kind] += np.histogram(max(mean, MEAN_EDGES[0]), MEAN_EDGES)[0]
                    if is_sink:
                        found = True
                        sums["sinks"][layer, head] += 1
                        sums["token_sinks"][ids[key]] += 1
                        fine = np.zeros(n * BINS)
                        fine[key * BINS : (key + 1) * BINS] = 1 / BINS
                        sums["positions"][layer, head] += fine.reshape(BINS, n).sum(-1)
                sums["documents_with_sinks"][layer, head] += found
        sums["before"] += by_position(weights.double().numpy(), BINS).mean(1)
        sums["after"] += by_position(calibrated.double().numpy(), BINS).mean(1)
    return {"layers": tuple(range(num_layers)), "documents": len(maps), "tokens": sum(map(len, documents)), **sums}


def assert_equal(statistics, sums):
    assert statistics.layers == sums["layers"]
    for name, value in sums.items():
        np.testing.assert_allclose(getattr(statistics, name), value, rtol=0, atol=1e-6 * sums["documents"], err_msg=name)


@pytest.fixture(scope="module", params=range(len(ACTS)), ids=["threshold", "alpha", "to-first-token", "seen by enough"])
def case(request, full_maps, documents):
    act = ACTS[request.param]
    return act, expected(full_maps, documents, act, vocabulary=128)


class TestStatistics:
    @pytest.mark.tier("slow")
    @pytest.mark.parametrize(("size", "side"), [(1, "left"), (2, "right"), (5, "left")])
    def test_equal_those_of_full_maps(self, gqa_model, documents, case, size, side):
        act, sums = case
        assert sums["sinks"].sum() > 50
        assert np.abs(sums["after"] - sums["before"]).max() > 0.05
        assert_equal(collect(gqa_model, batches(documents, size, side), act, bins=BINS), sums)

    def test_small_blocks(self, gqa_model, documents, case):
        """Blocks of few rows and chunks of few heads, which do not end where documents do, as with long documents."""
        act, sums = case
        act = replace(act, limits=ComputeLimits(block_elements_on_cpu=9 * 40 * 40))
        assert_equal(collect(gqa_model, batches(documents, 3), act, bins=BINS), sums)

    def test_sliding_window(self, documents):
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=8,
        )  # fmt: skip
        model = MistralForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data *= 20
            layer.self_attn.k_proj.weight.data *= 20
        act = ACT("none", threshold=0.2)
        sums = expected(eager_maps(model, documents), documents, ACT(HeadProfile({}), threshold=0.2), 128, window=8)
        assert sums["sinks"].sum() > 20
        assert_equal(collect(model, batches(documents), act, bins=BINS), sums)

    def test_no_map_of_a_whole_document_is_held(self, gqa_model):
        act = ACT("all", limits=ComputeLimits(block_elements_on_cpu=2**14))
        n = 256
        with LargestTensor() as without_counting, torch.no_grad():
            gqa_model(random_ids(n, seed=0))
        with LargestTensor() as tensors:
            collect(gqa_model, [{"input_ids": random_ids(n, seed=0)}], act, layers=(2,), bins=BINS)
        # In torch 2.6, sdpa itself holds the maps of all heads.
        assert tensors.elements < max(n * n, without_counting.elements + 1)

    def test_a_document_alone_has_its_exact_map(self, gqa_model, documents, full_maps):
        ids, attention = documents[0], full_maps[0]
        statistics = collect(gqa_model, batches([ids]), ACTS[0], bins=len(ids))
        np.testing.assert_allclose(statistics.map_before, attention.mean(1), rtol=0, atol=1e-6)
        assert statistics.positions.sum() == statistics.sinks.sum()
        assert set(np.unique(statistics.positions)) == {0, 1}

    def test_layers(self, gqa_model, documents):
        everything = collect(gqa_model, batches(documents), ACTS[0], maps=False)
        some = collect(gqa_model, batches(documents), ACTS[0], layers=(4, 1), maps=False)
        assert some.layers == (1, 4)
        np.testing.assert_array_equal(some.sinks, everything.sinks[[1, 4]])
        with pytest.raises(ProfileError, match="layer 6"):
            collect(gqa_model, batches(documents), layers=(6,))

    def test_without_mask_nothing_is_padding(self, gqa_model, documents, case):
        act, _ = case
        alone = collect(gqa_model, [{"input_ids": torch.tensor([documents[0]])}], act)
        np.testing.assert_array_equal(alone.sinks, collect(gqa_model, batches(documents[:1]), act).sinks)

    def test_a_method_that_looks_for_no_sinks_is_refused(self, gqa_model, documents):
        with pytest.raises(InputError, match="temperature looks for no sinks"):
            collect(gqa_model, batches(documents), ACT("all", method=Temperature()))

    def test_beta_1_counts_sinks_all_the_same(self, gqa_model, documents):
        statistics = collect(gqa_model, batches(documents), ACT("all", beta=1, threshold=0.06))
        assert statistics.sinks.sum() > 0
        np.testing.assert_array_equal(statistics.map_before, statistics.map_after)

    def test_sums(self, gqa_model, documents, tmp_path):
        parts = [collect(gqa_model, batches(some), ACTS[0]) for some in (documents[:2], documents[2:])]
        whole = collect(gqa_model, batches(documents), ACTS[0])
        total = SinkStatistics.total(parts)
        for name in ("documents", "tokens", "sinks", "received", "positions", "token_sinks", "before", "after"):
            np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=0, atol=1e-5, err_msg=name)
        whole.save(tmp_path / "whole.npz")
        loaded = SinkStatistics.load(tmp_path / "whole.npz")
        assert loaded.layers == whole.layers
        np.testing.assert_array_equal(loaded.map_after, whole.map_after)
        np.testing.assert_allclose(loaded.received_shares.sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(whole.map_after.sum(-1), 1, atol=1e-5)
        without = collect(gqa_model, batches(documents), maps=False)
        with pytest.raises(ValueError, match="same model, layers"):
            whole + without
        with pytest.raises(ValueError, match="maps=True"):
            _ = without.map_before

    def test_the_model_is_left_as_it_was(self, gqa_model, documents):
        ids = torch.tensor(documents[:1])
        before = gqa_model(ids).logits
        with pytest.raises(InputError, match="no documents"):
            collect(gqa_model, [])
        with pytest.raises(InputError, match="no layers"):
            collect(gqa_model, batches(documents), layers=())
        with pytest.raises(InputError, match="one head profile"):
            collect(gqa_model, batches(documents), ACT([SOME, SOME]))
        collect(gqa_model, batches(documents))
        assert torch.equal(gqa_model(ids).logits, before)
        assert not any(hasattr(module, MODULE_ATTRIBUTE) for module in gqa_model.modules())


@pytest.fixture(scope="module")
def statistics(gqa_model, documents):
    return collect(gqa_model, batches(documents), ACTS[0])


class TestTables:
    def test_tokens(self, statistics):
        table = tables.tokens(statistics, lambda token: f" {token}\n")
        assert table["token"].iloc[0] == f"␣{table['id'].iloc[0]}\\n"
        assert table["share"].sum() == pytest.approx(1)
        assert table["sinks"].is_monotonic_decreasing
        first = table.iloc[0]
        assert first["rate"] == pytest.approx(first["sinks"] / first["occurrences"] / 48)
        assert len(tables.tokens(statistics, str, top=3)) == 3

    def test_received_and_positions(self, statistics):
        received = tables.received({"a": statistics})
        assert received.groupby("kind")["share_of_keys"].sum().tolist() == pytest.approx([1, 1, 1])
        assert received.groupby("kind")["share"].first().sum() == pytest.approx(1)
        assert received[received["kind"] == "first token"]["keys"].iloc[0] == 5 * 48
        positions = tables.positions({"a": statistics})
        assert positions["sinks"].sum() == pytest.approx(statistics.sinks.sum())
        assert positions["share"].sum() == pytest.approx(1)

    def test_heads(self, statistics):
        table = tables.heads(statistics)
        assert len(table) == 48
        row = table[(table["layer"] == 4) & (table["head"] == 2)].iloc[0]
        assert row["sinks_per_document"] == statistics.sinks[4, 2] / 5
        assert row[["first_token", "other_sinks", "other_tokens"]].sum() == pytest.approx(1)

    def test_a_token_that_is_no_whole_character_is_shown_by_its_name(self):
        tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
        shown = [token_text(tokenizer, token) for token in range(len(tokenizer))]
        assert all(shown)
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in shown)


@pytest.mark.tier("slow")
class TestPlots:
    @pytest.mark.parametrize(
        "names", [["one"], ["one", "two"], ["one", "two", "three", "four"], LONG_NAMES[:4], LONG_NAMES], ids=len
    )
    def test_labels_are_whole_and_apart(self, statistics, names):
        by_name = dict.fromkeys(names, statistics)
        figures = [
            plots.plot_attention_map(by_name),
            plots.plot_received(by_name),
            plots.plot_sink_positions(by_name),
        ]
        if len(names) == 1:
            figures += [
                plots.plot_attention_by_layer(statistics),
                plots.plot_before_and_after(statistics),
                plots.plot_sinks_per_head(statistics),
                plots.plot_sink_tokens(statistics, lambda token: f"$_{token}^"),
            ]
        for figure in figures:
            assert figure.get_figwidth() in (3.3, 6.8)
            assert overlapping(figure) == ([], [])
        with pytest.raises(ValueError, match="at most"):
            plots.plot_sink_positions(dict.fromkeys(map(str, range(9)), statistics))

    def test_without_any_sink(self, gqa_model, documents):
        nothing = collect(gqa_model, batches(documents), ACT("all", threshold=0.999))
        assert not nothing.sinks.any()
        by_name = {"none": nothing}
        assert tables.tokens(nothing, str).empty
        for figure in (
            plots.plot_attention_map(by_name),
            plots.plot_received(by_name),
            plots.plot_sink_positions(by_name),
            plots.plot_before_and_after(nothing),
            plots.plot_sinks_per_head(nothing),
            plots.plot_sink_tokens(nothing, str),
        ):
            assert overlapping(figure) == ([], [])

    @pytest.mark.parametrize("length", [30, 150])
    def test_document(self, gqa_model, length):
        ids = random_ids(length, seed=3)[0].tolist()
        statistics = collect(gqa_model, batches([ids]), ACTS[0], bins=length)
        figure = plots.plot_document(statistics, [f"token{token}$" for token in ids])
        assert overlapping(figure) == ([], [])
        with pytest.raises(ValueError, match="a bin for each"):
            plots.plot_document(statistics, ["a"])


def sinks(*arguments, output):
    return CliRunner().invoke(cli.app, ["sinks", *arguments, "--output", str(output)])


class TestStore:
    def test_statistics_of_other_work_are_set_aside(self, gqa_model, documents, tmp_path, caplog):
        statistics = collect(gqa_model, batches(documents[:1]), maps=False)
        for task in ("one", "group/two"):
            StatisticsStore.open(tmp_path, {"seed": 1}).save(task, statistics)
        again = StatisticsStore.open(tmp_path, {"seed": 1})
        assert [again.load(task) is not None for task in ("one", "group/two", "three")] == [True, True, False]
        again.path("one").write_bytes(b"PK cut off")
        assert again.load("one") is None
        for name in ("sink_tokens.png", "heads.csv", "notes.txt"):
            (tmp_path / name).touch()
        other = StatisticsStore.open(tmp_path, {"seed": 2})
        assert other.load("group/two") is None
        assert "has changed: seed (1; now 2)" in caplog.text
        (aside,) = tmp_path.glob("earlier-*")
        assert {file.name for file in tmp_path.iterdir()} == {"sinks.json", "notes.txt", aside.name}
        assert StatisticsStore.open(tmp_path, {"seed": 1}).load("group/two") is not None


class TestCommand:
    @pytest.fixture(scope="class")
    def written(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("sinks")
        search = folder / "search"
        search.mkdir()
        rows = [(layer, head, 0.01, 0.1) for layer in range(4) for head in range(8)]
        table = pd.DataFrame(rows, columns=["layer", "head", "accuracy_change", "margin_change"])
        table.to_csv(search / "heads.csv", index=False)
        options = ["--limit", "4", "--batch-size", "3", "--document", "7", "--device", "cpu", "--model-args", "act_alpha=5"]
        result = sinks("--tasks", TASKS, *options, "--search", str(search), output=folder / "out")
        assert result.exit_code == 0, result.output
        return folder / "out"

    @pytest.mark.tier("slow")
    def test_every_figure_has_its_data(self, written):
        names = {path.stem for path in written.glob("*.png")}
        assert names == {
            "attention_map", "attention_map_layers", "attention_received", "before_and_after", "document_map", "heads",
            "sink_positions", "sink_tokens", "sinks_per_head",
        }  # fmt: skip
        assert {path.stem for path in written.glob("*.svg")} == names
        data = {path.name for path in [*written.glob("*.csv"), *written.glob("*.npz")]}
        assert data >= {f"{name}.csv" for name in names - {"attention_map", "attention_map_layers", "before_and_after"}}
        assert data >= {"document_map.npz", "statistics_demo_sentiment.npz", "statistics_demo_topic.npz"}

    @pytest.mark.tier("slow")
    def test_data(self, written):
        ran = json.loads((written / "sinks.json").read_text())
        parts = [SinkStatistics.load(written / f"statistics_{task}.npz") for task in TASKS.split(",")]
        assert [ran["tasks"][task]["documents"] for task in TASKS.split(",")] == [part.documents for part in parts] == [4, 4]
        assert ran["act"]["alpha"] == 5
        heads = pd.read_csv(written / "sinks_per_head.csv")
        total = SinkStatistics.total(parts)
        np.testing.assert_allclose(heads["sinks_per_document"], total.sinks_per_document.ravel(), rtol=1e-4)
        tokens = pd.read_csv(written / "sink_tokens.csv", keep_default_na=False)
        assert tokens["sinks"].sum() == total.sinks.sum()
        doc = corpus.documents("sentiment", "test")[7]
        prompt = corpus.INSTRUCTIONS["sentiment"] + corpus.prompt("sentiment", doc)
        ids = AutoTokenizer.from_pretrained(MODEL_PATH)(prompt).input_ids
        assert SinkStatistics.load(written / "document_map.npz").tokens == len(ids)
        assert len(pd.read_csv(written / "document_map.csv")) == len(ids)

    @pytest.mark.tier("slow")
    @pytest.mark.parametrize(("split", "of_corpus"), [("train", "train"), ("evaluation", "test")])
    def test_documents_are_drawn_from_the_split(self, split, of_corpus, tmp_path, monkeypatch):
        tokenizer, seen = AutoTokenizer.from_pretrained(MODEL_PATH), []

        def collect_and_note(model, batches, *args, **kwargs):
            noted = list(batches)
            for batch in noted:
                assert len(batch["input_ids"]) <= 2
                seen.extend(tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True))
            return collect(model, noted, *args, **kwargs)

        monkeypatch.setattr(collect_task, "collect", collect_and_note)
        written = []
        monkeypatch.setattr(run, "write_sinks", lambda *arguments: written.append(arguments) or [])
        run.run_sinks(
            SinksSettings(ModelSettings(device="cpu", batch_size=2), PromptSettings(("act_demo",), limit=3), split), tmp_path
        )
        ((statistics, families, *_),) = written
        prompts = {
            corpus.INSTRUCTIONS[task] + corpus.prompt(task, doc)
            for task in corpus.TASKS
            for doc in corpus.documents(task, of_corpus)
        }
        assert len(set(seen)) == 9
        assert set(seen) <= prompts
        assert families == dict.fromkeys(statistics, "act_demo")
        assert sorted(statistics) == ["demo_choice", "demo_sentiment", "demo_topic"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--split", "test"], "--split 'test' is unknown: choose train or evaluation"),
            (["--limit", "0"], "--limit must be at least 1"),
            (["--layers", "two"], "--layers 'two' is not a list of layers"),
            (["--document", "500"], "has documents 0 to 499"),
            (["--document", "-1"], "--document must be at least 0"),
            (["--search", "nowhere"], "holds no heads.csv"),
            (["--model-args", "act_beta=1"], "act_beta=1 changes nothing"),
            (["--model-args", "act_sink_share=0"], "act_sink_share=0 changes nothing"),
            (["--model-args", "act_head_share=0"], "act_head_share=0 changes nothing"),
            (["--model-args", "act_profile=none"], "act_profile=none is the baseline itself"),
            (["--model-args", "act_profile=no-heads.json"], "no-heads.json names no head"),
            (["--model-args", "act_gamma=1"], "the method act takes beta, not gamma"),
            (["--model-args", "act_nothing=1"], "no argument 'act_nothing'"),
            (["--model-args", "act_method=temperature"], "act_method=temperature looks for no sinks"),
        ],
    )
    def test_bad_input_is_refused_before_the_model_is_loaded(self, options, message, tmp_path, monkeypatch):
        monkeypatch.setattr(LMWithoutWeights, "with_weights", None)
        monkeypatch.chdir(tmp_path)
        HeadProfile({}).save(Path("no-heads.json"))
        result = sinks("--tasks", "demo_sentiment", *options, output=tmp_path / "output")
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"output_type": "loglikelihood_rolling"}, "has no context to look at"),
            ({"training_split": None}, "no split besides"),
        ],
    )
    def test_tasks_that_cannot_be_looked_at(self, change, message, tmp_path, monkeypatch):
        monkeypatch.setattr(LMWithoutWeights, "with_weights", None)
        load = documents_module.load_asked_tasks

        def load_changed(*settings):
            asked = load(*settings)
            for task in asked.loaded.tasks.values():
                for key, value in change.items():
                    task.set_config(key, value)
                task.OUTPUT_TYPE = change.get("output_type", task.OUTPUT_TYPE)
            return asked

        monkeypatch.setattr(documents_module, "load_asked_tasks", load_changed)
        with pytest.raises(InputError, match=message):
            run.run_sinks(SinksSettings(ModelSettings(), PromptSettings(("demo_topic",), limit=100), "train"), tmp_path)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ("2-4", "names layer 4, but the model has layers 0 to 3"),
            ("0-999999999", "names layer 4, but the model has layers 0 to 3"),
            ("3-2", "has the range 3-2"),
        ],
    )
    def test_layers_that_the_model_does_not_have(self, layers, message, tmp_path):
        result = sinks("--tasks", "demo_topic", "--layers", layers, "--limit", "1", "--device", "cpu", output=tmp_path)
        assert message in str(result.exception)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is not readable"),
            ("layer,head\n0,0\n", "has no column accuracy_change"),
            ("layer,head,accuracy_change,margin_change\n4,0,0.1,0.1\n", "--search is of another model"),
        ],
    )
    def test_searches_that_cannot_be_shown(self, text, message, tmp_path):
        (tmp_path / "heads.csv").write_text(text)
        options = ["--search", str(tmp_path), "--limit", "1", "--device", "cpu"]
        result = sinks("--tasks", "demo_topic", *options, output=tmp_path / "out")
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)

    def test_a_model_that_ignores_the_attention_interface(self, tmp_path):
        model = tmp_path / "bloom"
        BloomConfig(n_layer=1, n_head=2, hidden_size=16, vocab_size=828).save_pretrained(model)
        for file in MODEL_PATH.glob("*token*"):
            shutil.copy(file, model)
        options = ["--model-args", f"pretrained={model}", "--limit", "1", "--device", "cpu"]
        result = sinks("--tasks", "demo_topic", *options, output=tmp_path / "out")
        assert isinstance(result.exception, InputError)
        assert "BloomForCausalLM computes attention inside its own modules" in str(result.exception)
