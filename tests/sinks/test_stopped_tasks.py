"""Tasks whose documents are looked at batch by batch: stopped at every forward pass, and gone on with."""

import shutil

import pytest
import torch
from rich.console import Console

from act_eval.harness.lm import ACTLM
from act_eval.harness.nonfinite import NonFiniteLogitsError, holds
from act_eval.progress import stage_progress
from act_eval.sinks.collect_task import TaskCollection
from act_eval.sinks.statistics import SinkStatistics
from act_eval.sinks.store import StatisticsStore

pytestmark = pytest.mark.tier("model")

TEXT = "The mouse is smaller than the cat and the cat is smaller than the dog and the horse."
FILE = "statistics_group_task.npz"


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def lm():
    return ACTLM(act_profile="all", act_alpha=3, dtype="float32", device="cpu")


def look(lm, folder, rows=100, last=None, batch_size=4):
    """Look at seven documents with room for some rows, up to a forward pass; returns their rows."""
    tokens = lm.tok_encode(TEXT)
    prompts = [tuple(tokens[: 8 + number]) for number in (3, 1, 2, 0, 5, 6, 4)]
    passes = []

    def forward_pass(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        if len(ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if len(passes) == last:
            raise StoppedError
        passes.append(len(ids))

    hook = lm.model.register_forward_pre_hook(forward_pass, with_kwargs=True)
    try:
        with stage_progress(Console(quiet=True), "looking", 0, "tokens") as progress:
            store = StatisticsStore.open(folder, {})
            TaskCollection(lm, "group/task", prompts, (1, 2), batch_size, store, progress).run()
    except StoppedError:
        pass
    finally:
        hook.remove()
    return passes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "whole").mkdir()
    return tmp_path


@pytest.mark.parametrize(("rows", "batches"), [(100, [4, 3]), (2, [2, 2, 2, 1]), (1, [1] * 7)])
def test_stopped_at_every_forward_pass(lm, folder, rows, batches):
    assert look(lm, folder / "whole", rows) == batches
    expected = (folder / "whole" / FILE).read_bytes()
    for last in range(len(batches)):
        stopped = folder / str(last)
        stopped.mkdir()
        assert look(lm, stopped, rows, last) == batches[:last]
        assert look(lm, stopped, rows) == batches[last:]
        assert {file.name for file in stopped.iterdir()} == {"sinks.json", FILE}
        assert (stopped / FILE).read_bytes() == expected
        assert look(lm, stopped, rows) == []


def test_what_did_not_fit_is_not_tried_again(lm, folder):
    """Also where there is more memory later: rows that ran together are the same, and so are the numbers."""
    look(lm, folder / "whole", rows=2)
    (folder / "stopped").mkdir()
    assert look(lm, folder / "stopped", rows=2, last=1) == [2]
    assert look(lm, folder / "stopped") == [2, 3]
    statistics = [SinkStatistics.load(folder / name / FILE) for name in ("whole", "stopped")]
    assert statistics[0].documents == statistics[1].documents == 7
    assert (statistics[0].sinks == statistics[1].sinks).all()


def test_another_batch_size_goes_on(lm, folder):
    look(lm, folder / "whole")
    (folder / "stopped").mkdir()
    assert look(lm, folder / "stopped", last=1) == [4]
    assert look(lm, folder / "stopped", batch_size=3) == [2, 1]
    statistics = [SinkStatistics.load(folder / name / FILE) for name in ("whole", "stopped")]
    assert statistics[0].documents == statistics[1].documents == 7
    assert (statistics[0].token_sinks == statistics[1].token_sinks).all()


def test_a_torn_file_is_begun_anew(lm, folder):
    """Cut off anywhere, or with bytes of anything else, it never gives a wrong number."""
    look(lm, folder / "whole")
    expected = (folder / "whole" / FILE).read_bytes()
    begun = folder / "begun"
    begun.mkdir()
    look(lm, begun, last=1)
    (file,) = begun.glob("unfinished_*.npz")
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = [content[:length] for length in range(0, len(content), len(content) // 8)]
    damaged += [content[:middle] + bytes(100) + content[middle + 100 :], b"\0" * 1000, b"PK", content[::-1]]
    damaged.append((folder / "whole" / FILE).read_bytes())  # whole, but of another kind
    for number, text in enumerate(damaged):
        again = folder / f"again-{number}"
        shutil.copytree(begun, again)
        (again / file.name).write_bytes(text)
        passes = look(lm, again)
        assert passes in ([4, 3], [3] if text == content else [4, 3])
        assert (again / FILE).read_bytes() == expected


def test_a_document_that_is_not_finite_is_found_by_halving(lm, folder):
    longest = tuple(lm.tok_encode(TEXT)[:14])
    rows = []

    def find(module, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        rows[:] = [holds(tuple(row), longest) for row in ids.tolist()]

    def overflow(module, args, output):
        output[torch.tensor(rows)] = float("nan")

    hooks = [
        lm.model.register_forward_pre_hook(find, with_kwargs=True),
        lm.model.model.layers[0].mlp.register_forward_hook(overflow),
    ]
    try:
        with pytest.raises(NonFiniteLogitsError, match=r"a document of group/task that begins with .* \(14 tokens\)"):
            look(lm, folder / "whole")
    finally:
        for hook in hooks:
            hook.remove()
    assert not (folder / "whole" / FILE).exists()
