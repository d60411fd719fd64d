"""How the tests are laid out."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.tier("unit")

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "act_eval"


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_tests_import_no_tests():
    for path in TESTS.rglob("*.py"):
        for module in imported_modules(path):
            parts = module.split(".")
            assert not any(part.startswith("test_") or part in ("conftest", "tests") for part in parts), f"{path}: {module}"


def test_folders_are_those_of_the_package():
    folders = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}
    assert {folder.relative_to(TESTS).parts[0] for folder in folders} <= {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
