"""Long commands are killed at random points, again and again, and give what they give when they are left alone."""

import json
import random
import signal
from pathlib import Path

import pytest
from helpers.dying import Points
from helpers.processes import quick_processes
from helpers.runs import samples_file
from helpers.thorough import THOROUGH
from rich.console import Console

from act_eval import plotting
from act_eval.compare import ComparisonSettings, run_comparison
from act_eval.files import atomic_file
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.sinks.run import run_sinks
from act_eval.sinks.settings import SinksSettings
from act_eval.study import StudySettings, run_study

pytestmark = pytest.mark.tier("process")

KILLS = 7 if THOROUGH else 3
TASKS = ("demo_sentiment", "demo_topic", "demo_choice")
MODEL_ARGS = {"act_alpha": 5, "dtype": "float32"}
MODEL, PROMPTS = ModelSettings(MODEL_ARGS, device="cpu", batch_size=4), PromptSettings(TASKS, limit=6)
# What differs from run to run: moments, durations and where they ran.
_OF_THE_MOMENT = {"date", "total_evaluation_time_seconds", "pretty_env_info", "git_hash", "upper_git_hash"}


def compare(output):
    model = ModelSettings({**MODEL_ARGS, "act_profile": "all"}, device="cpu", batch_size="4")
    run_comparison(ComparisonSettings(model, PROMPTS), output, Console(quiet=True))


def search(output):
    run_search(SearchSettings(MODEL, PROMPTS, layers="all", mode="screened"), output)


def sinks(output):
    run_sinks(SinksSettings(MODEL, PROMPTS, layers="3"), output)


def study(output):
    """A search, then the runs of its heads and of the controls."""
    asked = StudySettings(
        MODEL, PromptSettings(TASKS[:2], limit=4), search_limit=4, layers="3", selection="top-k", k=2, random_draws=1
    )
    run_study(asked, output, Console(quiet=True))


def contents(output):
    """What a command left, by file, or by run where files are named by dates; without what is of the moment.

    Profiles in the folder are named by their paths there.
    """
    found = {}
    for file in sorted(output.rglob("*")):
        name = str(file.relative_to(output))
        if not file.is_file():
            continue
        if file.name.startswith("results_"):
            text = file.read_text().replace(str(output), "OUTPUT")
            results = {key: value for key, value in json.loads(text).items() if key not in _OF_THE_MOMENT}
            run = results["act_eval_run"]["asked"]
            of_run = run["task"], run["model_args"]["act_profile"], run["model_args"].get("act_method")
            found[("results", *of_run)] = results
            found[("samples", *of_run)] = samples_file(file, run["task"]).read_text()
        elif not file.name.startswith("samples_"):
            found[name] = file.read_bytes().replace(str(output).encode(), b"OUTPUT")
    return found


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have everything imported, so that killing many is quick."""
    return quick_processes()


def write_plainly(figure, folder, name):
    """A figure's files without the figure, which takes longer to draw than all else."""
    files = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in files:
        with atomic_file(path) as file:
            file.write(name.encode())
    return files


def do_not_draw(patch):
    if not THOROUGH:
        patch.setattr(plotting, "write_figure", write_plainly)


@pytest.fixture(autouse=True)
def _nothing_is_drawn(monkeypatch):
    do_not_draw(monkeypatch)


def work(command, output, last, counts):
    """Run a command in a process of its own, killed at its `last` point; write down how many points there were."""
    do_not_draw(pytest.MonkeyPatch())
    points = Points(output, last)
    command(output)
    counts.write_text(json.dumps([points.passed, points.forward_passes]))


def run(processes, command, output, last=None):
    """Whether the command came to its end, and its points and forward passes if it did."""
    counts = Path(f"{output}-counts.json")
    process = processes.Process(target=work, args=(command, output, last, counts))
    process.start()
    process.join()
    assert process.exitcode in ((0,) if last is None else (0, -signal.SIGKILL))
    return json.loads(counts.read_text()) if process.exitcode == 0 else None


@pytest.fixture(scope="module", params=[compare, search, sinks, study], ids=lambda command: command.__name__)
def whole(request, processes, tmp_path_factory):
    """A command, what it leaves when nothing kills it, and how many points its work has."""
    output = tmp_path_factory.mktemp(request.param.__name__) / "whole"
    points, _ = run(processes, request.param, output)
    return request.param, output, points


def test_the_same_again_in_another_process_is_the_same(whole, tmp_path):
    """Results do not depend on the moment, nor on what the process did before."""
    command, output, _ = whole
    for name in ("first", "second"):
        command(tmp_path / name)
        assert contents(tmp_path / name) == contents(output)


def finished_units(output):
    """Names and moments of the files that a finished part of the work leaves."""
    patterns = ("[!.]*/results_*.json", "units/[!.]*.npz", "search/units/[!.]*.npz", "statistics_*.npz")
    files = [file for pattern in patterns for file in output.glob(pattern)]
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_killed_again_and_again_gives_the_same(whole, processes, tmp_path):
    command, output, points = whole
    killed, rng, earlier, kills = tmp_path / "killed", random.Random(0), {}, 0
    for _ in range(KILLS):
        # A run of a comparison is a sixth of its points or less, and each command goes on from what the one before left.
        kills += run(processes, command, killed, rng.randrange(points // 8, points // 4)) is None
        now = finished_units(killed)
        assert earlier.items() <= now.items(), "a finished part was computed twice"
        earlier = now
    assert kills > KILLS // 2
    assert earlier
    assert run(processes, command, killed) is not None
    assert earlier.items() <= finished_units(killed).items()
    assert contents(killed) == contents(output)
    assert not [file for file in killed.rglob("*") if ".unfinished" in str(file)]


def test_killed_before_and_after_the_last_file(whole, processes, tmp_path):
    command, output, points = whole
    killed = tmp_path / "killed"
    assert run(processes, command, killed, points - 1) is None
    again, _ = run(processes, command, killed)
    assert again < points
    assert contents(killed) == contents(output)
    assert run(processes, command, killed) is not None
    assert contents(killed) == contents(output)
