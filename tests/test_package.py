"""What a built wheel holds, and how large it is."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.tier("process")

ROOT = Path(__file__).parents[1]
LARGEST_WHEEL = 4 * 2**20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests run outside a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize(
    "name",
    [
        "act_eval_startup.pth",
        "act_eval/py.typed",
        "act_eval/__init__.pyi",
        "act_eval/report/__init__.pyi",
        "act_eval/model_families.json",
        "act_eval/demo/model/model.safetensors",
        "act_eval/demo/model/tokenizer.json",
        "act_eval/published_profiles/llama-2-7b-chat/classification.json",
        "act_eval/mt_bench/prompts/1/single.jinja",
        "act_eval/task_configs/act_demo/demo_choice.yaml",
        "act_eval/task_configs/act_demo/_template_yaml",
        "act_eval/task_configs/act_demo/utils.py",
        "act_eval/task_configs/act_17/_act_17.yaml",
        "act_eval/task_configs/act_17/_multiple_choice_yaml",
        "act_eval/task_configs/act_17/utils.py",
        "act_eval/task_configs/act_qa/act_squad_v2.yaml",
    ],
)
def test_the_wheel_holds(wheel, name):
    assert name in wheel.namelist()


def test_the_wheel_holds_nothing_else(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"act_eval", "act_eval_startup.pth"}
    assert Path(wheel.filename).stat().st_size < LARGEST_WHEEL


@pytest.fixture(scope="module")
def repository():
    """The names of the repository's files."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("the tests run outside a git checkout")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def test_documents_name_files_that_are_there(repository):
    for document in (name for name in repository if name.endswith(".md")):
        for name in re.findall(r"`((?:act_eval|benchmarks|notebooks|tasks|tests)/[\w./-]+)`", (ROOT / document).read_text()):
            assert (ROOT / name).exists(), f"{document} names {name}"


def test_no_path_of_a_machine_in_the_repository(repository):
    own = Path(__file__).relative_to(ROOT).as_posix()
    for name in repository:
        content = (ROOT / name).read_bytes() if name != own else b""
        for trace in (b"/home/", b"/root/", b"/work/", str(ROOT).encode() + b"/"):
            assert trace not in content, f"{name} holds {trace.decode()}"
