"""Units of a search that are stopped at their forward passes, thorough tests at every one, and gone on with."""

import numpy as np
import pytest
import torch
from helpers.search import evaluator, labelled_documents, random_documents
from helpers.thorough import some
from rich.console import Console
from transformers import AutoTokenizer

from act_eval.attention.act import ACT
from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.profiles import HeadProfile
from act_eval.progress import ProgressDisplay
from act_eval.search.objective import LabelPriors
from act_eval.search.planned_costs import PlannedCosts
from act_eval.search.stages import Stages
from act_eval.search.store import UnitStore
from act_eval.search.time_left import TimeLeft
from act_eval.search.units import UnitRunner

pytestmark = pytest.mark.tier("slow")

ACT_SETTINGS = ACT("none", beta=0.1, threshold=0.04)
HEADS = [(1, 0), (1, 5), (4, 0), (4, 6)]
DOCUMENTS = random_documents(2, 2)
LABELLED = labelled_documents(2, 3)
BATCH_SIZE = 3
# One of the two passes of a piece, which had not come to its end; and the two of the pass without calibration that the exact
# scores of a batch go on from, which run again.
LOST_AT_MOST = 1 + 2


class StoppedError(Exception):
    pass


class Memory:
    """Counts the forward passes of a model; stops at one of them, and fails where a batch has too many rows."""

    def __init__(self, model, rows, last):
        self.rows, self.last, self.passes = rows, last, 0
        self.hook = model.register_forward_pre_hook(self._forward_pass, with_kwargs=True)

    def _forward_pass(self, module, args, kwargs):
        if len(kwargs["input_ids"]) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.passes == self.last:
            raise StoppedError
        self.passes += 1


@pytest.fixture
def gqa_lm(gqa_model):
    return ACTLM(pretrained=gqa_model, tokenizer=AutoTokenizer.from_pretrained(MODEL_PATH), act_profile="none", device="cpu")


def exact_scores(stages):
    """What a search in screened mode asks of a model."""
    stages.estimate_heads(DOCUMENTS)
    stages.score_heads("exact0", DOCUMENTS, HEADS, "scoring heads")
    stages.score_head_set(DOCUMENTS, HeadProfile({1: (0, 5), 3: (6,)}))


def estimates(stages):
    """What a search by estimates asks of a model, with label priors."""
    stages.estimate_heads(LABELLED)
    stages.estimate_heads(LABELLED, HeadProfile({1: (0, 5)}))
    for part, name in ((LABELLED[:1], "first1-"), (LABELLED[1:], "rest1-")):
        stages.score_head_set(part, HeadProfile({1: (0,)}), name)


def work(lm, folder, rows=100, last=None, asked=exact_scores):
    """All that a search asks of a model, up to a forward pass; returns how many there were."""
    memory = Memory(lm.model, rows, last)
    try:
        store = UnitStore.open(folder, {}, 0)
        time_left = TimeLeft(PlannedCosts(3, 4, 100.0, 3.0, 1.0, 4.0, 4.0))
        units = UnitRunner(store, 0, 1, BATCH_SIZE, time_left, ProgressDisplay(Console(quiet=True)))
        priors = LabelPriors.of_search("corrected-margin", LABELLED) if asked is estimates else LabelPriors()
        asked(Stages(units, evaluator(lm, ACT_SETTINGS, batch_size=BATCH_SIZE), priors))
    except StoppedError:
        pass
    finally:
        memory.hook.remove()
    return memory.passes


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("rows", [100, 4], ids=["enough memory", "little memory"])
def test_stopped_at_forward_passes(gqa_lm, tmp_path, rows):
    gqa_lm.scorer()  # tries once whether the model can be packed
    passes = work(gqa_lm, tmp_path / "whole", rows)
    whole = contents(tmp_path / "whole")
    assert any(name.startswith("units/exact0-") for name in whole)
    assert not any(name.endswith(".pieces") for name in whole)
    lost = []
    for last in some(range(passes), 6):
        folder = tmp_path / str(last)
        assert work(gqa_lm, folder, rows, last) == last
        lost.append(last + work(gqa_lm, folder, rows) - passes)
        assert contents(folder) == whole, last
    assert 0 <= min(lost) <= max(lost) <= LOST_AT_MOST


def test_estimates_and_label_priors_stopped_at_forward_passes(gqa_lm, tmp_path):
    passes = work(gqa_lm, tmp_path / "whole", asked=estimates)
    whole = contents(tmp_path / "whole")
    stages = {name.removeprefix("units/").rpartition("-")[0] for name in whole if name.endswith(".npz")}
    assert len(stages) == 6, "estimates and label priors of both stages, and two rounds of validation"
    for last in some(range(passes), 6):
        folder = tmp_path / str(last)
        assert work(gqa_lm, folder, last=last, asked=estimates) == last
        assert last + work(gqa_lm, folder, asked=estimates) - passes <= LOST_AT_MOST
        assert contents(folder) == whole, last


def test_stopped_again_and_again(gqa_lm, tmp_path):
    """Ten passes at a time."""
    passes = work(gqa_lm, tmp_path / "whole")
    runs = [work(gqa_lm, tmp_path / "stopped", last=10)]
    while runs[-1] == 10:
        runs.append(work(gqa_lm, tmp_path / "stopped", last=10))
    assert sum(runs) <= passes + LOST_AT_MOST * len(runs)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_damaged_pieces_are_computed_again(gqa_lm, tmp_path):
    passes = work(gqa_lm, tmp_path / "whole")
    whole, rng = contents(tmp_path / "whole"), np.random.default_rng(0)
    for number in some(range(6), 2):
        folder = tmp_path / str(number)
        work(gqa_lm, folder, last=passes * 3 // 4)
        (file,) = folder.glob("units/*.pieces")
        damaged = bytearray(file.read_bytes())
        damaged[rng.integers(len(damaged))] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged))]))
        work(gqa_lm, folder)
        assert contents(folder) == whole
