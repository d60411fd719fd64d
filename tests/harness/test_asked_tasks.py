"""Tasks as settings ask for them: what does not fit is refused before a model is loaded, by every command."""

from functools import partialmethod

import pytest
from helpers.pets import write_pets
from lm_eval import evaluator_utils
from lm_eval.caching import cache
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.harness.asked_tasks import load_asked_tasks
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.task_identity import describe_task

pytestmark = pytest.mark.tier("model")


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    return str(write_pets(tmp_path / "pets"))


class LoadedModelError(Exception):
    """The model would be loaded."""


@pytest.fixture
def no_model(monkeypatch):
    def load(*args, **kwargs):
        raise LoadedModelError

    monkeypatch.setattr(ACTLM, "__init__", load)


REFUSED = {
    "unsafe code": (["pets_unsafe"], [], "--confirm-run-unsafe-code is needed for pets_unsafe"),
    "samples of another task": (["pets"], ["--samples", '{"pets_two": [0]}'], "--samples names 'pets_two', which is none of"),
    "samples of a group": (["pets_group"], ["--samples", '{"pets_group": [0]}'], "--samples names 'pets_group', which is none"),
    "samples beyond": (
        ["pets"],
        ["--samples", '{"pets": [3, 12]}'],
        "--samples names document 12 of pets, which has documents 0 to 11",
    ),
    "samples of a limit": (["pets"], ["--samples", '{"pets": [3]}', "--limit", "3"], "--limit must be None"),
    "samples that are none": (["pets"], ["--samples", "no-such-file"], "--samples 'no-such-file' is neither a mapping"),
    "samples in bad JSON": (["pets"], ["--samples", "{pets: [1]}"], "--samples '{pets: [1]}' is neither a mapping"),
    "shots of another task": (["pets"], ["--num-fewshot", "pets_two=1"], "--num-fewshot names 'pets_two', which is no task"),
    "shots of nothing": (["pets"], ["--num-fewshot", "none=1"], "--num-fewshot names 'none', which is no task"),
    "shots that are none": (
        ["pets"],
        ["--num-fewshot", "pets=many"],
        "--num-fewshot must be at least 0, and a whole number, not 'many'",
    ),
    "shots without a name": (["pets"], ["--num-fewshot", "many"], "--num-fewshot 'many' cannot be read"),
    "gen_kwargs": (["pets"], ["--gen-kwargs", "hot"], "--gen-kwargs 'hot' cannot be read: write it as a=1,b=2, or as JSON"),
    "metadata": (["pets"], ["--metadata", "{a: 1}"], "--metadata '{a: 1}' cannot be read"),
    "turns": (["pets"], ["--fewshot-as-multiturn"], "`apply_chat_template` must be set"),
    "cache": (["pets"], ["--cache-requests", "often"], "--cache-requests is 'often': choose one of true, refresh, delete"),
    "integrity": (
        ["pets"],
        ["--check-integrity"],
        "--check-integrity runs lm-eval's own tests with pytest, but this lm-eval was",
    ),
}


@pytest.mark.parametrize("command", ["compare", "sweep", "search", "sinks"])
@pytest.mark.parametrize(("tasks", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_said_before_the_model_is_loaded(pets, no_model, tmp_path, command, tasks, options, words):
    arguments = [command, "--tasks", ",".join(tasks), *options, "--include-path", pets, "--device", "cpu"]
    arguments += ["--output", str(tmp_path / "output"), *(["--vary", "beta=0,0.4"] if command == "sweep" else [])]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, InputError), result.exception
    assert words in str(result.exception)


def test_a_document_of_a_search_that_is_evaluated_too(pets, no_model, tmp_path):
    """A search never looks at documents of the evaluation split."""
    with open(f"{pets}/train.jsonl", "a") as rows:
        rows.write('{"word": "old", "gold": 0}\n')
    arguments = ["search", "--tasks", "pets", "--include-path", pets, "--device", "cpu", "--output", str(tmp_path / "output")]
    result = CliRunner().invoke(cli.app, [*arguments, "--samples", '{"pets": [12]}'])
    assert isinstance(result.exception, InputError), result.exception
    assert "--samples names document 12 of pets, which is in the evaluation split too" in str(result.exception)
    assert isinstance(CliRunner().invoke(cli.app, [*arguments, "--samples", '{"pets": [11]}']).exception, LoadedModelError)


def test_tests_of_lm_eval_that_fail(pets, no_model, tmp_path, monkeypatch):
    def fail(task_list):
        raise ValueError("Not all tests ran successfully")

    monkeypatch.setattr(evaluator_utils, "run_task_tests", fail)
    arguments = ["compare", "--tasks", "pets", "--include-path", pets, "--check-integrity", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, InputError)
    assert "lm-eval's own tests of pets fail" in str(result.exception)


def test_requests_that_are_kept_are_deleted_once_and_before(pets, no_model, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "cache"))
    kept = [tmp_path / "cache" / f"one{cache.FILE_SUFFIX}", tmp_path / "cache" / "act-eval" / "00" / f"two{cache.FILE_SUFFIX}"]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    other = tmp_path / "cache" / "other"
    other.touch()
    arguments = [
        "compare",
        "--tasks",
        "pets",
        "--include-path",
        pets,
        "--cache-requests",
        "delete",
        "--output",
        str(tmp_path / "o"),
    ]
    for _ in range(2):
        assert isinstance(CliRunner().invoke(cli.app, arguments).exception, LoadedModelError)
    assert [file.exists() for file in (*kept, other)] == [False, False, True]


def described(pets, metadata=None, **model_args):
    model = ModelSettings(model_args)
    prompts = PromptSettings(("pets",), include_path=pets, metadata=metadata or {})
    return describe_task(load_asked_tasks(prompts, model).loaded.tasks["pets"], prompts, model)


def test_what_a_task_is_does_not_depend_on_the_model(pets):
    """lm-eval puts model arguments into the metadata of configs; where a checkpoint lies says nothing of what is asked."""
    plain = described(pets)
    assert plain["config"]["metadata"] == {"version": 1}
    assert described(pets, pretrained="/somewhere/model", act_beta=0.2, dtype="float32") == plain
    given = described(pets, {"word": "rare", "pretrained": "m"}, pretrained="m")
    assert given["config"]["metadata"] == {"version": 1, "word": "rare", "pretrained": "m"}


def test_what_a_task_is_depends_on_the_documents_that_are_asked(pets):
    def documents(**settings):
        prompts = PromptSettings(("pets",), include_path=pets, **settings)
        asked = load_asked_tasks(prompts, ModelSettings())
        return describe_task(asked.loaded.tasks["pets"], prompts, ModelSettings())["documents"]

    assert documents(samples={"pets": [0, 1]}) == documents(limit=2)
    assert len({documents(), documents(limit=2), documents(samples={"pets": [0, 2]}), documents(samples={"pets": [1]})}) == 4
