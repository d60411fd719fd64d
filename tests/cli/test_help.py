"""Help of every command: an example that can be given, defaults, groups of options; and completion in a shell."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
import typer
from helpers.program import context_of, every_command
from typer.testing import CliRunner

from act_eval.cli.app import app

pytestmark = pytest.mark.tier("unit")

COMMANDS = list(every_command())
PATHS = [path for path, _ in COMMANDS]
GROUPS = [(name,) for name, command in typer.main.get_command(app).commands.items() if hasattr(command, "commands")]
PASSED_ON = ("run",)  # whose help and options are those of lm_eval


def named(path):
    return " ".join(path) or "act-eval"


@cache
def help_of(path):
    """What `--help` prints on a wide terminal, in one line."""
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def options():
    for path, command in COMMANDS:
        for parameter in command.params:
            if path != PASSED_ON and parameter.name != "help":
                yield path, parameter


OPTIONS = [pytest.param(path, parameter, id=f"{named(path)} {parameter.name}") for path, parameter in options()]


def test_the_list_is_whole():
    assert {("study",), ("profiles", "push"), ("mt-bench", "judge")} <= set(PATHS)
    assert {("profiles",), ("mt-bench",)} == set(GROUPS)


@pytest.mark.parametrize("path", [(), *GROUPS, *(path for path in PATHS if path != PASSED_ON)], ids=named)
def test_help_has_an_example(path):
    assert f"Example: {' '.join(('act-eval', *path))}" in help_of(path)


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_the_example_can_be_given(path):
    (example,) = re.findall(r"^ *Example: (act-eval .+)$", dict(COMMANDS)[path].help, flags=re.MULTILINE)
    program, *words = shlex.split(example)
    assert (program, *words[: len(path)]) == ("act-eval", *path)
    context_of(path, words[len(path) :], resilient_parsing=False)


@pytest.mark.parametrize(("path", "parameter"), OPTIONS)
def test_help_says_what_an_option_is_for_and_its_default(path, parameter):
    text = help_of(path)
    assert " ".join(parameter.help.split()) in text
    if parameter.required or getattr(parameter, "is_flag", False):
        return
    shown = f"({parameter.show_default})" if isinstance(parameter.show_default, str) else str(parameter.default)
    assert shown not in ("", "None", "()", "[]")
    assert f"[default: {shown}]" in text


@pytest.mark.parametrize(("path", "parameter"), OPTIONS)
def test_options_stand_in_groups(path, parameter):
    if parameter.param_type_name == "option":
        assert parameter.rich_help_panel
        assert parameter.rich_help_panel in help_of(path)


def test_commands_stand_in_groups():
    assert all(command.rich_help_panel for command in typer.main.get_command(app).commands.values())


@pytest.mark.tier("process")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["act-eval", "co"], ["compare"]),
        (["act-eval", "profiles", "p"], ["push"]),
        (["act-eval", "study", "--se"], ["--search-limit", "--search-tasks", "--seeds", "--selection"]),
    ],
    ids=" ".join,
)
def test_a_shell_is_told_how_a_line_may_go_on(words, expected):
    variables = {"_ACT_EVAL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "from act_eval.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True)
    assert sorted(result.stdout.split()) == expected, result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = CliRunner().invoke(app, ["--show-completion", shell], prog_name="act-eval")
    assert "_ACT_EVAL_COMPLETE=complete_" in result.output
