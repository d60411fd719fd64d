"""Options of the command line: made from settings classes, and named where a setting cannot work."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
import yaml
from helpers.program import context_of, every_command
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


OPTIONS = [
    (path, parameter.name, option)
    for path, command in every_command()
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
    if option.startswith("--") and "-" in option.removeprefix("--")
]


@pytest.mark.parametrize(("path", "name", "option"), OPTIONS, ids=[f"{' '.join(path)} {option}" for path, _, option in OPTIONS])
def test_options_may_be_written_with_underscores(path, name, option):
    for spelling in (option, "--" + option.removeprefix("--").replace("-", "_")):
        (parameter,) = (each for each in dict(every_command())[path].params if each.name == name)
        value = [] if getattr(parameter, "is_flag", False) else ["1"]
        context = context_of(path, [spelling, *value])
        assert context.get_parameter_source(name).name == "COMMANDLINE", spelling


def test_arguments_that_look_like_options_of_lm_eval_stay_as_they_are():
    context = context_of(("run",), ["--gen_kwargs", "a_b=1", "--model_args", "c-d=2"])
    assert context.args == ["--gen_kwargs", "a_b=1", "--model_args", "c-d=2"]


def config_file(folder, **entries):
    (folder / "config.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return str(folder / "config.yaml")


class TestConfigFiles:
    """Command line before file before defaults."""

    def run(self, folder, *arguments, **entries):
        return run(show, "--config", config_file(folder, **entries), *arguments)

    def test_a_file_stands_in_for_options(self, tmp_path):
        result = self.run(tmp_path, tasks=["a", "b"], limit=3, model_args={"pretrained": "m", "act_beta": 0.5}, device="cpu")
        prompts = PromptSettings(("a", "b"), limit=3.0)
        model = ModelSettings({"pretrained": "m", "act_beta": 0.5}, device="cpu", batch_size="1")
        assert result.output.strip() == f"{prompts} {model} 1"

    def test_options_go_before_the_file(self, tmp_path):
        options = ["--tasks", "c", "--limit", "2", "--no-apply-chat-template", "--gen-kwargs", "a=1", "--model-args", "x=2"]
        entries = {"tasks": "a", "limit": 3, "apply_chat_template": "tool", "gen_kwargs": "b=2", "model_args": "y=1,z=1"}
        prompts = PromptSettings(("c",), limit=2.0, gen_kwargs={"a": 1})
        model = ModelSettings({"x": 2}, batch_size="1")
        assert self.run(tmp_path, *options, **entries).output.strip() == f"{prompts} {model} 1"

    def test_values_keep_their_types(self, tmp_path):
        entries = {
            "tasks": "a",
            "limit": None,
            "num_fewshot": {"a": 2},
            "apply_chat_template": "tool",
            "fewshot_as_multiturn": False,
            "gen_kwargs": {"until": [",", "=", "{"], "temperature": 0.5},
            "metadata": {"tokenizer": "t", "lengths": [1, 2], "deep": {"a": None}},
            "model_args": {"dtype": "auto", "chat_template_args": {"a": [1]}},
        }
        prompts = PromptSettings(
            ("a",),
            limit=7.0,
            num_fewshot={"a": 2},
            apply_chat_template="tool",
            fewshot_as_multiturn=False,
            gen_kwargs=entries["gen_kwargs"],
            metadata=entries["metadata"],
        )
        assert self.run(tmp_path, **entries).output.strip() == f"{prompts} {ModelSettings(entries['model_args'], None, '1')} 1"

    @pytest.mark.parametrize("limit", [None, 3])
    def test_documents_that_are_named_are_not_limited_by_the_commands_own_number(self, tmp_path, limit):
        options = [] if limit is None else ["--limit", str(limit)]
        result = self.run(tmp_path, *options, tasks="a", samples={"a": [2, 1]})
        assert ("limit=None" in result.output) == (limit is None)
        assert isinstance(result.exception, InputError) == (limit is not None)

    @pytest.mark.parametrize(
        "entries",
        [
            {"limit": "many"},
            {"limit": [1]},
            {"num_fewshot": "some"},
            {"num_fewshot": True},
            {"num_fewshot": {"a": "x"}},
            {"num_fewshot": {"a": -1}},
            {"samples": [1, 2]},
            {"samples": {"a": 1}},
            {"samples": {"a": []}},
            {"samples": {"a": [-1]}},
            {"samples": {"a": [True]}},
            {"samples": "no-such-file.json"},
            {"gen_kwargs": [1]},
            {"gen_kwargs": "words"},
            {"metadata": 3},
            {"fewshot_as_multiturn": "perhaps"},
            {"fewshot_as_multiturn": True},
            {"cache_requests": "often"},
            {"confirm_run_unsafe_code": "perhaps"},
            {"use_cache": "x"},
            {"no_such_option": 1},
            {"seed": 1},
        ],
        ids=str,
    )
    def test_what_cannot_work_is_said_in_a_line(self, tmp_path, entries):
        result = self.run(tmp_path, **{"tasks": "a", **entries})
        assert result.exit_code in (1, 2)
        assert isinstance(result.exception, (InputError, SystemExit)), result.exception
        (name,) = entries
        assert (
            name in str(result.exception) + result.output
            or f"--{name.replace('_', '-')}" in str(result.exception) + result.output
        )

    def test_tasks_are_needed_in_one_of_both(self, tmp_path):
        assert self.run(tmp_path, limit=2).exit_code == 2

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_that_asks_a_model(self, tmp_path, command):
        """Seeds, output and messages too, by the names that they have in lm-eval."""
        entries = {"tasks": "a", "seed": 5, "output_path": "there", "verbosity": "DEBUG", "trust_remote_code": True}
        vary = ["--vary", "beta=0"] if command == "sweep" else []
        context = context_of((command,), ["--config", config_file(tmp_path, **entries), *vary])
        assert context.params["tasks"] == "a"
        assert str(context.params.get("seeds", context.params.get("seed"))) == "5"
        assert context.params["output"] == Path("there")
        assert context.params["verbose"] is True
        assert context.params["trust_remote_code"] is True
