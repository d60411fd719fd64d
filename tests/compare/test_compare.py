"""act-eval compare, report, run, demo and profiles, as users call them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.dying import run_until_killed
from helpers.own_tasks import leave_out_lm_evals_tasks
from helpers.pets import write_pets
from helpers.processes import LM_EVAL, run_program, run_programs
from helpers.runs import read_samples
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness import lm, requests
from act_eval.harness.lm import ACTLM
from act_eval.harness.requests import RequestError
from act_eval.harness.tasks import tasks_path
from act_eval.profiles import HeadProfile

pytestmark = pytest.mark.tier("model")

ARGUMENTS = ["compare", "--tasks", "demo_choice,demo_topic", "--limit", "12", "--batch-size", "4", "--device", "cpu"]
MODEL_ARGS = ["--model-args", "act_profile=all,act_alpha=5,dtype=float32"]


def act_eval(*arguments, **options):
    """Run the installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("act-eval")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def compare(output, *extra):
    result = CliRunner().invoke(cli.app, [*ARGUMENTS, *MODEL_ARGS, "--output", str(output), *extra])
    if result.exception:
        raise result.exception
    return result.output


def identities(output):
    """(task, profile) of every results file."""
    cells = [json.loads(file.read_text())["act_eval_run"]["asked"] for file in output.rglob("results_*.json")]
    return sorted((cell["task"], cell["model_args"]["act_profile"]) for cell in cells)


