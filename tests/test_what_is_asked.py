"""What a model is asked: `compare`, `search` and `sinks` ask what `lm_eval run` asks with the same options, one by one."""

import json
import sys
from functools import partialmethod

import pytest
import yaml
from helpers.pets import write_pets
from lm_eval import evaluator_utils
from lm_eval.__main__ import cli_evaluate
from lm_eval.caching import cache
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.search import documents as search_documents
from act_eval.sinks import documents as sinks_documents

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_reports", "without_plots")]

LM_EVAL_CACHES = hasattr(cache, "_cache_file_path")  # the command line of lm-eval 0.4.10 refuses every --cache_requests
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"


class RenderedError(Exception):
    """Prompts are there, and nothing else is of interest."""


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_pets(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory):
    """The embedded model's tokenizer with two chat templates."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    tokenizer.chat_template = {"default": TEMPLATE, "loud": TEMPLATE.upper()}
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def asked(monkeypatch, pets, tmp_path):
    """Requests that reach the model, by task and in order. Models answer without computing, and few tasks are known."""
    requests = {}

    def keep(answer):
        def respond(self, instances, disable_tqdm=False):
            for instance in instances:
                requests.setdefault(instance.task_name, []).append((instance.request_type, instance.args))
            return [answer for _ in instances]

        return respond

    monkeypatch.setattr(ACTLM, "loglikelihood", keep((-1.0, False)))
    monkeypatch.setattr(ACTLM, "generate_until", keep("cat"))
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "requests"))
    monkeypatch.chdir(tmp_path)
    return requests


def by_lm_eval(asked, monkeypatch, pets, *arguments):
    """What `lm_eval run` asks with these arguments."""
    asked.clear()
    with monkeypatch.context() as patch:
        fixed = ["--include_path", str(pets), "--device", "cpu", "--output_path", "of-lm-eval", "--log_samples"]
        if "--cache_requests" in arguments and not LM_EVAL_CACHES:
            option = arguments.index("--cache_requests")
            arguments = (*arguments[:option], *arguments[option + 2 :])
        patch.setattr(sys, "argv", ["lm_eval", "run", "--model", "act-hf", *arguments, *fixed])
        cli_evaluate()
    return dict(asked)


def act_eval(*arguments):
    """Run a command, and raise what it raises."""
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


def by_compare(asked, pets, *arguments):
    """What `compare` asks with these arguments, of the baseline; of ACT it is the same."""
    asked.clear()
    act_eval("compare", *arguments, "--include-path", str(pets), "--device", "cpu", "--output", "of-compare")
    halves = {name: (each[: len(each) // 2], each[len(each) // 2 :]) for name, each in asked.items()}
    assert all(one == other for one, other in halves.values())
    return {name: one for name, (one, _) in halves.items()}


def by_study(asked, pets, *arguments):
    """What `study` asks with these arguments when heads are found: of the baseline, and the same of all else."""
    asked.clear()
    search = ["--layers", "3", "--mode", "estimated", "--selection", "top-k", "--k", "2", "--search-limit", "2"]
    fixed = ["--random-draws", "0", "--include-path", str(pets), "--device", "cpu", "--output", "of-study"]
    act_eval("study", *arguments, *search, *fixed)
    variants = 4  # heads found, baseline, all heads, heads switched off
    parts = {
        name: [each[len(each) * part // variants : len(each) * (part + 1) // variants] for part in range(variants)]
        for name, each in asked.items()
    }
    assert all(part == first for first, *others in parts.values() for part in others)
    return {name: first for name, (first, *_) in parts.items()}


def contexts_of(command, pets, monkeypatch, *arguments):
    """The contexts and continuations that `search`, `study` or `sinks` render, in order; of a study those of its search."""
    rendered = []
    module = {"search": search_documents, "study": search_documents, "sinks": sinks_documents}[command]
    render = module.render

    def stop(*settings):
        rendered.extend(instance.args for instances in render(*settings) for instance in instances)
        raise RenderedError

    with monkeypatch.context() as patch:
        patch.setattr(module, "render", stop)
        with pytest.raises(RenderedError):
            act_eval(command, *arguments, "--include-path", str(pets), "--device", "cpu", "--output", "of-command")
    return rendered


MODEL_ARGS = "act_profile=all,act_alpha=5"
OPTIONS = {
    "the defaults": [],
    "a limit": ["--limit", "2"],
    "a share": ["--limit", "0.3"],
    "shots, where a config says 0": ["--num_fewshot", "3", "--limit", "4"],
    "an instruction": ["--system_instruction", "Think of pets.", "--limit", "2"],
    "generation": ["--gen_kwargs", "temperature=0.5,do_sample=True,max_gen_toks=2", "--limit", "2"],
    "generation with a list": ["--gen_kwargs", '{"until": ["a", ", "], "temperature": 0}', "--limit", "2"],
    "samples": ["--samples", '{"pets": [5, 2, 2], "pets_text": [0]}'],
    "cached requests": ["--cache_requests", "true", "--limit", "2"],
    "refreshed requests": ["--cache_requests", "refresh", "--limit", "2"],
    "deleted requests": ["--cache_requests", "delete", "--limit", "2"],
    "trust": ["--trust_remote_code", "--limit", "2"],
}
OF_STUDIES = ["the defaults", "shots, where a config says 0", "an instruction", "samples"]
CHAT = {
    "a chat template": [],
    "an instruction": ["--system_instruction", "Think of pets."],
    "turns": ["--fewshot_as_multiturn"],
}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_compare_asks_what_lm_eval_asks(asked, monkeypatch, pets, options):
    tasks = ["--tasks", "pets_text,pets,pets_zero,pets_two", "--model_args", MODEL_ARGS]
    expected = by_lm_eval(asked, monkeypatch, pets, *tasks, *options)
    assert by_compare(asked, pets, *tasks, *options) == expected
    assert set(expected) == {"pets", "pets_text", "pets_zero", "pets_two"}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("name", OF_STUDIES)
def test_study_asks_what_lm_eval_asks(asked, monkeypatch, pets, name):
    tasks = ["--tasks", "pets_text,pets", "--model_args", "act_alpha=1"]  # prompts are short
    expected = by_lm_eval(asked, monkeypatch, pets, *tasks, *OPTIONS[name])
    assert by_study(asked, pets, *tasks, *OPTIONS[name]) == expected
    assert set(expected) == {"pets", "pets_text"}


@pytest.mark.tier("slow")
def test_a_study_searches_as_search_does(asked, monkeypatch, pets):
    """On as many training documents as it is told, whatever the evaluation is limited to."""
    asked_for = ["--tasks", "pets", "--model-args", "act_alpha=5", "--num-fewshot", "2", "--layers", "all"]
    of_search = contexts_of("search", pets, monkeypatch, *asked_for, "--limit", "4")
    assert contexts_of("study", pets, monkeypatch, *asked_for, "--limit", "1", "--search-limit", "4") == of_search
    assert len(of_search) == 8


@pytest.mark.tier("slow")
@pytest.mark.parametrize("options", CHAT.values(), ids=CHAT)
def test_conversations_are_lm_evals(asked, monkeypatch, pets, chat_tokenizer, options):
    tasks = ["--tasks", "pets,pets_text,pets_zero", "--model_args", f"{MODEL_ARGS},tokenizer={chat_tokenizer}"]
    tasks += ["--apply_chat_template", "--num_fewshot", "2", "--limit", "3", *options]
    expected = by_lm_eval(asked, monkeypatch, pets, *tasks)
    assert by_compare(asked, pets, *tasks) == expected
    assert expected["pets"][0][1][0].count("[user]") == 3


@pytest.mark.tier("slow")
def test_examples_in_a_single_turn(asked, monkeypatch, pets, chat_tokenizer):
    tasks = ["--tasks", "pets", "--model_args", f"{MODEL_ARGS},tokenizer={chat_tokenizer}"]
    tasks += ["--apply_chat_template", "--num_fewshot", "2", "--limit", "3"]
    expected = by_lm_eval(asked, monkeypatch, pets, *tasks, "--fewshot_as_multiturn", "false")
    assert by_compare(asked, pets, *tasks, "--no_fewshot_as_multiturn") == expected
    assert expected["pets"][0][1][0].count("[user]") == 1


@pytest.mark.tier("slow")
def test_shots_of_tasks_act_as_though_their_configs_said_so(asked, monkeypatch, pets, tmp_path):
    """The number of a task goes before that of its tag, which goes before that of a group of more tasks."""
    changed = write_pets(tmp_path / "changed")
    for name, shots in {"pets": 1, "pets_zero": 3, "pets_text": 3, "pets_two": 4}.items():
        file = changed / f"{name}.yaml"
        file.write_text(f"{file.read_text()}num_fewshot: {shots}\n" if name in ("pets", "pets_text") else file.read_text())
        file.write_text(
            file.read_text().replace("num_fewshot: 0", "num_fewshot: 3").replace("num_fewshot: 2", "num_fewshot: 4")
        )
    tasks = ["--tasks", "pets_group,pets_two", "--model_args", MODEL_ARGS, "--limit", "3"]
    expected = by_lm_eval(asked, monkeypatch, changed, *tasks)
    asked_here = by_compare(asked, pets, *tasks, "--num-fewshot", "pets_group=3,pets=1,pets_tagged=4")
    assert asked_here == expected
    assert asked_here["pets_zero"][0][1][0].count("animal is a") == 4


@pytest.mark.tier("slow")
def test_unsafe_code(asked, monkeypatch, pets):
    tasks = ["--tasks", "pets_unsafe", "--model_args", MODEL_ARGS, "--limit", "2", "--confirm_run_unsafe_code"]
    assert by_compare(asked, pets, *tasks) == by_lm_eval(asked, monkeypatch, pets, *tasks)


@pytest.mark.tier("slow")
@pytest.mark.parametrize("given", ['{"word": "rare"}', None])
def test_tasks_that_are_made_with_metadata(asked, monkeypatch, pets, given):
    tasks = ["--tasks", "pets_made", "--model_args", f"pretrained={MODEL_PATH},{MODEL_ARGS}"]
    tasks += [] if given is None else ["--metadata", given]
    expected = by_lm_eval(asked, monkeypatch, pets, *tasks)
    assert by_compare(asked, pets, *tasks) == expected
    assert expected["pets_made"][0][1][0] == f"The {'rare' if given else 'plain'} {MODEL_PATH} 0 animal is a"


@pytest.mark.tier("slow")
def test_integrity(asked, monkeypatch, pets):
    """lm-eval's own tests run with the names that `lm_eval run` gives them, and once."""
    checked = []
    monkeypatch.setattr(evaluator_utils, "run_task_tests", lambda task_list: checked.append(list(task_list)))
    monkeypatch.setattr("lm_eval.evaluator.run_task_tests", evaluator_utils.run_task_tests)
    tasks = ["--tasks", "pets_text,pets", "--model_args", MODEL_ARGS, "--limit", "2", "--check_integrity"]
    assert by_compare(asked, pets, *tasks) == by_lm_eval(asked, monkeypatch, pets, *tasks)
    assert checked == [["pets_text", "pets"], ["pets_text", "pets"]]


