"""The start-up hook and the installed package, as other programs meet them."""

import os
import subprocess
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path

import pytest
from helpers.thorough import thorough

import act_eval

pytestmark = pytest.mark.tier("process")

HOOK = Path(act_eval.__file__).parent / "act_eval_startup.pth"
LIST_MODELS = "import lm_eval.models; from lm_eval.api.registry import model_registry as r; print(sorted(r))"


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )


def test_the_hook_is_installed():
    installed = Path(sysconfig.get_paths()["purelib"]) / HOOK.name
    assert installed.read_text() == HOOK.read_text(), "reinstall the package: the installed hook is not the current one"


def test_starting_python_imports_nothing():
    errors = run_python("-X", "importtime", "-c", "pass").stderr
    imported = [line.rsplit("|", 1)[-1].strip() for line in errors.splitlines() if line.startswith("import time:")]
    assert "site" in imported
    assert not [name for name in imported if name.partition(".")[0] in ("act_eval", "torch", "lm_eval", "transformers")]


def test_the_hook_takes_less_than_a_millisecond():
    before = list(sys.meta_path)
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        exec(HOOK.read_text(), {})
        durations.append(time.perf_counter() - start)
    sys.meta_path[:] = before
    assert min(durations) < 1e-3


def test_act_hf_is_registered_beside_the_built_in_models():
    names = run_python("-c", LIST_MODELS).stdout
    assert "'act-hf'" in names
    assert "'hf'" in names
    assert "'vllm'" in names


def test_the_hook_can_be_switched_off():
    names = run_python("-c", LIST_MODELS, ACT_EVAL_NO_STARTUP_HOOK="1").stdout
    assert "act-hf" not in names
    assert "'hf'" in names


def test_the_hook_does_nothing_where_lm_eval_loads_plugins():
    code = "import lm_eval.api.registry as r; r.load_plugins = lambda *a: None; " + LIST_MODELS
    assert "act-hf" not in run_python("-c", code).stdout


def test_a_broken_package_does_not_break_lm_eval(tmp_path):
    (tmp_path / "act_eval").mkdir()
    (tmp_path / "act_eval" / "__init__.py").write_text("raise ImportError('broken')")
    assert "'hf'" in run_python("-c", LIST_MODELS, PYTHONPATH=str(tmp_path)).stdout


def test_entry_point():
    (entry_point,) = metadata.entry_points(group="lm_eval.models", name="act-hf")
    assert entry_point.load().__name__ == "ACTLM"


@pytest.mark.parametrize(
    "module",
    [
        "act_eval.harness.lm",  # imports all others
        *thorough("act_eval", "act_eval.attention.calibration", "act_eval.attention.layer", "act_eval.attention.act"),
    ],
)
def test_importing_changes_nothing(module):
    """No attention function is registered, and no model class is replaced, before a context is entered."""
    code = f"""
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks
before = dict(functions), dict(masks)
import {module}
assert (dict(functions), dict(masks)) == before
"""
    run_python("-c", code)


def test_report_does_not_import_torch():
    run_python("-c", "import sys, act_eval.report.write; assert 'torch' not in sys.modules")
