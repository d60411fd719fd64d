"""`--dry-run`: documents and tokens are those that run then, what is finished is known, and no weights are loaded."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from act_eval.cli.app import app
from act_eval.compare import ComparisonSettings, foresee_runs, plan_comparison, run_comparison
from act_eval.compare.progress import ComparisonProgress
from act_eval.demo import MODEL_PATH
from act_eval.harness.requests import RequestError
from act_eval.harness.settings import ModelSettings, PromptSettings

pytestmark = pytest.mark.tier("model")

TASKS = Path(__file__).parent / "scored_and_generated"
MODEL_ARGS = {"act_profile": "all", "act_alpha": 5, "dtype": "float32"}


def settings(model_args=None, seeds=(1234,), tasks=("demo_topic", "demo_words", "demo_texts"), **prompts):
    asked = PromptSettings(tasks, include_path=str(TASKS), **{"limit": 4, **prompts})
    return ComparisonSettings(ModelSettings({**MODEL_ARGS, **(model_args or {})}, device="cpu", batch_size=2), asked, seeds)


def foreseen(asked, output):
    return {
        (each.run.task, each.run.variant, each.run.prompts.seed): each for each in foresee_runs(plan_comparison(asked), output)
    }


@pytest.mark.parametrize(
    "asked",
    [
        settings(),
        settings(gen_kwargs={"max_gen_toks": 7}),
        settings(tasks=("demo_topic", "demo_choice"), num_fewshot=2, seeds=(1, 2)),
        settings(limit=None, tasks=("demo_topic",), samples={"demo_topic": [3, 400]}),
    ],
    ids=["kinds of requests", "longer generations", "few-shot", "chosen documents"],
)
def test_documents_and_tokens_are_those_that_run(asked, tmp_path, monkeypatch):
    counted = {}
    requests = ComparisonProgress.requests

    def count(self, counts):
        name = self._runs[self._number].name
        counted[name] = counted.get(name, 0) + counts.tokens
        return requests(self, counts)

    monkeypatch.setattr(ComparisonProgress, "requests", count)
    expected = foreseen(asked, tmp_path)
    assert {each.state for each in expected.values()} == {"to run"}
    assert not list(tmp_path.iterdir())
    run_comparison(asked, tmp_path, Console(quiet=True))
    several = len(asked.seeds) > 1
    assert counted == {
        f"{task}, {variant}" + (f", seed {seed}" if several else ""): each.tokens
        for (task, variant, seed), each in expected.items()
    }
    assert {each.state for each in foreseen(asked, tmp_path).values()} == {"finished"}


def checkpoint(folder, *left_out):
    shutil.copytree(MODEL_PATH, folder, ignore=shutil.ignore_patterns(*left_out))
    return {"pretrained": str(folder)}


def test_no_weights_are_needed(tmp_path):
    without = checkpoint(tmp_path / "model", "*.safetensors")
    runs = foreseen(settings(without), tmp_path / "out")
    assert {task: each.documents for (task, _, _), each in runs.items()} == {"demo_topic": 4, "demo_words": 4, "demo_texts": 4}
    assert not (tmp_path / "out").exists()


def test_what_is_finished(tmp_path):
    model = checkpoint(tmp_path / "model")
    one = settings(model, tasks=("demo_topic",))
    run_comparison(one, tmp_path / "out", Console(quiet=True))
    two = settings(model, tasks=("demo_topic", "demo_choice"))
    states = {task: each.state for (task, _, _), each in foreseen(two, tmp_path / "out").items()}
    assert states == {"demo_topic": "finished", "demo_choice": "to run"}
    # Other settings of ACT are other runs; the baseline stays.
    other = settings({**model, "act_beta": 0.2}, tasks=("demo_topic",))
    states = {variant: each.state for (_, variant, _), each in foreseen(other, tmp_path / "out").items()}
    assert states == {"ACT": "to run", "baseline": "finished"}
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.touch()
    states = {each.state for each in foreseen(one, tmp_path / "out").values()}
    assert states == {"to run unless its model is the one that ran"}


def test_requests_that_cannot_run_are_found(tmp_path):
    with pytest.raises(RequestError, match=r"demo_words, document 0 .*cannot be run"):
        foreseen(settings({"max_length": 8}, tasks=("demo_words",), gen_kwargs={"max_gen_toks": 8}), tmp_path)


@pytest.mark.parametrize("command", [["compare"], ["sweep", "--vary", "beta=0,0.4"]], ids=lambda command: command[0])
def test_the_command_says_it(command, tmp_path, monkeypatch):
    monkeypatch.setattr("act_eval.harness.checked_hf.HFLM._create_model", None)
    line = (
        f"--tasks demo_topic --limit 4 --device cpu --output {tmp_path}/out --model-args act_profile=all,act_alpha=5 --dry-run"
    )
    result = CliRunner().invoke(app, [*command, *line.split()])
    assert result.exit_code == 0, result.output
    runs = 2 if command == ["compare"] else 3
    tokens = foresee_runs(plan_comparison(settings(tasks=("demo_topic",))), tmp_path)[0].tokens
    assert f"0 of {runs} runs are finished. The others ask {4 * runs} documents with {runs * tokens:,} tokens" in result.output
    assert not (tmp_path / "out").exists()