EVERY_CELL = [("demo_choice", "all"), ("demo_choice", "none"), ("demo_topic", "all"), ("demo_topic", "none")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished comparison."""
    output = tmp_path_factory.mktemp("finished")
    compare(output)
    return output


@pytest.mark.tier("slow")
def test_lm_evals_own_files(finished):
    assert identities(finished) == EVERY_CELL
    (folder,) = {file.parent for file in finished.rglob("results_*.json")}
    assert folder.name == "act-eval-demo"
    for file in folder.glob("results_*.json"):
        results = json.loads(file.read_text())
        (task,) = results["configs"]
        samples = read_samples(file, task)
        assert len(samples) == 12
        assert results["config"]["model"] == "act-hf"
        assert results["config"]["act"]["num_heads"] in (0, 32)
        assert results["results"][task]["acc,none"] == sum(sample["acc"] for sample in samples) / 12
    assert not list(finished.glob(".unfinished*"))
    assert (finished / "comparison.md").is_file()


@pytest.mark.usefixtures("without_reports")
@pytest.mark.tier("slow")
def test_a_task_with_requests_that_cannot_be_run_does_not_stop_the_others(tmp_path, monkeypatch):
    def without_food(lm, context, continuation):
        return requests.encode_pair(lm, context, "" if "Topic:" in context and continuation == " food" else continuation)

    arguments = [*ARGUMENTS, *MODEL_ARGS, "--tasks", "demo_topic,demo_choice", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(lm, "encode_pair", without_food)
        result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, RequestError)
    words = "demo_topic, document 0, choice 1 (one of 12 such documents) cannot be run, because its continuation is empty"
    assert str(result.exception).startswith(words)
    assert identities(tmp_path) == [("demo_choice", "all"), ("demo_choice", "none")]
    assert not list(tmp_path.glob(".unfinished*"))
    CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert identities(tmp_path) == EVERY_CELL


@pytest.mark.usefixtures("without_plots")
@pytest.mark.tier("slow")
def test_the_demo_is_a_study(tmp_path, monkeypatch):
    output = tmp_path / "demo"
    command = ["demo", "--limit", "4", "--output", str(output)]
    CliRunner().invoke(cli.app, command, catch_exceptions=False)
    monkeypatch.setattr("act_eval.cli.study.report_on", lambda *_, **__: None)
    second = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    profile = HeadProfile.load(str(output / "search" / "profile.json"))
    assert profile.size == 4
    assert set(profile.provenance["tasks"].values()) == {"train"}
    assert len(identities(output)) == 3 * 7  # baseline, heads found, calibrated and switched off, all heads, three random sets
    controls = [str(output / "controls" / f"random-{number}.json") for number in (1, 2, 3)]
    found = str(output / "search" / "profile.json")
    assert {name for _, name in identities(output)} == {"none", "all", found, *controls}
    assert "[1/" not in second.output
    text = (output / "comparison.md").read_text()
    assert text.startswith("**Verdict: ")
    assert f"heads found, search/profile.json {profile.content_hash[:8]}" in text
    assert "heads found (4 heads)" in text
    assert "all heads (32 heads)" in text


@pytest.mark.usefixtures("without_plots")
@pytest.mark.tier("slow")
def test_seeds_are_averaged(tmp_path):
    arguments = ["compare", "--tasks", "demo_topic", "--limit", "10", "--batch-size", "10", "--device", "cpu", *MODEL_ARGS]
    arguments += ["--num-fewshot", "2", "--seeds", "0,42", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    prompts, means = {}, {}
    for file in tmp_path.rglob("results_*.json"):
        results = json.loads(file.read_text())
        variant = results["config"]["act"]["num_heads"], results["act_eval_run"]["asked"]["seed"]
        assert results["config"]["fewshot_seed"] == variant[1]
        prompts[variant] = [sample["arguments"]["gen_args_0"]["arg_0"] for sample in read_samples(file, "demo_topic")]
        means[variant] = results["results"]["demo_topic"]["acc,none"]
    assert sorted(prompts) == [(0, 0), (0, 42), (32, 0), (32, 42)]
    assert prompts[0, 0] == prompts[32, 0]
    assert prompts[0, 42] == prompts[32, 42]
    assert prompts[0, 0] != prompts[0, 42]
    assert "means over 2 few-shot seeds" in result.output
    assert f"{(means[0, 0] + means[0, 42]) / 2:.3f} ±" in (tmp_path / "comparison.md").read_text()
    assert f"{(means[32, 0] + means[32, 42]) / 2:.3f} ±" in (tmp_path / "comparison.md").read_text()


@pytest.mark.usefixtures("without_plots")
@pytest.mark.tier("slow")
def test_an_access_token_is_in_no_file(tmp_path):
    model_args = f"pretrained={MODEL_PATH},token=hf_secret,act_profile=all,act_alpha=5"
    arguments = ["compare", "--tasks", "demo_topic", "--limit", "2", "--device", "cpu", "--model-args", model_args]
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path)], catch_exceptions=False)
    assert "hf_secret" not in result.output
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name.startswith("results_") for file in files)
    assert not [file for file in files if b"hf_secret" in file.read_bytes()]


@pytest.mark.usefixtures("without_reports")
@pytest.mark.tier("slow")
def test_finished_cells_are_not_run_again(finished, monkeypatch):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    assert "4 of 4 runs are finished" in compare(finished)


@pytest.mark.usefixtures("without_plots")
@pytest.mark.tier("slow")
def test_a_killed_comparison_goes_on(tmp_path, finished, monkeypatch):
    original, scored = ACTLM._score_contexts, []

    def dies_in_the_third_cell(self, contexts, batch_size):
        scored.append(self.profile.size)
        if len(scored) > 7:
            raise KeyboardInterrupt
        return original(self, contexts, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(ACTLM, "_score_contexts", dies_in_the_third_cell)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            compare(tmp_path)
    assert len(identities(tmp_path)) == 2
    (tmp_path / ".unfinished-left").mkdir()
    assert "2 of 4 runs are finished" in compare(tmp_path)
    assert identities(tmp_path) == EVERY_CELL
    assert not list(tmp_path.glob(".unfinished*"))
    assert (tmp_path / "comparison.csv").read_text() == (finished / "comparison.csv").read_text()


CHANGES = {
    "weights": (lambda test, world: test.scale(world, 2), "has changed: model.weights ("),
    "config of the task": (
        lambda test, world: test.edit(world / "tasks" / "pets.yaml", "{{question}}", "Q: {{question}}"),
        "pets.config.doc_to_text (",
    ),
    "code of the task": (lambda test, world: test.edit(world / "tasks" / "metrics.py", ">", "<"), "pets.code.metrics.py ("),
    "documents": (lambda test, world: test.edit(world / "pets.jsonl", "big", "red"), "pets.documents ("),
    "config of the model": (
        lambda test, world: test.edit(world / "model" / "config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'),
        "rms_norm_eps (1e-06; now 0.1)",
    ),
    "chat template": (
        lambda test, world: (world / "model" / "chat_template.jinja").write_text("{{ messages }}"),
        "model.tokenizer.chat_template (none; now",
    ),
}


@pytest.mark.usefixtures("without_plots")
class TestWhatHasChanged:
    """Finished runs count only for what gave them; else they run again, a line says why, and nothing is deleted."""

    TASK = """
task: pets
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/pets.jsonl, train: FOLDER/examples.jsonl}}
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: ["cat", "dog"]
process_results: !function metrics.accuracy
metric_list: [{metric: acc}]
metadata: {version: 1}
"""
    METRICS = """
