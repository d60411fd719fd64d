"""`act-eval run` is lm_eval: whatever is asked for, and however, reaches lm-eval as through its own program."""

import json
import subprocess
import sys

import lm_eval
import lm_eval.tasks
import pytest
import yaml
from huggingface_hub import get_token
from lm_eval.__main__ import cli_evaluate
from lm_eval.api import registry
from lm_eval.models.dummy import DummyLM
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.harness.tasks import tasks_path

pytestmark = pytest.mark.tier("model")

PROJECT = str(tasks_path())


@pytest.fixture
def asked(monkeypatch, capsys):
    """What lm-eval is asked by a program: the arguments of its evaluation, where tasks are looked for, and what is printed."""

    def ask(program, arguments):
        evaluations, paths = [], []

        class Manager(lm_eval.tasks.TaskManager):
            """The project's tasks alone: to index lm-eval's own takes many seconds."""

            def __init__(self, include_path=None, **_):
                paths.append([include_path] if isinstance(include_path, str) else list(include_path or []))
                super().__init__(include_path=list(dict.fromkeys([PROJECT, *paths[-1]])), include_defaults=False)

        def evaluate(**options):
            evaluations.append(
                {name: value for name, value in options.items() if name not in ("task_manager", "evaluation_tracker")}
            )

        with monkeypatch.context() as patch:
            patch.setattr(lm_eval, "simple_evaluate", evaluate)
            patch.setattr(lm_eval.tasks, "TaskManager", Manager)
            patch.setattr(sys, "argv", ["lm_eval", *arguments])
            if program == "lm_eval":
                cli_evaluate()
                printed = capsys.readouterr().out
            else:
                printed = CliRunner().invoke(cli.app, ["run", *arguments], catch_exceptions=False).stdout
        return evaluations, paths, printed

    return ask


def config_file(folder, **content):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


EVALUATIONS = {
    "flags": ["--model", "dummy", "--tasks", "demo_topic", "--limit", "3", "--num_fewshot", "2", "--seed", "7"],
    "subcommand": ["run", "--model", "dummy", "--tasks", "demo_topic,demo_choice", "--batch_size", "4"],
    "flag=value": ["--model=dummy", "--tasks=demo_topic", "--model_args=a=1,b=x", "--gen_kwargs=temperature=0.5"],
    "short flags": ["-M", "dummy", "-t", "demo_topic", "-L", "5", "-f", "1"],
    "short flag and value in one": ["-Mdummy", "-tdemo_topic"],
    "abbreviated": ["--model", "dummy", "--task", "demo_topic", "--predict_only", "--output_path", "x"],
    "chat": ["--model", "dummy", "--tasks", "demo_topic", "--apply_chat_template", "--system_instruction", "Be brief."],
    "other model": ["--model", "hf", "--model_args", "pretrained=some/model", "--tasks", "act_demo"],
}


@pytest.mark.parametrize("arguments", EVALUATIONS.values(), ids=EVALUATIONS)
def test_named_models_and_tasks_reach_lm_eval_alike(asked, arguments):
    own, own_paths, _ = asked("act-eval", arguments)
    (expected,), paths, _ = asked("lm_eval", arguments)
    assert own == [expected]
    assert own_paths == [[PROJECT, *some] for some in paths]


@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        ({"model": "hf", "model_args": {"pretrained": "m"}, "tasks": ["demo_topic"], "limit": 2}, []),
        ({"model": "hf", "tasks": ["demo_topic"]}, ["--model", "dummy", "--limit", "4"]),
        ({"model": "dummy", "num_fewshot": 3}, ["--tasks", "demo_topic"]),
        ({"tasks": ["demo_topic"], "batch_size": 3}, ["-M", "dummy"]),
    ],
)
def test_what_a_config_file_says_counts_as_given(asked, tmp_path, content, arguments):
    arguments = ["--config", config_file(tmp_path, **content), *arguments]
    own, own_paths, _ = asked("act-eval", arguments)
    (expected,), paths, _ = asked("lm_eval", arguments)
    assert own == [expected]
    assert own_paths == [[PROJECT, *some] for some in paths]


@pytest.mark.parametrize("way", ["flag", "flag=value", "file"])
def test_other_folders_of_tasks_are_looked_into_as_well(asked, tmp_path, way):
    folder = tmp_path / "own"
    folder.mkdir()
    task = {"task": "mine", "include": f"{PROJECT}/act_demo/demo_topic.yaml"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(task))
    given = {
        "flag": ["--include_path", str(folder)],
        "flag=value": [f"--include_path={folder}"],
        "file": ["--config", config_file(tmp_path, include_path=str(folder))],
    }[way]
    (own,), own_paths, _ = asked("act-eval", ["--model", "dummy", "--tasks", "mine", *given])
    (expected,), paths, _ = asked("lm_eval", ["--model", "dummy", "--tasks", "mine", *given])
    assert own == expected
    assert (own_paths, paths) == ([[PROJECT, str(folder)]], [[str(folder)]])


