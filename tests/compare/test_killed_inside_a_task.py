"""A comparison killed at any forward pass loses at most the batch that ran, and leaves what an uninterrupted one leaves."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from helpers.dying import Points
from helpers.processes import quick_processes
from helpers.runs import samples_file
from rich.console import Console

from act_eval.compare import ComparisonSettings, run_comparison
from act_eval.harness.settings import ModelSettings, PromptSettings

pytestmark = pytest.mark.tier("process")

TASKS = Path(__file__).parent / "scored_and_generated"
MODEL = ModelSettings({"act_profile": "all", "act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=2)
PROMPTS = PromptSettings(("demo_topic", "demo_words", "demo_texts"), limit=5, include_path=str(TASKS))
OF_THE_MOMENT = {"date", "total_evaluation_time_seconds", "pretty_env_info", "git_hash", "upper_git_hash"}


def work(output, point, forward_pass, passes, log):
    """Compare, killed at a point of the work or before a forward pass; put down each pass and what the command says."""
    begun = []

    def count(module, inputs):
        if module.__class__.__name__ == "LlamaForCausalLM":
            begun.append(module)
            if len(begun) == forward_pass:
                os.kill(os.getpid(), signal.SIGKILL)
            with passes.open("a") as file:
                file.write(".")

    torch.nn.modules.module.register_module_forward_pre_hook(count)
    points = Points(output, point)
    with log.open("a") as file:
        run_comparison(ComparisonSettings(MODEL, PROMPTS), output, Console(file=file))
        file.write(f"points: {points.passed}\n")


@pytest.fixture(scope="module")
def processes():
    return quick_processes()


class Killed:
    """A comparison in processes of its own, in one folder."""

    def __init__(self, processes, folder):
        self.processes, self.output, self.files = processes, folder / "out", (folder / "passes", folder / "log")

    def run(self, point=None, forward_pass=None):
        """Run until a point, or a forward pass, or to the end; whether it was killed."""
        process = self.processes.Process(target=work, args=(self.output, point, forward_pass, *self.files))
        process.start()
        process.join()
        assert process.exitcode in ((0,) if point is forward_pass is None else (0, -signal.SIGKILL))
        return process.exitcode != 0

    @property
    def passes(self):
        return len(self.files[0].read_text())

    @property
    def log(self):
        return self.files[1].read_text()

    @property
    def contents(self):
        found = {}
        for file in self.output.rglob("*"):
            if file.name.startswith("results_"):
                results = {key: value for key, value in json.loads(file.read_text()).items() if key not in OF_THE_MOMENT}
                asked = results["act_eval_run"]["asked"]
                run = asked["task"], asked["model_args"]["act_profile"]
                found[run] = results, samples_file(file, asked["task"]).read_text()
            elif file.is_file() and not file.name.startswith("samples_"):
                found[str(file.relative_to(self.output))] = file.read_bytes()
        return found


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory):
    """A comparison that nothing kills, and the number of its points."""
    comparison = Killed(processes, tmp_path_factory.mktemp("whole"))
    assert not comparison.run()
    return comparison, int(re.search(r"points: (\d+)", comparison.log)[1])


def test_killed_ten_times(whole, processes, tmp_path):
    uninterrupted, points = whole
    killed = Killed(processes, tmp_path)
    kills = 0
    for number in range(10):
        kills += killed.run(forward_pass=2 + number % 3) if number % 2 else killed.run(point=3 + points // 8 * number % 7)
    assert not killed.run()
    assert kills == 10
    assert killed.contents == uninterrupted.contents
    # A batch is two passes at most, of which the one before the kill is run again.
    assert killed.passes <= uninterrupted.passes + 2 * kills
    assert "answers are there from an earlier start, and are kept." in killed.log
    assert not (killed.output / ".answers").exists()


def test_nothing_is_kept_of_what_has_changed_since(processes, tmp_path):
    killed = Killed(processes, tmp_path)
    assert killed.run(forward_pass=2)
    (record,) = (killed.output / ".answers").iterdir()
    record.rename(record.with_name("0123456789abcdef-0.jsonl"))
    before = killed.passes
    assert not killed.run()
    assert "are kept" not in killed.log
    whole = Killed(processes, tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    assert not whole.run()
    assert killed.passes - before == whole.passes


def test_killed_between_the_last_answer_and_the_results(whole, processes, tmp_path):
    """All answers of a run are there, but its files are not, or just are."""
    uninterrupted, _ = whole
    for last in range(1, 40):
        killed = Killed(processes, tmp_path / str(last))
        killed.output.parent.mkdir()
        assert killed.run(point=last)
        if list(killed.output.rglob("results_*.json")):
            break
        earlier = killed
    assert (killed.output / ".answers").exists(), "killed just after the results got their name"
    for comparison in (earlier, killed):
        passes = comparison.passes
        assert not comparison.run()
        assert comparison.contents == uninterrupted.contents
        assert not (comparison.output / ".answers").exists()
    assert passes + 0 < uninterrupted.passes