def right(results):
    return float(results[0] > results[1])


def accuracy(doc, results):
    return {"acc": right(results)}
"""

    @pytest.fixture
    def world(self, tmp_path, monkeypatch):
        """A checkpoint and a task, both in files that a test may change."""
        shutil.copytree(MODEL_PATH, tmp_path / "model")
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "pets.yaml").write_text(self.TASK.replace("FOLDER", str(tmp_path)))
        (tmp_path / "tasks" / "metrics.py").write_text(self.METRICS)
        for name in ("pets", "examples"):
            (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"question": "A {word}"}}\n' for word in ("big", "small")))
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        return tmp_path

    def run(self, world, *extra):
        model_args = f"pretrained={world / 'model'},act_profile=all,dtype=float32"
        arguments = ["compare", "--tasks", "pets", "--include-path", str(world / "tasks"), "--device", "cpu"]
        arguments += ["--model-args", model_args, "--output", str(world / "output"), *extra]
        result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    def comparison(self, world):
        return (world / "output" / "comparison.csv").read_text()

    def edit(self, file, before, after):
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    def scale(self, world, factor):
        model = AutoModelForCausalLM.from_pretrained(world / "model")
        model.lm_head.weight.data *= factor
        model.save_pretrained(world / "model")

    @pytest.mark.usefixtures("without_reports")
    @pytest.mark.tier("slow")
    @pytest.mark.parametrize("what", CHANGES)
    def test_it_runs_again(self, world, what):
        change, words = CHANGES[what]
        self.run(world)
        before = {file.name for file in world.rglob("results_*.json")}
        change(self, world)
        assert words in self.run(world)
        after = {file.name for file in world.rglob("results_*.json")}
        assert before < after
        assert len(after) == 4
        assert "2 of 2 runs are finished" in self.run(world)

    @pytest.mark.usefixtures("without_reports")
    @pytest.mark.tier("slow")
    def test_nothing_that_counts_has_changed(self, world):
        """Another time of a file, and examples that no prompt shows."""
        self.run(world)
        config = world / "model" / "config.json"
        config.write_text(config.read_text())
        self.edit(world / "examples.jsonl", "big", "red")
        assert "2 of 2 runs are finished" in self.run(world, "--batch-size", "2")
        assert "pets.examples" in self.run(world, "--num-fewshot", "1") + self.edit_and_run(world)

    def edit_and_run(self, world):
        self.edit(world / "examples.jsonl", "red", "old")
        return self.run(world, "--num-fewshot", "1")

    @pytest.mark.usefixtures("without_reports")
    def test_the_weights_are_read_once(self, world, monkeypatch):
        """Not for every run, since that takes seconds for a large model."""
        read = []
        monkeypatch.setattr("act_eval.harness.lm.weights_fingerprint", lambda model: read.append(model) or "0" * 16)
        self.run(world)
        assert len(list(world.rglob("results_*.json"))) == 2
        assert len(read) == 1

    @pytest.mark.tier("slow")
    def test_there_and_back(self, world):
        """The report shows what was asked for, not what is newest."""
        self.run(world)
        first = self.comparison(world)
        self.edit(world / "tasks" / "metrics.py", ">", "<")
        self.run(world)
        second = self.comparison(world)
        assert first != second
        self.edit(world / "tasks" / "metrics.py", "<", ">")
        assert "2 of 2 runs are finished" in self.run(world)
        assert self.comparison(world) == first


@pytest.mark.usefixtures("without_reports")
@pytest.mark.tier("slow")
def test_other_settings_are_other_cells(tmp_path):
    compare(tmp_path, "--limit", "4")
    compare(tmp_path, "--limit", "4", "--model-args", "act_profile=0:1,act_alpha=5,dtype=float32")
    assert identities(tmp_path) == sorted([*EVERY_CELL, ("demo_choice", "0:1"), ("demo_topic", "0:1")])


@pytest.mark.usefixtures("without_reports")
@pytest.mark.tier("slow")
def test_a_changed_profile_file_is_another_cell(tmp_path):
    profile, output = tmp_path / "mine.json", tmp_path / "output"
    for heads in ({0: (1,)}, {0: (2,)}):
        HeadProfile(heads).save(profile)
        compare(output, "--limit", "4", "--model-args", f"act_profile={profile}")
    assert len(identities(output)) == 6


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--model-args", "act_profile=nonsense"], "nonsense"),
        (["--model-args", "act_beta=7"], "beta is 7"),
        (["--model-args", "act_theta=7"], "takes beta, not theta"),
        (["--model-args", "act_method=louder"], "no method 'louder': choose one of act, bias-span"),
        (["--model-args", "act_method=boost,act_beta=0.5"], "beta is 0.5"),
        (["--model-args", "act_method=temperature,act_alpha=5"], "alpha is about attention sinks"),
        (["--model-args", "act_beta=1"], "act_beta=1 changes nothing"),
        (["--model-args", "act_head_share=0"], "act_head_share=0 changes nothing"),
        (["--model-args", "act_profile=2:1,act_head_share=0.3"], "no head of a profile that has 1: ask for"),
        (["--model-args", "act_sink_share=0,act_beta=1"], "act_sink_share=0, act_beta=1 changes nothing"),
        (["--model-args", "act_method=temperature,act_theta=1"], "act_theta=1 changes nothing"),
        (["--tasks", "no_such_task"], "no_such_task"),
        (["--tasks", ","], "no task was named"),
        (["--model-args", "act_profile=none"], "baseline itself"),
        (["--model-args", "act_profile= NONE"], "baseline itself"),
        (["--seeds", "1,x"], "--seeds '1,x' is not a list of whole numbers"),
        (["--seeds", "1,2", "--num-fewshot", "0"], "several seeds give the same prompts"),
        (["--seeds", "1,2"], "several seeds give the same prompts"),
        (["--seeds", "1234,1234", "--num-fewshot", "1"], "--seeds names 1234 twice: give each seed once"),
    ],
)
@pytest.mark.usefixtures("without_lm_evals_tasks")
def test_bad_input_before_the_model_is_loaded(tmp_path, monkeypatch, arguments, culprit):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=culprit):
        compare(tmp_path, *arguments)


def test_a_task_name_leads_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    config = (tasks_path() / "act_demo" / "demo_topic.yaml").read_text().replace("demo_topic", "../../evil")
    for name in ("_template_yaml", "utils.py"):
        (tmp_path / "tasks" / name).write_text((tasks_path() / "act_demo" / name).read_text())
    (tmp_path / "tasks" / "evil.yaml").write_text(config)
    monkeypatch.setattr(ACTLM, "__init__", None)
    with pytest.raises(InputError, match=r"task name '../../evil' holds a path"):
        compare(tmp_path / "results", "--include-path", str(tmp_path / "tasks"), "--tasks", "../../evil")


@pytest.mark.tier("process")
def test_report_of_a_folder(finished, tmp_path):
    result = run_program("report", finished, "--output", tmp_path)
    assert result.returncode == 0
    assert "demo_choice" in result.stdout
    assert (tmp_path / "comparison.csv").read_text() == (finished / "comparison.csv").read_text()


@pytest.mark.tier("process")
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (act_eval, ["report", "no-such-folder"]),
        (run_program, ["profiles", "no-such-profile"]),
        (run_program, ["compare", "--tasks", "demo_choice", "--output", "x", "--model-args", "act_threshold=0.1,act_alpha=5"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, program, arguments):
    result = program(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("act-eval: ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(finished, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(ACTLM, "__init__", None)
    for arguments in ([*ARGUMENTS, *MODEL_ARGS], ["report", str(finished)]):
        result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path / "file" / "x")])
        assert isinstance(result.exception, InputError)
        assert str(result.exception).endswith("cannot be written (Not a directory): choose another folder.")


@pytest.mark.tier("process")
def test_profiles():
    listing = run_program("profiles").stdout
    assert "llama-2-7b-chat/classification" in listing
    assert json.loads(run_program("profiles", "llama-2-7b-chat/mt-bench").stdout)["model"]["layers"] == 32


@pytest.mark.tier("process")
def test_run_is_lm_eval_with_the_projects_tasks(tmp_path):
    result = run_program(
        *("run", "--model_args", "act_profile=all,act_alpha=5", "--tasks", "act_demo", "--limit", "4", "--device", "cpu"),
        *("--batch_size", "4", "--output_path", tmp_path, "--log_samples"),
        cwd=tmp_path,
        prepare=leave_out_lm_evals_tasks,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"\|\s*- demo_choice\s*\|", result.stdout)
    (results,) = tmp_path.rglob("results_*.json")
    config = json.loads(results.read_text())["config"]
    assert config["model"] == "act-hf"
    assert config["act"]["num_heads"] == 32


@pytest.mark.parametrize(
    ("arguments", "model"),
    [([], "act-hf"), (["--model", "dummy"], "dummy"), (["--model=dummy"], "dummy"), (["-M", "dummy"], "dummy")],
)
def test_run_uses_act_hf_unless_a_model_is_named(monkeypatch, arguments, model):
    seen = []
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr("lm_eval._cli.HarnessCLI.execute", lambda self, parsed: seen.append(parsed.model))
    CliRunner().invoke(cli.app, ["run", *arguments, "--tasks", "act_demo"], catch_exceptions=False)
    assert seen == [model]


@pytest.mark.tier("process")
def test_a_kill_leaves_no_half_written_results(tmp_path):
    """SIGKILL while cells are being written: every results file that is there is whole and has its samples."""
    # The plan is a file, and each run puts two in place, its samples and its results: the third run is killed between them.
    run_until_killed(tmp_path, 2 + 4 * 2 + 2, *ARGUMENTS, *MODEL_ARGS, "--output", str(tmp_path))
    finished_files = list(tmp_path.glob("[!.]*/results_*.json"))
    assert len(finished_files) == 2
    assert len(list(tmp_path.glob("[!.]*/samples_*.jsonl"))) == 3
    for file in finished_files:
        (task,) = json.loads(file.read_text())["configs"]
        assert len(read_samples(file, task)) == 12


def answers(folder):
    """Log-likelihoods by task, whether heads are calibrated, and document."""
    found = {}
    for results in folder.rglob("results_*.json"):
        content = json.loads(results.read_text())
        (task,) = content["configs"]
        for sample in read_samples(results, task):
            values = [float(value) for value, _ in sample["filtered_resps"]]
            found[task, content["config"]["act"]["num_heads"] > 0, sample["doc_id"]] = values
    return found


@pytest.mark.tier("process")
class TestTwoProcesses:
    """With an odd number of documents, so that the processes have different numbers of them."""

    def launch(self, *arguments, **options):
        """All that the processes print."""
        results = run_programs(2, *arguments, **options)
        assert [result.returncode for result in results] == [0, 0], results
        return "".join(result.stdout for result in results), "".join(result.stderr for result in results)

    def test_compare(self, finished, tmp_path):
        output, _ = self.launch(*ARGUMENTS, *MODEL_ARGS, "--limit", 11, "--output", tmp_path)
        assert output.count("wrote to ") == 1
        assert output.count("[1/4] demo_choice") == 1
        one, two = answers(finished), answers(tmp_path)
        assert set(two) == {key for key in one if key[-1] < 11}
        for key, values in two.items():
            assert values == pytest.approx(one[key], abs=1e-4), key

    def test_lm_eval(self, finished, tmp_path):
        arguments = ["--include_path", tasks_path(), "--tasks", "demo_choice", "--limit", 11, "--batch_size", 4]
        _, errors = self.launch(
            *["--model", "act-hf", "--model_args", MODEL_ARGS[1], *arguments],
            *["--log_samples", "--output_path", tmp_path],
            prepare=leave_out_lm_evals_tasks,
            program=LM_EVAL,
        )
        # Of 11 documents with 4 choices, the process that shows its progress has 6.
        assert "24/24" in errors
        assert "44/44" not in errors
        one, two = answers(finished), answers(tmp_path)
        assert set(two) == {("demo_choice", True, document) for document in range(11)}
        for key, values in two.items():
            assert values == pytest.approx(one[key], abs=1e-4), key


def test_a_profile_without_heads_is_refused(tmp_path, monkeypatch):
    HeadProfile({}).save(tmp_path / "empty.json")
    monkeypatch.setattr(ACTLM, "__init__", None)
    with pytest.raises(InputError, match="names no head"):
        compare(tmp_path / "results", "--model-args", f"act_profile={tmp_path / 'empty.json'}")


@pytest.mark.usefixtures("without_reports")
@pytest.mark.tier("slow")
def test_runs_that_were_asked_otherwise_are_other_runs(tmp_path, monkeypatch):
    """What shapes prompts or answers of a task counts; what does not, such as how to generate where nothing is, does not."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder, output = write_pets(tmp_path / "pets"), tmp_path / "output"

    def tasks_that_ran(*options):
        earlier = set(output.rglob("results_*.json"))
        arguments = ["compare", "--tasks", "pets,pets_text", "--include-path", str(folder), "--device", "cpu", *MODEL_ARGS]
        arguments += ["--batch-size", "12", "--output", str(output), *options]
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        return sorted(
            next(iter(json.loads(file.read_text())["configs"])) for file in set(output.rglob("results_*.json")) - earlier
        )

    assert tasks_that_ran() == ["pets", "pets", "pets_text", "pets_text"]
    assert tasks_that_ran("--cache-requests", "true", "--confirm-run-unsafe-code", "--trust-remote-code") == []
    assert tasks_that_ran("--gen-kwargs", "max_gen_toks=2") == ["pets_text", "pets_text"]
    assert tasks_that_ran("--samples", '{"pets": [0, 3]}') == ["pets", "pets"]
    assert tasks_that_ran("--num-fewshot", "pets_text=1") == ["pets_text", "pets_text"]
    assert tasks_that_ran("--metadata", "word=rare") == ["pets", "pets", "pets_text", "pets_text"]
    assert tasks_that_ran() == []


@pytest.mark.tier("slow")
def test_what_is_recorded_by_default_is_what_earlier_versions_recorded(finished):
    """So that runs of theirs are still finished."""
    for file in finished.rglob("results_*.json"):
        recorded = json.loads(file.read_text())["act_eval_run"]
        names = {"task", "model_args", "limit", "seed", "num_fewshot", "apply_chat_template", "include_path"}
        assert set(recorded["asked"]) == names
        (task,) = recorded["tasks"].values()
        assert not set(task["config"].get("metadata", {})) & {"act_profile", "act_alpha", "dtype"}
