"""Searches and sink statistics that are killed in the middle of a batch or a task lose no more than the running piece."""

import pytest
from helpers.dying import Points, count_passes
from helpers.figures import draw_nothing
from helpers.tensor_parallelism import call_in_processes
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.sinks.run import run_sinks
from act_eval.sinks.settings import SinksSettings

pytestmark = pytest.mark.tier("process")

MODEL = ModelSettings({"act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=3)
PROMPTS = PromptSettings(("demo_sentiment", "demo_choice"), limit=4)
KILLS = 3


def search(output):
    draw_nothing()
    run_search(SearchSettings(MODEL, PROMPTS, layers="all", mode="screened", budget=0.2), output)


def sinks(output):
    draw_nothing()
    run_sinks(SinksSettings(MODEL, PROMPTS), output)


def search_until(output, last, killed_rank):
    """In one of several processes, which one of them does not survive."""
    import torch

    if torch.distributed.get_rank() == killed_rank:
        Points(output, last, passes_alone=True)
    search(output)


def contents(output):
    return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """What a search leaves that nothing kills, and its forward passes."""
    output = tmp_path_factory.mktemp("search") / "whole"
    return output, count_passes(search, output)


def assert_little_is_lost(command, whole, passes, killed, lost_at_most):
    """Killed again and again, the command runs hardly more forward passes, and leaves the same."""
    step, runs = -(-passes // (KILLS + 1)), []
    while not runs or runs[-1] is None:
        assert len(runs) < 3 * KILLS, "it does not come to its end"
        runs.append(count_passes(command, killed, step + 1))
    assert len(runs) >= KILLS
    assert passes <= step * (len(runs) - 1) + runs[-1] <= passes + lost_at_most * (len(runs) - 1)
    assert contents(killed) == contents(whole)


def test_search(searched, tmp_path):
    """Lost are up to one of the two passes of a piece, and the pass without calibration (two) that exact scores go on from."""
    assert_little_is_lost(search, *searched, tmp_path / "killed", 1 + 2)


def test_sinks(tmp_path):
    """A batch is one pass: nothing that was done is lost."""
    passes = count_passes(sinks, tmp_path / "whole")
    assert passes == 4
    assert_little_is_lost(sinks, tmp_path / "whole", passes, tmp_path / "killed", 0)


@pytest.mark.parametrize("killed_rank", [0, 1])
def test_two_processes(searched, tmp_path, killed_rank):
    """They share the units; either of them is killed, and two others go on with what both left."""
    whole, passes = searched
    killed = tmp_path / "killed"
    with pytest.raises(
        (ProcessExitedException, ProcessRaisedException)
    ):  # of the killed one, or of the other, which waits for it
        call_in_processes(search_until, 2, tmp_path / "first", killed, passes // 6, killed_rank)
    assert list(killed.glob("units/*.npz"))
    assert not (killed / "profile.json").exists()
    call_in_processes(search_until, 2, tmp_path / "second", killed, None, 0)
    left, expected = contents(killed), contents(whole)
    left.pop("units/resuming-1.npz", None)  # each process finds out for itself
    assert left == expected
