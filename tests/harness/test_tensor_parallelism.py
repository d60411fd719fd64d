"""Two processes that hold parts of the model (`tp_plan=auto`) give what one process gives, in every command."""

import inspect
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.figures import draw_nothing
from helpers.processes import run_programs
from helpers.runs import read_samples
from helpers.tensor_parallelism import call_in_processes
from helpers.thorough import thorough
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from transformers import AutoTokenizer, LlamaConfig

from act_eval.compare import ComparisonSettings, run_comparison
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.mt_bench.answers import AnswerSettings, write_answers
from act_eval.mt_bench.questions import load_questions
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.sinks.run import run_sinks
from act_eval.sinks.settings import SinksSettings
from act_eval.sinks.statistics import SinkStatistics

IS_KNOWN = "tp_plan" in inspect.signature(HFLM.__init__).parameters
CHAT = Path(__file__).parents[1] / "mt_bench"
PROMPTS = PromptSettings(("demo_choice",), limit=6)
MODEL_ARGS = {"act_alpha": 5, "dtype": "float32"}
HEADS = {"act_profile": "1:1+6;2:5"}
TEXTS = ["The mouse is smaller than the cat. The dog is", "A cup is for"]

needs_tp_plan = pytest.mark.skipif(not IS_KNOWN, reason="lm-eval before 0.4.12 has no tp_plan")


def model(model_args):
    return ModelSettings({**MODEL_ARGS, **model_args}, device="cpu", batch_size=4)


def answers(model_args):
    """What act-hf answers to each kind of request."""
    lm = ACTLM(**HEADS, **MODEL_ARGS, **model_args, device="cpu", batch_size=2)
    scored = [Instance("loglikelihood", {}, (text, " larger than the mouse."), 0) for text in TEXTS]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS]
    until = [Instance("generate_until", {}, (text, {"until": ["\\n"], "max_gen_toks": 8}), 0) for text in TEXTS]
    scores = [value for value, _ in lm.loglikelihood(scored)], lm.loglikelihood_rolling(rolling)
    return lm.rank, lm.world_size, *scores, lm.generate_until(until)


def everything(folder, model_args):
    """Run every command into a folder, without figures; returns what the process itself got."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return of_every_command(folder, model_args)


def of_every_command(folder, model_args):
    questions = load_questions(str(CHAT / "question.jsonl"))
    with_heads = model({**HEADS, **model_args})
    settings = AnswerSettings(with_heads, "category", 8, 0, CHAT / "chat.jinja")
    return (
        answers(model_args),
        bool(run_comparison(ComparisonSettings(with_heads, PROMPTS), folder / "compare", Console(quiet=True))),
        run_search(SearchSettings(model(model_args), PROMPTS, layers="1", mode="screened"), folder / "search").heads,
        bool(run_sinks(SinksSettings(with_heads, PROMPTS), folder / "sinks")),
        write_answers(settings, questions, 1, folder / "mt-bench"),
        run_search(SearchSettings(model(model_args), PROMPTS, layers="0-1", mode="estimated"), folder / "estimated").heads,
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, everything(folder, {})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, call_in_processes(everything, 2, folder / "processes", folder, {"tp_plan": "auto"})


def samples(folder):
    """Log-likelihoods by variant and document."""
    found = {}
    for results in folder.rglob("results_*.json"):
        heads = json.loads(results.read_text())["config"]["act"]["num_heads"]
        for sample in read_samples(results, "demo_choice"):
            assert (heads, sample["doc_id"]) not in found
            found[heads, sample["doc_id"]] = [float(value) for value, _ in sample["filtered_resps"]]
    return found


@needs_tp_plan
@pytest.mark.tier("process")
class TestTwoProcesses:
    def test_every_process_answers_every_request(self, one, two):
        _, _, scored, rolling, generated = one[1][0]
        for rank, world_size, *found in (process[0] for process in two[1]):
            assert (rank, world_size) == (0, 1)
            assert found[0] == pytest.approx(scored, abs=1e-4)
            assert found[1] == pytest.approx(rolling, abs=1e-4)
            assert found[2] == generated

    def test_compare(self, one, two):
        assert [process[1] for process in two[1]] == [True, False]
        expected = samples(one[0] / "compare")
        found = samples(two[0] / "compare")
        assert set(found) == set(expected)
        assert len(found) == 2 * 6
        for key, values in found.items():
            assert values == pytest.approx(expected[key], abs=1e-4), key

    @pytest.mark.parametrize(("place", "name"), [(2, "search"), (5, "estimated")])
    def test_search(self, one, two, place, name):
        for heads in (process[place] for process in two[1]):
            pd.testing.assert_frame_equal(heads, one[1][place], atol=1e-4)
        written = [sorted(file.name for file in (run[0] / name).rglob("*") if file.is_file()) for run in (one, two)]
        assert written[0] == written[1]

    def test_sinks(self, one, two):
        assert [process[3] for process in two[1]] == [True, False]
        expected, found = (SinkStatistics.load(run[0] / "sinks" / "statistics_demo_choice.npz") for run in (one, two))
        for name, value in vars(expected).items():
            assert np.allclose(getattr(found, name), value, atol=1e-4), name

    def test_mt_bench(self, one, two):
        files = [sorted((run[0] / "mt-bench" / "model_answer").glob("*.jsonl")) for run in (one, two)]
        assert [file.name for file in files[0]] == [file.name for file in files[1]]
        for file, other in zip(*files, strict=True):
            turns = [[json.loads(line)["choices"] for line in path.read_text().splitlines()] for path in (file, other)]
            assert turns[0] == turns[1]


def by_torchrun(*arguments):
    """Run a command in two processes as users start it, which takes three processes that import everything."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "act_eval"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment)]


@needs_tp_plan
@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    "launch", [pytest.param(partial(run_programs, 2), id="quickly"), *thorough(pytest.param(by_torchrun, id="by torchrun"))]
)
def test_command(one, tmp_path, launch):
    """One process speaks and writes, and what is finished is not run again."""
    model_args = ",".join(f"{name}={value}" for name, value in {**HEADS, **MODEL_ARGS, "tp_plan": "auto"}.items())
    options = ["--tasks", "demo_choice", "--limit", "6", "--model-args", model_args, "--device", "cpu", "-o", str(tmp_path)]
    results = launch("compare", *options)
    assert {result.returncode for result in results} == {0}, results
    printed = "".join(result.stdout for result in results)
    assert printed.count("wrote to ") == 1
    assert [printed.count(f"[{number}/2] demo_choice") for number in (1, 2)] == [1, 1]  # baseline and ACT
    expected = samples(one[0] / "compare")
    for key, values in samples(tmp_path).items():
        assert values == pytest.approx(expected[key], abs=1e-4), key


@pytest.mark.tier("unit")
class TestRefused:
    @needs_tp_plan
    def test_processes_that_do_not_divide_the_heads(self, tmp_path, monkeypatch):
        config = LlamaConfig(hidden_size=32, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=1, vocab_size=64)
        config.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(MODEL_PATH).save_pretrained(tmp_path)
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(InputError, match="divides the 2 key/value heads of the model equally, which 3 processes cannot"):
            ACTLM(str(tmp_path), tp_plan="auto")

    @pytest.mark.skipif(IS_KNOWN, reason="lm-eval has tp_plan since 0.4.12")
    def test_an_lm_eval_without_tp_plan(self):
        with pytest.raises(InputError, match="tp_plan is not known to lm-eval"):
            ACTLM(tp_plan="auto")
