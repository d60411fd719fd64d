"""The pages that list methods say of each what it does, by what formula, after which paper, and what it takes."""

from dataclasses import fields
from pathlib import Path

import pytest

from act_eval.methods.overview import Description, descriptions, page, table
from act_eval.methods.registry import available_methods, built_in_methods

pytestmark = pytest.mark.tier("unit")

DOCS = Path(__file__).parents[2] / "docs"
OF_NO_PAPER = {"boost", "remove", "temperature", "to-first-token"}  # contrasts to ACT


def test_all_methods_are_there():
    assert [method.name for method in descriptions()] == [name for name in available_methods() if name in built_in_methods()]
    for name in built_in_methods():
        assert f"\n| `{name}` | " in table()
        assert f"## `{name}`" in page()
    assert "from act_eval.methods.overview import page" in (DOCS / "methods.md").read_text()
    assert "from act_eval.methods.overview import table" in (DOCS / "ablations.md").read_text()


@pytest.mark.parametrize("name", built_in_methods())
def test_each_says_formula_paper_and_parameters(name):
    method = Description.of(built_in_methods()[name])
    assert "A'" in method.summary + method.text
    assert bool(method.links) is (name not in OF_NO_PAPER)
    assert all(link.startswith("https://arxiv.org/abs/") for link in method.links)
    assert [parameter.name for parameter in method.parameters] == [field.name for field in fields(built_in_methods()[name])]
    for parameter in method.parameters:
        assert parameter.meaning, parameter.name
        assert f"`act_{parameter.name}`" in table()
    assert "Args:" not in method.text
    assert "\n" not in method.summary


def test_what_they_need():
    needs = {method.name: method.needs for method in descriptions()}
    assert needs["act"] == ("sinks",)
    assert needs["to-first-token"] == ("sinks", "the first token")
    assert needs["zerotuning"] == ("groups of heads", "the first token")
    assert needs["pasta"] == ("a part of the prompt",)
    assert needs["temperature"] == ("the first token", "all weights of a row")