@pytest.mark.tier("slow")
def test_tasks_that_draw_while_they_are_loaded(asked, monkeypatch, pets, tmp_path):
    """They draw with the global generators, which lm-eval seeds before. datasets keeps what is drawn, here for each run."""

    def run(ask, *options):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / f"{ask.__name__}{options}"))
        fixed = (asked, monkeypatch, pets) if ask is by_lm_eval else (asked, pets)
        return ask(*fixed, "--tasks", "pets_drawn", "--model_args", MODEL_ARGS, *options)

    expected = run(by_lm_eval, "--seed", "7")
    assert run(by_compare, "--seeds", "7") == expected
    assert run(by_compare, "--seeds", "8") != expected


@pytest.mark.tier("slow")
def test_a_config_file(asked, monkeypatch, pets, chat_tokenizer, tmp_path):
    """Of everything, in lm-eval's spelling; what stands on the command line goes before it."""
    entries = {
        "model": "act-hf",
        "model_args": {"act_profile": "all", "act_alpha": 5, "tokenizer": chat_tokenizer},
        "tasks": ["pets_text", "pets"],
        "num_fewshot": 2,
        "batch_size": 4,
        "device": "cpu",
        "samples": {"pets": [3, 1]},
        "system_instruction": "Think of pets: always.",
        "apply_chat_template": "default",
        "fewshot_as_multiturn": False,
        "gen_kwargs": {"until": [", "], "temperature": 0.5, "do_sample": True},
        "include_path": str(pets),
        "metadata": {"word": "rare"},
        "confirm_run_unsafe_code": True,
        "trust_remote_code": True,
        "check_integrity": False,
        "cache_requests": {"cache_requests": LM_EVAL_CACHES},
        "log_samples": True,
        "output_path": "of-the-file",
        "seed": [5, 5, 5, 5],
        "verbosity": "WARNING",
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(entries))
    expected = by_lm_eval(asked, monkeypatch, pets, "--config", str(file))
    assert by_compare(asked, pets, "--config", str(file)) == expected
    assert len(expected["pets"]) == 4
    overridden = ["--num_fewshot", "1", "--seed", "6", "--tasks", "pets"]
    expected = by_lm_eval(asked, monkeypatch, pets, "--config", str(file), *overridden)
    overridden[2] = "--seeds"
    assert by_compare(asked, pets, "--config", str(file), *overridden) == expected