@pytest.mark.parametrize("where", ["nowhere", "file without a model", "after another option"])
def test_the_model_is_act_hf_where_none_is_named(asked, tmp_path, where):
    arguments = {
        "nowhere": [],
        "file without a model": ["--config", config_file(tmp_path, limit=2)],
        "after another option": ["--model_args", "act_profile=all"],
    }[where]
    (own,), _, _ = asked("act-eval", ["--tasks", "demo_topic", *arguments])
    (expected,), _, _ = asked("lm_eval", ["--tasks", "demo_topic", *arguments])
    assert own == {**expected, "model": "act-hf"}
    assert expected["model"] == "hf"


@pytest.mark.parametrize("where", ["arguments", "file"])
def test_an_access_token_reaches_the_hub_alone(asked, tmp_path, monkeypatch, where):
    """lm-eval writes all model arguments into its results, and prints them."""
    monkeypatch.setenv("HF_TOKEN", "another")
    given = {
        "arguments": ["--model_args", "pretrained=some/model,token=hf_secret"],
        "file": ["--config", config_file(tmp_path, model_args={"pretrained": "some/model", "token": "hf_secret"})],
    }[where]
    (own,), _, _ = asked("act-eval", ["--tasks", "demo_topic", *given])
    assert own["model_args"] == {"pretrained": "some/model"}
    assert "hf_secret" not in str(own)
    assert get_token() == "hf_secret"


@pytest.fixture
def keyed(monkeypatch):
    """What a model of lm-eval that takes keys was made with; it is known as `keyed`, and only the project's tasks are there."""
    made = []

    class Keyed(DummyLM):
        def __init__(self, **arguments):
            super().__init__()
            made.append(arguments)

    class Manager(lm_eval.tasks.TaskManager):
        def __init__(self, **options):
            super().__init__(**{**options, "include_path": [PROJECT], "include_defaults": False})

    get_model = registry.get_model
    monkeypatch.setattr(registry, "get_model", lambda name: Keyed if name == "keyed" else get_model(name))
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Manager)
    return made


@pytest.mark.parametrize(
    ("where", "others"),
    [("arguments", {"model": "some-model"}), ("file", {"model": "some-model"}), ("arguments", {}), ("file", {})],
)
def test_keys_of_api_models_reach_the_model_alone(keyed, tmp_path, capfd, caplog, where, others):
    """They are in no file, and in nothing that is printed or logged."""
    secrets = {"api_key": "sk-secret", "header": {"Authorization": "Bearer sk-secret"}}
    model_args = {**others, **secrets}
    given = {
        "arguments": ["--model_args", json.dumps(model_args)],
        "file": ["--config", config_file(tmp_path, model_args=model_args)],
    }[where]
    output = tmp_path / "results"
    arguments = ["--model", "keyed", "--tasks", "demo_topic", "--limit", "2", *given, "--show_config"]
    with caplog.at_level("DEBUG"):
        result = CliRunner().invoke(
            cli.app, ["run", *arguments, "--output_path", str(output), "--log_samples"], catch_exceptions=False
        )
    (made,) = keyed
    assert {name: value for name, value in made.items() if name in model_args} == model_args
    files = [file for file in output.rglob("*") if file.is_file()]
    (results,) = [json.loads(file.read_text()) for file in files if file.name.startswith("results_")]
    assert results["config"]["model_args"] == others
    written = [*(file.read_text() for file in files), result.output, *capfd.readouterr(), caplog.text]
    assert not [text for text in written if "sk-secret" in text]
    assert registry.get_model("dummy") is DummyLM


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "tasks"],
        ["ls", "groups", "--include_path", "FOLDER"],
        ["validate", "--tasks", "demo_topic,act_demo"],
        ["validate", "--tasks=mine", "--include_path=FOLDER"],
    ],
    ids=" ".join,
)
def test_the_other_subcommands(asked, tmp_path, arguments):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"task": "mine", "include": f"{PROJECT}/act_demo/demo_topic.yaml"}))
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    _, own_paths, own_printed = asked("act-eval", arguments)
    _, paths, printed = asked("lm_eval", arguments)
    assert own_paths == [[PROJECT, *some] for some in paths]
    assert own_printed.replace(f"{PROJECT}/", "") == printed.replace(f"{PROJECT}/", "")


@pytest.mark.tier("process")
def test_every_model_of_lm_eval_is_known():
    code = (
        "from lm_eval._cli import HarnessCLI; HarnessCLI.execute = lambda *_: None\n"
        "from typer.testing import CliRunner; from act_eval.cli.app import app\n"
        "result = CliRunner().invoke(app, ['run', '--model', 'hf', '--tasks', 'x'], catch_exceptions=False)\n"
        "from lm_eval.api.registry import get_model, model_registry; print(get_model('hf').__name__)\n"
        "print(get_model('act-hf').__name__)\n"
        "import lm_eval.models; print(set(lm_eval.models.MODEL_MAPPING) <= set(model_registry))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["HFLM", "ACTLM", "True"]
