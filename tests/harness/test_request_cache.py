"""Requests that lm-eval keeps (`--cache-requests`): never those of another config, other documents, or settings."""

from dataclasses import replace

import pytest
from helpers.pets import write_pets, write_rows
from lm_eval.caching import cache
from transformers import AutoTokenizer
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.harness.request_cache import request_cache_of
from act_eval.harness.settings import PromptSettings

pytestmark = [pytest.mark.tier("slow"), pytest.mark.usefixtures("without_reports")]

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"


@pytest.fixture
def world(tmp_path, monkeypatch, without_lm_evals_tasks):
    """A folder with tasks and a tokenizer, and a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(cache, "PATH", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # so that the tokenizer has a short name, of which lm-eval 0.4.10 makes a file's
    write_pets(tmp_path / "pets")
    save_tokenizer(TEMPLATE)
    return tmp_path


def save_tokenizer(template):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    tokenizer.chat_template = template
    tokenizer.save_pretrained("chat")


def asked(monkeypatch, *options, command="compare", use="true"):
    """The contexts that the model is asked, and how many of them lm-eval built."""
    contexts, built = [], []
    build = "lm_eval.api.task.ConfigurableTask.fewshot_context"
    original = __import__("lm_eval.api.task", fromlist=["x"]).ConfigurableTask.fewshot_context

    def count(self, *args, **kwargs):
        built.append(1)
        return original(self, *args, **kwargs)

    def answer(self, instances, disable_tqdm=False):
        contexts.extend(instance.args for instance in instances)
        return [(-1.0, False) for _ in instances]

    with monkeypatch.context() as patch:
        patch.setattr(build, count)
        patch.setattr(ACTLM, "loglikelihood", answer)
        arguments = [
            command,
            "--tasks",
            "pets",
            "--include-path",
            "pets",
            "--device",
            "cpu",
            "--output",
            f"output{len(asked.runs)}",
        ]
        arguments += [] if use is None else ["--cache-requests", use]
        asked.runs.append(1)
        CliRunner().invoke(
            cli.app, [*arguments, "--model-args", "act_profile=all,tokenizer=chat", *options], catch_exceptions=False
        )
    return contexts, len(built)


asked.runs = []


def change_config(world):
    file = world / "pets" / "pets.yaml"
    file.write_text(file.read_text().replace("About pets", "About animals"))


def change_rows(world):
    write_rows(world / "pets", "test", ["new", "other", "third"])


def change_examples(world):
    write_rows(world / "pets", "train", ["bright", "dark", "shy"])


CHAT = ("--apply-chat-template",)
SHOTS = ("--num-fewshot", "2")
CHANGES = {
    "config": ((), change_config, ()),
    "rows": ((), change_rows, ()),
    "examples": (SHOTS, change_examples, SHOTS),
    "seed": ((*SHOTS, "--seeds", "1"), None, (*SHOTS, "--seeds", "2")),
    "shots": (("--num-fewshot", "1"), None, SHOTS),
    "limit": (("--limit", "2"), None, ("--limit", "3")),
    "no limit": (("--limit", "2"), None, ()),
    "samples": (("--samples", '{"pets": [1, 2]}'), None, ("--samples", '{"pets": [1, 3]}')),
    "samples for a limit": (("--samples", '{"pets": [1, 2]}'), None, ("--limit", "2")),
    "instruction": ((), None, ("--system-instruction", "Think.")),
    "chat template": (CHAT, lambda world: save_tokenizer(TEMPLATE.replace("assistant", "pet")), CHAT),
    "turns": ((*CHAT, *SHOTS), None, (*CHAT, *SHOTS, "--no-fewshot-as-multiturn")),
}


@pytest.mark.parametrize(("before", "change", "after"), CHANGES.values(), ids=CHANGES)
def test_no_stale_prompts(world, monkeypatch, before, change, after):
    asked(monkeypatch, *before)
    if change is not None:
        change(world)
    kept, built = asked(monkeypatch, *after)
    assert kept == asked(monkeypatch, *after, use=None)[0]
    assert built


@pytest.mark.parametrize("options", [(), SHOTS, ("--limit", "2"), ("--samples", '{"pets": [4, 1]}'), CHAT], ids=str)
def test_what_has_not_changed_is_built_once(world, monkeypatch, options):
    """For baseline and ACT, and for later runs, wherever their results go."""
    first, built = asked(monkeypatch, *options)
    again, built_again = asked(monkeypatch, *options)
    refreshed, built_anew = asked(monkeypatch, *options, use="refresh")
    assert first == again == refreshed == asked(monkeypatch, *options, use=None)[0]
    assert built > 0
    assert built_again == 0
    assert built_anew == 2 * built
    assert asked(monkeypatch, *options, use="delete")[0] == first
    assert not any((world / "cache").rglob(f"*{cache.FILE_SUFFIX}"))


def test_lm_evals_own_folder_is_as_it_was(world, monkeypatch):
    """Also after an error, and for what lm-eval keeps by itself."""
    prompts = PromptSettings(("pets",), cache_requests="true")
    lm = ACTLM(act_profile="none", device="cpu")
    usual, inside = str(world / "cache"), []

    def fail():
        with request_cache_of({}, prompts, lm):
            inside.append(cache.PATH)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert usual == cache.PATH
    assert inside[0].startswith(f"{usual}/act-eval/")
    with request_cache_of({}, replace(prompts, cache_requests=None), lm):
        assert usual == cache.PATH


def test_a_file_that_was_not_written_to_its_end(world, monkeypatch):
    first, _ = asked(monkeypatch)
    for file in (world / "cache").rglob(f"*{cache.FILE_SUFFIX}"):
        file.write_bytes(file.read_bytes()[:50])
    again, built = asked(monkeypatch)
    assert again == first
    assert built
