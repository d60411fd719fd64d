"""Fixtures: small models from files in this folder, and what ACT_EVAL_TEST_DATA and ACT_EVAL_REAL_MODELS name."""

import atexit
import gc
import logging
import os
import shutil
import signal
import unittest.mock
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# Before anything reads them:
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores take one each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")


import hypothesis
import pytest
import torch
from helpers.figures import draw_nothing
from helpers.models import GOLDEN
from helpers.own_tasks import leave_out_lm_evals_tasks
from helpers.thorough import examples
from lm_eval.tasks import TaskManager
from torch.utils import collect_env
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from act_eval.harness.tasks import tasks_path

# The same examples in every run, and none that has to be found or tried in time.
hypothesis.settings.register_profile(
    "act-eval", examples(), deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("act-eval")

TIERS = {
    "unit": "runs no model and starts no process",
    "model": "runs a small model",
    "process": "starts processes, and kills some",
    "browser": "looks at a page in Chromium",
    "slow": "takes many seconds",
    "real": "runs a real language model; skipped where it is not there",
}
REAL_MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


def pytest_configure(config: pytest.Config) -> None:
    # Tests stop programs with SIGINT, which all children ignore where a shell started the tests in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", f"tier(name): what a test needs, {', '.join(TIERS)}; the nearest one counts")
    for name, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{name}: a test that {meaning}; made from its tier")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the tier that its function, its class or its module names, before `-m` leaves some out."""
    for item in items:
        tier = item.get_closest_marker("tier")
        if tier is None or tier.args[0] not in TIERS:
            raise pytest.UsageError(
                f"{item.nodeid} has no tier: mark it, its class or its module with one of {', '.join(TIERS)}."
            )
        item.add_marker(tier.args[0])


def pytest_collection_finish() -> None:
    """What has been imported stays until the end: looking through its million objects for garbage is a tenth of the work."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is frozen then is reported as leaked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-models", action="store_true", help="write the table of models from this run of test_families.py")


@pytest.fixture(scope="session", autouse=True)
def _environment_is_described_once() -> Iterator[None]:
    """lm-eval describes the machine in each results file anew, which takes longer than the small evaluations of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_pretty_env_info", cache(collect_env.get_pretty_env_info))
        yield


@pytest.fixture(autouse=True)
def _environment_is_left_as_it_was() -> Iterator[None]:
    """Commands that run in the process of the tests set variables, and have lm-eval log to a stream that is closed later."""
    logger = logging.getLogger("lm_eval")
    kept = logger.handlers[:], logger.level, logger.propagate
    with unittest.mock.patch.dict(os.environ):
        yield
    logger.handlers[:], level, logger.propagate = kept
    logger.setLevel(level)


@pytest.fixture
def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end with their runs: a report takes longer than these, and tests of what runs do not look at it."""
    for command in ("compare", "study"):
        monkeypatch.setattr(f"act_eval.cli.{command}.report_on", lambda *_, **__: None)


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write texts and tables alone: drawing takes longer than all else, and few tests look at it."""
    draw_nothing(monkeypatch)


@pytest.fixture
def without_lm_evals_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval does not index its own tasks, which takes many seconds."""
    leave_out_lm_evals_tasks(monkeypatch)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with `hub/` (dataset rows) and `models/` (small language models)."""
    folder = os.environ.get("ACT_EVAL_TEST_DATA")
    if not folder:
        pytest.skip("ACT_EVAL_TEST_DATA is not set: it names a folder with hub/ (dataset rows) and models/")
    return Path(folder)


@pytest.fixture(scope="session")
def model_folder() -> Callable[[str], Path]:
    """Gives the folder of a model by its name, or skips the test and says how to get it."""

    def find(name: str) -> Path:
        places = {"ACT_EVAL_REAL_MODELS": "", "ACT_EVAL_TEST_DATA": "models"}
        folders = [Path(os.environ[variable]) / below for variable, below in places.items() if os.environ.get(variable)]
        for folder in folders:
            if (folder / name).is_dir():
                return (folder / name).absolute()
        where = " and ".join(map(str, folders)) or "any folder: neither ACT_EVAL_REAL_MODELS nor ACT_EVAL_TEST_DATA is set"
        pytest.skip(
            f"there is no {name} in {where}. Make it with `bash $ACT_EVAL_TEST_DATA/models/real.sh DIR` "
            "and set ACT_EVAL_REAL_MODELS=DIR"
        )

    return find


@pytest.fixture(scope="session", params=REAL_MODELS)
def real_model(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> Path:
    """The folder of a real model."""
    return model_folder(request.param)


@pytest.fixture(scope="session")
def lm_eval_tasks() -> TaskManager:
    """lm-eval's own tasks; indexing them takes many seconds."""
    return TaskManager()


@pytest.fixture(scope="session")
def demo_tasks() -> TaskManager:
    """The project's tasks alone."""
    return TaskManager(include_path=str(tasks_path()), include_defaults=False)


@pytest.fixture(scope="session", params=["llama_tiny", "llama_tiny_gqa"])
def golden_folder(request: pytest.FixtureRequest) -> Path:
    """A random-weight Llama with the logits that the published ACT code gave on it."""
    return GOLDEN / request.param


@pytest.fixture(scope="session")
def golden_model(golden_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(golden_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def gqa_model() -> PreTrainedModel:
    """6 layers, 8 query heads on 2 key/value heads, attention sinks in the middle of most inputs."""
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "llama_tiny_gqa", dtype=torch.float32).eval()


@pytest.fixture
def fresh_model() -> PreTrainedModel:
    """A model that a test may spoil."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    return LlamaForCausalLM(config).eval()
