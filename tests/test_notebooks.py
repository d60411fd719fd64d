"""Every notebook runs, is listed in the folder's README, and opens in Colab, where its first cell installs what it needs."""

import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from helpers.processes import quick_processes
from helpers.thorough import THOROUGH
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

pytestmark = pytest.mark.tier("slow")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
LARGEST = 300_000  # bytes, outputs and figures among them
IN_A_KERNEL = "a_study_of_a_real_model"  # it imports least
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}"


def repository():
    """The name of the repository on GitHub, as the package says."""
    (name,) = re.findall('^Repository = "https://github.com/(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return name


every_notebook = pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)


@every_notebook
@pytest.mark.tier("unit")
def test_opens_in_colab(path):
    """At the repository that the package names."""
    first = nbformat.read(path, as_version=4).cells[0]
    assert f"]({COLAB.format(repository(), path.name)})" in first.source.splitlines()[2]
    assert path.stat().st_size < LARGEST


@every_notebook
@pytest.mark.tier("unit")
def test_the_first_cell_installs_where_nothing_is_there(path, monkeypatch):
    cells = nbformat.read(path, as_version=4).cells
    install, *others = (cell for cell in cells if cell.cell_type == "code")
    assert not install.outputs
    reads_files = any(re.search(r"\.\./(tests|results)", cell.source) for cell in others)
    commands, folders = [], []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command[-1].partition("[")[0]))
    monkeypatch.setattr("os.chdir", folders.append)
    with monkeypatch.context() as patch:
        patch.setattr("os.path.isdir", lambda folder: False)
        exec(install.source, {})
    assert commands == (["act-eval", f"https://github.com/{repository()}"] if reads_files else ["act-eval"])
    assert folders == (["act-eval/notebooks"] if reads_files else [])


@every_notebook
@pytest.mark.tier("unit")
def test_the_first_cell_does_nothing_where_all_is_there(path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("something was installed")

    install = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr("os.chdir", fail)
    monkeypatch.setattr("os.path.isdir", lambda folder: True)
    exec(install.source, {})


class Shell(InteractiveShell):
    """IPython without a kernel; figures are shown as in a notebook."""

    def enable_gui(self, gui=None):
        """There is no window."""


def run_cells(sources, folder):
    """Run cells one after the other, as a kernel does; the first that fails ends it."""
    os.chdir(folder)
    shell = Shell.instance()
    for source in sources:
        shell.run_cell(source).raise_error()


@every_notebook
def test_runs(path, tmp_path, monkeypatch):
    """In a folder beside the repository's own, so that what a notebook writes is not left behind.

    Unless tests are thorough, on few documents of each task, with short answers, and, but for one notebook, in a process that
    has everything imported, which takes a kernel many seconds.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for folder in ("tests", "results"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    for cell in [] if THOROUGH else notebook.cells:
        cell.source = re.sub(r"\b(limit|max_new_tokens)=\d+", r"\1=8", cell.source)
    folder = tmp_path / "notebooks"
    if THOROUGH or path.stem == IN_A_KERNEL:
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=resources).execute()
    else:
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        process = quick_processes().Process(target=run_cells, args=(sources, folder))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert f"({path.name})" in (NOTEBOOKS / "README.md").read_text()
    kept = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert kept
    assert not any(output.get("name") == "stderr" for output in kept)