OF_DOCUMENTS = {
    "shots": ["--num_fewshot", "3", "--seed", "9"],
    "an instruction": ["--system_instruction", "Think of pets.", "--num_fewshot", "1"],
    "cached": ["--cache_requests", "true", "--num_fewshot", "1"],
    "conversation": ["--apply_chat_template", "--num_fewshot", "2"],
}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("options", OF_DOCUMENTS.values(), ids=OF_DOCUMENTS)
@pytest.mark.parametrize("command", ["search", "sinks"])
def test_search_and_sinks_ask_what_lm_eval_asks(asked, monkeypatch, pets, chat_tokenizer, command, options):
    """Of the training split, which another task of the same config evaluates."""
    options = [*options, "--model_args", f"tokenizer={chat_tokenizer},act_alpha=5"]
    samples = json.dumps([4, 0, 7])
    here = ["--split", "train"] if command == "sinks" else ["--layers", "all"]
    rendered = contexts_of(
        command, pets, monkeypatch, "--tasks", "pets", "--samples", f'{{"pets": {samples}}}', *options, *here
    )
    expected = by_lm_eval(
        asked, monkeypatch, pets, "--tasks", "pets_training", "--samples", f'{{"pets_training": {samples}}}', *options
    )
    assert rendered == [args for _, args in expected["pets_training"]]
    assert len(rendered) == 6


@pytest.mark.tier("slow")
@pytest.mark.parametrize("command", ["search", "sinks"])
def test_a_config_that_says_no_examples_stays_so(asked, monkeypatch, pets, command):
    arguments = ["--tasks", "pets_zero", "--samples", '{"pets_zero": [1]}', "--num_fewshot"]
    plain = contexts_of(command, pets, monkeypatch, *arguments, "0")
    assert contexts_of(command, pets, monkeypatch, *arguments, "3") == plain
    assert contexts_of(command, pets, monkeypatch, *arguments, "pets_zero=3") != plain
