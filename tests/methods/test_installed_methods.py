"""Methods of other packages, found by entry points in processes that start after they are installed."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers.own_tasks import leave_out_lm_evals_tasks
from helpers.processes import run_program

pytestmark = pytest.mark.tier("process")

PLUGIN = Path(__file__).parent / "plugin"

GOOD = """
from dataclasses import dataclass
from act_eval.methods import Boost

@dataclass(frozen=True)
class {name}(Boost):
    name = "{method}"
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the packages of a folder installed beside the environment's own."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def start_with(folder: Path) -> None:
    """Have a process find the packages of a folder, and no tasks of lm-eval's own, which take long to index."""
    sys.path.insert(0, str(folder))
    leave_out_lm_evals_tasks()


def announce(folder: Path, distribution: str, value: str, code: str = "") -> None:
    """Lay down a distribution that announces a method, as it is when it is installed."""
    metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[act_eval.methods]\nmine = {value}\n")
    (folder / f"{value.partition(':')[0]}.py").write_text(code)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package of `plugin/`, built and installed as users do it."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(PLUGIN)], check=True, capture_output=True)
    return folder


def test_in_lm_eval(installed, tmp_path):
    """On the command line it is a method like any other: by name, with its parameter, and in the results."""
    model_args = "act_profile=all,act_alpha=5,act_method=to-own-token,act_share=0.75"
    options = ["--tasks", "demo_topic", "--limit", "4", "--batch_size", "4", "--device", "cpu", "--output_path", str(tmp_path)]
    process = run_program("run", "--model_args", model_args, *options, prepare=partial(start_with, installed))
    assert process.returncode == 0, process.stderr
    (results,) = tmp_path.rglob("results_*.json")
    act = json.loads(results.read_text())["config"]["act"]
    assert act["method"] == "to-own-token"
    assert 0.75 in (act.get("share"), act.get("parameters", {}).get("share"))


def test_in_python(installed):
    code = """
import torch
from act_eval import ACT, calibrate
from act_eval.methods import available_methods
assert list(available_methods())[0] == "act" and "to-own-token" in available_methods()
assert ACT("all", method="to-own-token").method.share == 0.5
print(calibrate(torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.4, 0.4]]), method="to-own-token", threshold=0.3).tolist())
try:
    ACT("all", method="to-own-token", beta=0.4)
except ValueError as error:
    print(error)
"""
    process = python(installed, "-c", code)
    assert process.returncode == 0, process.stderr
    rows, refusal = process.stdout.strip().split("\n")
    # Keys 1 and 2 are sinks: key 1 keeps half of its attention, and key 2 is the last query's own token.
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.6]]
    assert json.loads(rows) == [pytest.approx(row) for row in expected]
    assert refusal.startswith("the method to-own-token takes share, not beta, which belongs to act, boost, to-first-token: ")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (
            {"gone": ("a_module:Missing", "")},
            "the method a_module:Missing of gone cannot be loaded (AttributeError: module 'a_module' has no attribute "
            "'Missing'): mend or uninstall its package.",
        ),
        (
            {"broken": ("a_module:Mine", "raise RuntimeError('one\\ntwo')")},
            "the method a_module:Mine of broken cannot be loaded (RuntimeError: one two): mend or uninstall its package.",
        ),
        (
            {"something-else": ("a_module:Mine", "class Mine: pass")},
            "a_module:Mine of something-else is no method, a subclass of act_eval.methods.Method: mend or uninstall its "
            "package.",
        ),
        (
            {"a-rival": ("a_module:Mine", GOOD.format(name="Mine", method="act"))},
            "two methods are called act, act_eval.methods.act:ToOtherTokens of act-eval and a_module:Mine of a-rival: rename "
            "one, or uninstall it.",
        ),
        (
            {"several": ("a_module:Mine", GOOD.format(name="Mine", method="act+mine"))},
            "the method a_module:Mine of several is called act+mine, but + stands between the names of several: mend or "
            "uninstall its package.",
        ),
        (
            {
                "one": ("a_module:Mine", GOOD.format(name="Mine", method="mine")),
                "other": ("b_module:Theirs", GOOD.format(name="Theirs", method="mine")),
            },
            "two methods are called mine, ",
        ),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_packages_that_do_not_work_are_named(tmp_path, packages, message):
    for distribution, (value, code) in packages.items():
        announce(tmp_path, distribution, value, code)
    output = tmp_path / "output"
    options = ["--tasks", "demo_topic", "--model-args", "act_profile=all", "--output", str(output)]
    process = run_program("compare", *options, prepare=partial(start_with, tmp_path))
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith(f"act-eval: {message}")
    assert all(f" of {distribution}" in line for distribution in packages)
    assert not output.exists()
