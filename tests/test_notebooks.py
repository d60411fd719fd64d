"""Every notebook runs, and the folder's README lists it."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.tier("slow")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    """In a folder beside the repository's own, so that what a notebook writes is not left behind."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "notebooks")}}
    NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=resources).execute()
    assert f"({path.name})" in (NOTEBOOKS / "README.md").read_text()
    kept = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    assert kept
    assert not any(output.get("name") == "stderr" for output in kept)
