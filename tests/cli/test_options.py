"""Options of the command line: made from settings classes, and named where a setting cannot work."""

from dataclasses import fields
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from act_eval.cli.app import app
from act_eval.cli.options import SHARED, with_settings
from act_eval.errors import InputError, SettingError
from act_eval.harness.settings import ModelSettings, PromptSettings

pytestmark = pytest.mark.tier("unit")

COMMANDS = ("compare", "sweep", "search", "sinks")


def run(command, *arguments):
    """The result of a command alone on its command line."""
    alone = typer.Typer()
    alone.command()(command)
    return CliRunner().invoke(alone, list(arguments))


@with_settings(without=("seed",), limit=7)
def show(*, prompts: PromptSettings, model: ModelSettings, k: int = 1) -> None:
    """Print what a command gets."""
    print(prompts, model, k)


def test_a_command_gets_settings_from_options():
    result = run(show, "--tasks", "a,b", "--model-args", "pretrained=m,act_beta=0.2", "--num-fewshot", "3", "--k", "2")
    prompts = PromptSettings(("a", "b"), limit=7.0, num_fewshot=3)
    model = ModelSettings({"pretrained": "m", "act_beta": 0.2}, batch_size="1")
    assert result.output.strip() == f"{prompts} {model} 2"


def test_an_option_that_a_command_goes_without():
    assert run(show, "--tasks", "a", "--seed", "1").exit_code == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("limit", "--limit is wrong"), ("kind", "kind is wrong"), ("few", "--few-of is wrong"), ("few_of", "--few-of is wrong")],
)
def test_a_setting_that_cannot_work_is_named_by_its_option(name, words):
    @with_settings()
    def fail(*, prompts: PromptSettings, few: Annotated[int, typer.Option("--few-of")] = 1) -> None:
        raise SettingError(name, "is wrong")

    if name == "few":
        name = "few_of"
    result = run(fail, "--tasks", "a")
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_asks_a_model_has_every_shared_option(command):
    """A new field of the settings classes with an entry in `SHARED` reaches all of them."""
    (registered,) = (each for each in typer.main.get_command(app).commands.values() if each.name == command)
    options = {parameter.name for parameter in registered.params}
    assert set(SHARED) - options <= {"seed"}


def test_every_field_of_the_shared_settings_has_an_option():
    assert set(SHARED) == {field.name for settings in (ModelSettings, PromptSettings) for field in fields(settings)}
