"""What a failed command ends with: one line that names culprit and remedy, and an exit code; a traceback only on demand."""

import errno
import itertools
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from filelock import FileLock
from helpers.program import every_command
from helpers.thorough import pairs
from lm_eval._cli import HarnessCLI

from act_eval.cli.app import main
from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.harness.tasks import tasks_path

pytestmark = pytest.mark.tier("model")

MT_BENCH = Path(__file__).parents[1] / "mt_bench"
RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with checkpoints, tasks and files that are wrong in one way each."""
    root = tmp_path_factory.mktemp("wrong")

    def checkpoint(name, *without, **texts):
        folder = root / name
        shutil.copytree(MODEL_PATH, folder)
        for file in without:
            (folder / file).unlink()
        for file, text in texts.items():
            (folder / file.replace("__", ".")).write_text(text)
        return folder

    def config(**changes):
        return json.dumps({**json.loads((MODEL_PATH / "config.json").read_text()), **changes})

    checkpoint("whole")
    checkpoint("without-weights", "model.safetensors")
    checkpoint("without-tokenizer", "tokenizer.json", "tokenizer_config.json")
    checkpoint("without-config", "config.json")
    checkpoint("bare-config", config__json="{}")
    checkpoint("broken-config", config__json="{")
    checkpoint("broken-tokenizer", tokenizer__json="{")
    checkpoint("odd-tokenizer", tokenizer__json="{}")
    checkpoint("unknown-type", config__json=config(model_type="nonsense"))
    checkpoint("odd-layers", config__json=config(num_hidden_layers="x"))
    checkpoint("odd-shapes", config__json=config(hidden_size=33))
    checkpoint("other-shapes", config__json=config(intermediate_size=48))
    checkpoint("own-code", config__json=config(model_type="zzz", auto_map={"AutoConfig": "x.Y"}))
    weights = checkpoint("truncated") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (checkpoint("no-weights-at-all") / "model.safetensors").write_bytes(b"")
    (root / "nothing").mkdir()
    (root / "file").write_text("text")
    (root / "adapter").mkdir()
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "base_model_name_or_path": "x"}
    (root / "adapter" / "adapter_config.json").write_text(json.dumps({**adapter, "target_modules": ["nowhere"]}))
    (root / "broken-adapter").mkdir()
    (root / "broken-adapter" / "adapter_config.json").write_text("{")
    task = {"task": "mine", "include": f"{tasks_path()}/act_demo/demo_topic.yaml"}
    for name, text in {
        "broken-tasks": "task: mine\n  dataset_path: [",
        "list-tasks": "- task: mine",
        "far-tasks": yaml.safe_dump({**task, "include": "nowhere.yaml"}),
        "odd-tasks": yaml.safe_dump({**task, "output_type": "nonsense"}),
        "odd-field-tasks": yaml.safe_dump({**task, "nonsense": 1}),
        "odd-template-tasks": yaml.safe_dump({**task, "doc_to_text": "{{ text"}),
        "lost-data-tasks": yaml.safe_dump({"task": "mine", "dataset_path": "no/such-data", "test_split": "test"}),
    }.items():
        (root / name).mkdir()
        (root / name / "mine.yaml").write_text(text)
    (root / "config.yaml").write_text("a: [")
    (root / "list.yaml").write_text("- a")
    (root / "questions.jsonl").write_text("{}\n")
    (root / "profile.json").write_text("{")
    (root / "broken.mplstyle").write_bytes(b"font.size: \xff\xfe")
    return root


@pytest.fixture
def run(places, tmp_path, monkeypatch, capfd, without_lm_evals_tasks):
    """Run the program in a folder of its own: its exit code and what it printed to stderr.

    Whatever it refuses, it leaves nothing behind.
    """

    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest keep warnings away from stderr
    monkeypatch.chdir(tmp_path)

    def program(line, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        folders = {"WRONG": places, "MT_BENCH": MT_BENCH, "RESULTS": RESULTS}
        for name, folder in folders.items():
            line = line.replace(name, str(folder))
        monkeypatch.setattr(sys, "argv", ["act-eval", *line.split()])
        before = below(tmp_path)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        if code == 2:
            assert below(tmp_path) == before
        return code, capfd.readouterr().err.replace(str(places), "WRONG")

    return program


def below(folder):
    """All that is below a folder: files with what they hold."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_line(errors, noisy=False):
    """The only line on stderr, apart from progress bars, and from what libraries log where `noisy` allows it."""
    assert "Traceback" not in errors
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "it/s]" not in line]
    assert noisy or len(lines) == 1
    assert len([line for line in lines if line.startswith(("act-eval: ", "act-hf: "))]) == 1
    assert lines[-1] == errors.rstrip("\n").splitlines()[-1]
    return lines[-1]


COMPARE = "compare --tasks demo_topic --limit 2 --output out --device cpu --model-args act_profile=all"
ASKING = {
    "compare": COMPARE,
    "sweep": "sweep --tasks demo_topic --limit 2 --output out --device cpu --vary beta=0.2,0.4 --model-args act_profile=all",
    "search": "search --tasks demo_topic --limit 2 --output out --device cpu --model-args act_alpha=5",
    "sinks": "sinks --tasks demo_topic --limit 2 --output out --device cpu --model-args act_alpha=5",
    "study": "study --tasks demo_topic --limit 2 --output out --device cpu --model-args act_alpha=5",
}
QUESTIONS = "--questions MT_BENCH/question.jsonl --chat-template MT_BENCH/chat.jinja --limit 1"
ANSWER = f"mt-bench answer {QUESTIONS} --output out --device cpu --model-args act_profile=all"
LM_EVAL = "run --tasks demo_topic --limit 2 --device cpu --model_args act_profile=all"

# What is wrong with the model, by the arguments for it: words of the line.
MODELS = {
    "pretrained=WRONG/nowhere": ["config of WRONG/nowhere", "there is no such folder", "give the path"],
    "pretrained=WRONG/file": ["config of WRONG/file", "it is a file", "give the path"],
    "pretrained=no/such-model": ["config of no/such-model", "connect to the Hugging Face hub", "HF_HUB_OFFLINE"],
    "pretrained=no/such-model,revision=v7": ["no/such-model, revision v7", "check the name"],
    "pretrained=3": ["pretrained is 3", "such as ./model"],
    "pretrained=": ["pretrained is ''"],
    "pretrained=WRONG/nothing": ["config of WRONG/nothing", "mend"],
    "pretrained=WRONG/without-config": ["config of WRONG/without-config", "mend"],
    "pretrained=WRONG/bare-config": ["config of WRONG/bare-config", "mend"],
    "pretrained=WRONG/broken-config": ["config of WRONG/broken-config", "JSON", "mend"],
    "pretrained=WRONG/unknown-type": ["config of WRONG/unknown-type", "nonsense", "mend"],
    "pretrained=WRONG/own-code": ["config of WRONG/own-code", "custom code", "mend"],
    "pretrained=WRONG/whole,subfolder=nosuch": ["config of WRONG/whole, subfolder nosuch", "mend"],
    "pretrained=WRONG/without-tokenizer": ["tokenizer of WRONG/without-tokenizer", "mend"],
    "pretrained=WRONG/broken-tokenizer": ["tokenizer of WRONG/broken-tokenizer", "mend"],
    "pretrained=WRONG/odd-tokenizer": ["tokenizer of WRONG/odd-tokenizer", "mend"],
    "pretrained=WRONG/whole,tokenizer=WRONG/nothing": ["tokenizer of WRONG/nothing", "mend"],
    "pretrained=WRONG/whole,tokenizer=no/such": ["tokenizer of no/such", "connect"],
    "pretrained=WRONG/without-weights": ["weights of WRONG/without-weights", "no file named", "mend"],
    "pretrained=WRONG/truncated": ["weights of WRONG/truncated", "mend"],
    "pretrained=WRONG/no-weights-at-all": ["weights of WRONG/no-weights-at-all", "mend"],
    "pretrained=WRONG/other-shapes": ["weights of WRONG/other-shapes", "mismatch", "mend"],
    "pretrained=WRONG/whole,foo=1": ["no model argument 'foo'", "act-hf takes"],
    "nonsense": ["no model argument 'nonsense' for"],
    "alpha=5": ["no model argument 'alpha' (did you mean act_alpha?) for"],
    "dtyp=float32": ["no model argument 'dtyp' (did you mean dtype?) for"],
    "quantization_config=x": ["no model argument 'quantization_config'"],
    "peft=WRONG/nowhere": ["adapter of WRONG/nowhere", "there is no such folder"],
    "peft=no/such": ["adapter of no/such", "connect"],
    "peft=WRONG/broken-adapter": ["adapter of WRONG/broken-adapter", "mend"],
    "pretrained=WRONG/whole,peft=WRONG/adapter": ["WRONG/whole, peft WRONG/adapter", "nowhere", "mend"],
    "pretrained=WRONG/whole,delta=no/such": ["WRONG/whole, delta no/such", "mend"],
    "peft=x,delta=y": ["peft and delta do not go together"],
    "dtype=float8": ["dtype is 'float8'", "choose one of float16"],
    "dtype=float8_e4m3fn": ["dtype is 'float8_e4m3fn'"],
    "dtype=nn": ["dtype is 'nn'"],
    "dtype=int8": ["dtype is 'int8'"],
    "dtype=16": ["dtype is 16"],
    "softmax_dtype=x": ["softmax_dtype is 'x'"],
    "mixed_precision_dtype=x": ["mixed_precision_dtype is 'x'"],
    "enable_thinking=True": ["enable_thinking", "add think_end_token="],
    "backend=x": ["backend is 'x'"],
    "max_length=x": ["max_length", "'x'"],
    "max_batch_size=0": ["max_batch_size", "0"],
    "autogptq=True": ["auto-gptq is not installed"],
    "attn_implementation=nonsense": ["nonsense"],
    "gguf_file=x.gguf": ["gguf_file x.gguf"],
    "act_foo=1": ["act-hf has no argument 'act_foo'", "choose among"],
    "act_base=nonsense": ["no base attention 'nonsense'"],
    "act_beta=7": ["beta is 7"],
}
OF_CONFIGS_THAT_CHECK_THEMSELVES = {  # transformers 5
    "pretrained=WRONG/odd-layers": ["config of WRONG/odd-layers", "num_hidden_layers", "mend"],
    "pretrained=WRONG/odd-shapes": ["config of WRONG/odd-shapes", "33", "mend"],
}
if int(transformers.__version__.partition(".")[0]) >= 5:
    MODELS |= OF_CONFIGS_THAT_CHECK_THEMSELVES


@pytest.mark.parametrize("arguments", MODELS)
def test_models_that_cannot_be_used(run, arguments):
    code, errors = run(f"{COMPARE},{arguments}")
    line = one_line(errors, noisy=arguments == "pretrained=WRONG/other-shapes")  # transformers lists them
    assert code == 2
    assert all(words in line for words in MODELS[arguments])


WRITING = {**ASKING, "mt-bench answer": ANSWER}
LOADING = {**WRITING, "run": LM_EVAL}


@pytest.mark.parametrize(
    ("command", "arguments"),
    pairs([*LOADING], ["pretrained=WRONG/nowhere", "pretrained=WRONG/truncated", "foo=1", "dtype=x", "peft=no/such"]),
)
def test_every_command_that_loads_a_model(run, command, arguments):
    line = LOADING[command]
    code, errors = run(f"{line},{arguments}")
    one_line(errors, noisy=line == LM_EVAL)
    assert code == 2


# What is wrong with other options of each command that asks a model: words of the line.
OPTIONS = {
    "--tasks nosuch": "no task 'nosuch'",
    "--tasks ,": "no task was named",
    "--tasks mine --include-path WRONG/nowhere": "--include-path WRONG/nowhere: there is no such folder",
    "--tasks mine --include-path WRONG/broken-tasks": "WRONG/broken-tasks/mine.yaml cannot be read",
    "--tasks mine --include-path WRONG/list-tasks": "WRONG/list-tasks/mine.yaml cannot be read",
    "--tasks mine --include-path WRONG/far-tasks": "nowhere.yaml",
    "--tasks mine --include-path WRONG/odd-tasks": "task 'mine' cannot be made from its config",
    "--tasks mine --include-path WRONG/odd-field-tasks": "task 'mine' cannot be made from its config",
    "--tasks mine --include-path WRONG/odd-template-tasks": "task 'mine' cannot be made from its config",
    "--tasks mine --include-path WRONG/lost-data-tasks": "no/such-data",
    "--output WRONG/file": "WRONG/file cannot be written",
    "--output WRONG/file/below": "WRONG/file/below cannot be written",
    "--output /proc": "/proc cannot be written",
    "--limit 0": "--limit",
    "--limit -3": "--limit",
    "--limit nan": "--limit",
    "--limit 2.5": "--limit",
    "--limit abc": "--limit",
    "--batch-size 0": "--batch-size",
    "--batch-size -1": "--batch-size",
    "--batch-size abc": "--batch-size",
    "--batch-size auto:x": "--batch-size",
    "--num-fewshot -1": "--num-fewshot",
    "--num-fewshot 100000": "demo_topic has fewer solved examples",
    "--device nonsense": "--device is 'nonsense'",
    "--device meta": "--device is meta",
    "--apply-chat-template": "has no chat template",
    "--nonsense": "--nonsense",
}


@pytest.mark.parametrize(("command", "options"), pairs([*ASKING], [*OPTIONS]))
def test_options_that_cannot_work(run, command, options):
    code, errors = run(f"{ASKING[command]} {options}")
    assert OPTIONS[options] in one_line(errors)
    assert code == 2


# Of each command with a folder for what it writes: what it refuses late, when the folder is made or the weights are loaded.
LATE = {
    "compare": [f"{COMPARE},act_profile=9:1", f"{COMPARE},pretrained=WRONG/truncated", f"{COMPARE} --num-fewshot 100000"],
    "sweep": [
        "sweep --tasks demo_topic --limit 2 --output new/out --device cpu --vary profile=all,9:1",
        f"{ASKING['sweep']} --metric nosuch",
        f"{ASKING['sweep']},pretrained=WRONG/truncated",
    ],
    "search": [f"{ASKING['search']} --layers 99", f"{ASKING['search']},pretrained=WRONG/truncated"],
    "sinks": [f"{ASKING['sinks']},act_profile=9:1", f"{ASKING['sinks']},pretrained=WRONG/truncated"],
    "study": [
        f"{ASKING['study']} --layers 99",
        f"{ASKING['study']},pretrained=WRONG/truncated",
        f"{ASKING['study']} --methods act,remove --layers 99",
    ],
    "mt-bench answer": [f"{ANSWER},act_profile=9:1", f"{ANSWER},pretrained=WRONG/truncated"],
    "report": [
        "report RESULTS --style nosuch --output new/out",
        "report RESULTS --style WRONG/broken.mplstyle --output new/out",
    ],
    "mt-bench report": ["mt-bench report WRONG/nothing --output new/out"],
    "demo": ["demo --limit 0 --output new/out"],
}


def test_all_commands_with_a_folder_for_what_they_write_are_tried():
    assert set(LATE) == {
        " ".join(path) for path, command in every_command() if any(option.name == "output" for option in command.params)
    }


@pytest.mark.parametrize("line", itertools.chain(*LATE.values()))
@pytest.mark.parametrize("is_there", [False, True], ids=["no folder", "a folder"])
def test_a_command_that_is_refused_leaves_nothing_behind(run, line, is_there, tmp_path):
    """Neither the folder and those above it, nor anything in a folder that was there: `run` looks at that."""
    line = line.replace("--output out", "--output new/out")
    if is_there:
        (tmp_path / "new" / "out").mkdir(parents=True)
    code, _ = run(line)
    assert code == 2
    assert (tmp_path / "new").exists() is is_there


def test_a_study_is_not_bound_to_what_was_refused(run):
    """The folder takes the mended command."""
    assert run(f"{ASKING['study']} --layers 99")[0] == 2
    assert "names layer 98" in run(f"{ASKING['study']} --layers 98")[1]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "mps"])
def test_a_device_that_is_not_there(run, device):
    code, errors = run(f"{COMPARE} --device {device}")
    assert f"--device is {device}, but torch finds no such device here" in one_line(errors)
    assert code == 2


# Everything else that a user may get wrong: words of the line.
OTHERS = {
    "nosuch": "no such command 'nosuch'",
    "--nosuch": "no such option: --nosuch",
    "compare": "missing option '--tasks'",
    f"{COMPARE} --seeds x": "--seeds 'x'",
    f"{COMPARE} --seeds -1": "--seeds -1",
    f"{COMPARE} --seeds 1,2 --num-fewshot 0": "several seeds",
    "search --tasks demo_topic --output out --seed -1": "--seed must be at least 0",
    "search --tasks demo_topic --output out --mode x": "--mode 'x'",
    "search --tasks demo_topic --output out --budget 7": "--budget",
    "search --tasks demo_topic --output out --k 3": "--k",
    "search --tasks demo_topic --output out --layers x": "--layers 'x'",
    "search --tasks demo_topic --output out --layers 99": "--layers names layer 99",
    "study --tasks demo_topic --output out --seeds x": "--seeds 'x'",
    "study --tasks demo_topic --output out --mode x": "--mode 'x'",
    "study --tasks demo_topic --output out --objective x": "--objective 'x'",
    "study --tasks demo_topic --output out --selection top-k": "--k",
    "study --tasks demo_topic --output out --layers 99": "--layers names layer 99",
    "study --tasks demo_topic --output out --also nosuch": "no task 'nosuch'",
    "study --tasks demo_topic --output out --also demo_topic": "--also holds all tasks",
    "study --tasks demo_topic --output out --also demo_choice --also-limit 0": "--also-limit",
    "study --tasks demo_topic --output out --search-tasks demo_choice": "--search-tasks names demo_choice",
    "study --tasks demo_topic --output out --search-limit 0": "--search-limit",
    "study --tasks demo_topic --output out --random-draws -1": "--random-draws must be at least 0",
    "study --tasks demo_topic --output out --model-args act_profile=all": "act_profile",
    "study --tasks demo_topic --output out --expect 2": "--expect goes with --dry-run",
    "study --tasks demo_topic --output out --dry-run --expect 2 --pilot WRONG/nowhere": "no folder WRONG/nowhere",
    "sinks --tasks demo_topic --output out --split x": "--split 'x'",
    "sinks --tasks demo_topic --output out --document 99999": "--document 99999",
    "sinks --tasks demo_topic --output out --search WRONG/nowhere": "--search WRONG/nowhere",
    "sweep --tasks demo_topic --output out --vary x --model-args act_profile=all": "--vary",
    "sweep --tasks demo_topic --output out --vary beta=0.2 --model-args act_profile=all": "one point",
    f"{COMPARE},act_profile=WRONG/profile.json": "WRONG/profile.json is not readable",
    "report": "missing argument 'folders'",
    "report WRONG/nowhere": "no folder WRONG/nowhere",
    "report WRONG/file": "no folder WRONG/file",
    "report WRONG/nothing": "no results were found",
    "report WRONG/nothing --filter x": "--filter 'x'",
    "report WRONG/nothing --group-by x": "--group-by x",
    "report RESULTS --json --output out": "--output is about files, and with --json none is written",
    "report RESULTS --json --style ggplot": "--style is about files, and with --json none is written",
    "profiles nosuch": "no head profile 'nosuch'",
    "profiles show": "missing argument 'name'",
    "profiles show WRONG/profile.json": "WRONG/profile.json is not readable",
    "profiles show hf://nosuch": "'hf://nosuch' is not the name of a file on the hub",
    "profiles push WRONG/profile.json": "missing argument 'USER/REPO'",
    "profiles push WRONG/nowhere.json me/heads": "the head profile WRONG/nowhere.json cannot be read",
    "profiles push WRONG/profile.json me/heads": "WRONG/profile.json is not readable",
    f"{COMPARE},act_profile=hf://nosuch": "'hf://nosuch' is not the name of a file on the hub",
    f"{COMPARE},act_profile=hf://no/such": "no/such is not in the hub's cache, and the hub cannot be reached",
    f"{LM_EVAL},act_profile=hf://no/such": "no/such is not in the hub's cache, and the hub cannot be reached",
    "models nosuch": "nosuch",
    # Names that are like what was given:
    "compare --tasks demo_topci --output out": "no task 'demo_topci' (did you mean demo_topic?): `act-eval tasks` lists",
    "study --tasks demo_topic --output out --search-tasks demo_topci": "study's tasks (did you mean demo_topic?)",
    'compare --tasks demo_topic --output out --samples {"demo_topci":[0]}': "that are asked (did you mean demo_topic?)",
    "compare --tasks act_demo --output out --num-fewshot demo_topci=1": "what is asked (did you mean demo_topic?)",
    "tasks demo_topci": "no task 'demo_topci' (did you mean demo_topic?): `act-eval tasks` lists",
    "run --model dummy --tasks demo_topci": "no task 'demo_topci' (did you mean demo_topic?): `act-eval tasks` lists",
    f"{COMPARE},act_method=bost": "no method 'bost' (did you mean boost?)",
    f"{COMPARE},act_method=act+bost": "no method 'bost' (did you mean boost?)",
    f"{COMPARE},act_betta=0.2": "no argument 'act_betta' (did you mean act_beta?)",
    f"{COMPARE},act_base=egaer": "no base attention 'egaer' (did you mean eager?)",
    f"{COMPARE},act_profile=mistral-7b-instruct/multiple-choice": "(did you mean mistral-7b-instruct-v0.2/multiple-choice",
    "profiles llama-2-7b-chat/mtbench": "(did you mean llama-2-7b-chat/mt-bench",
    "report RESULTS --style ggplott --output out": "--style ggplott (did you mean ggplot?)",
    "tasks nosuch": "no task 'nosuch'",
    "tasks act_demo": "act_demo is a group of the tasks demo_sentiment, demo_topic, demo_choice: name one of them",
    "demo --limit 0": "--limit",
    "demo --output WRONG/file": "WRONG/file",
    "mt-bench nosuch": "no such command 'nosuch'",
    "mt-bench answer --output out --questions WRONG/nowhere.jsonl": "no file WRONG/nowhere.jsonl",
    "mt-bench answer --output out --questions WRONG/questions.jsonl": "question 1 of WRONG/questions.jsonl",
    "mt-bench answer --output out --questions no/such": "the dataset no/such cannot be loaded",
    "mt-bench answer --output out --questions MT_BENCH/question.jsonl --model-args act_profile=all": "no chat template",
    f"{ANSWER} --output WRONG/file": "WRONG/file cannot be written",
    f"{ANSWER} --limit 0": "--limit",
    f"{ANSWER} --batch-size auto": "--batch-size",
    f"{ANSWER} --temperatures x": "--temperatures x",
    f"{ANSWER} --chat-template WRONG/nowhere": "--chat-template WRONG/nowhere",
    "mt-bench judge WRONG/nothing": "missing option '--judge-model'",
    "mt-bench judge WRONG/nothing --judge-model x": "OPENAI_API_KEY is not set",
    "mt-bench judge WRONG/nothing --judge-model x --judge-base-url http://localhost:1/v1": "WRONG/nothing holds no answers",
    "mt-bench judge WRONG/nothing --judge-model x --judge-base-url nonsense": "--judge-base-url 'nonsense'",
    "mt-bench judge WRONG/nothing --judge-model x --judge-base-url http://localhost:1/v1 --timeout -1": "--timeout",
    "mt-bench report WRONG/nowhere": "WRONG/nowhere holds no judgements",
    "run --foo x": "unrecognized arguments: --foo",
    "run --tasks demo_topic --limit x": "--limit",
    "run --limit 3": "No tasks",
    "run --config WRONG/nowhere.yaml": "WRONG/nowhere.yaml",
    "run --config WRONG/config.yaml": "WRONG/config.yaml",
    "run --model nosuch --tasks demo_topic": "'nosuch'",
    "run --model dummy --tasks nosuch": "nosuch",
    "run --model dummy --tasks demo_topic --log_samples": "--output_path",
    "run --model dummy --tasks mine --include_path WRONG/odd-tasks": "nonsense",
    "run --model dummy --tasks demo_topic --limit 0": "did not find any docs",
    "run --model hf --model_args pretrained=WRONG/nowhere --tasks demo_topic": "WRONG/nowhere",
    "run ls nosuch": "nosuch",
    f"{LM_EVAL} --apply_chat_template": "has no chat template",
    f"{LM_EVAL} --batch_size abc": "batch_size is 'abc'",
    f"{LM_EVAL} --num_fewshot 100000": "demo_topic has fewer solved examples",
}


@pytest.mark.parametrize("line", OTHERS)
def test_whatever_a_user_may_get_wrong(run, line, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, errors = run(line)
    assert OTHERS[line] in one_line(errors, noisy=line.startswith("run"))
    assert code == 2


# --- what is not the user's mistake


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "OutOfMemoryError: CUDA out of memory. Tried"),
        (MemoryError(), "MemoryError."),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (RuntimeError("CUDA error: an illegal memory access"), "RuntimeError: CUDA error"),
        (AssertionError(), "AssertionError."),
    ],
)
@pytest.mark.parametrize("line", [COMPARE, LM_EVAL], ids=["compare", "run"])
def test_failures_of_the_machine_have_another_exit_code(run, line, error, words, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    code, errors = run(line)
    shown = one_line(errors, noisy=line == LM_EVAL)
    assert code == 1
    assert words in shown
    assert "--debug shows where" in shown


def test_a_disk_that_fills_up(run, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "results")

    monkeypatch.setattr("act_eval.compare.run._move_into_place", fail)
    code, errors = run(COMPARE)
    assert "OSError: [Errno 28] No space left on device: 'results'" in one_line(errors)
    assert code == 1


@pytest.mark.parametrize(
    "arguments", ["low_cpu_mem_usage=True", "use_cache=False", "attn_implementation=eager", "dtype=bfloat16"]
)
def test_arguments_that_only_transformers_knows_work(arguments, monkeypatch):
    name, _, value = arguments.partition("=")
    ACTLM(act_profile="all", device="cpu", **{name: value if name in ("attn_implementation", "dtype") else value == "True"})


@pytest.mark.tier("slow")
@pytest.mark.parametrize("line", [COMPARE, LM_EVAL], ids=["compare", "run"])
def test_git_says_nothing_outside_of_a_repository(run, line, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, errors = run(line)
    assert (code, "fatal" in errors) == (0, False)


# --- tracebacks


@pytest.mark.parametrize(
    "line",
    [
        "--debug profiles nosuch",
        "profiles --debug nosuch",
        "profiles nosuch --debug",
        f"{COMPARE},foo=1 --debug",
        "--debug mt-bench report WRONG/nowhere",
        "mt-bench --debug report WRONG/nowhere",
        "mt-bench report WRONG/nowhere --debug",
        "compare --foo --debug",
        "run --debug --model dummy --tasks nosuch",
        "run --model dummy --tasks nosuch --debug",
        f"{LM_EVAL},foo=1 --debug",
        "run --foo --debug",
    ],
)
def test_debug_shows_the_traceback_wherever_it_stands(run, line):
    code, errors = run(line)
    assert code == 2
    assert errors.count("Traceback (most recent call last):") >= 1
    assert "act-" in errors


@pytest.mark.parametrize("line", ["profiles nosuch", "mt-bench report WRONG/nowhere", "run --model dummy --tasks nosuch"])
@pytest.mark.parametrize(("value", "shown"), [("1", True), ("", False), ("0", False)])
def test_the_environment_asks_for_tracebacks_too(run, line, value, shown):
    code, errors = run(line, ACT_EVAL_DEBUG=value)
    assert code == 2
    assert ("Traceback" in errors) is shown


def test_what_follows_two_dashes_is_no_option(run):
    code, errors = run("report -- --debug")
    assert "no folder --debug" in one_line(errors)
    assert code == 2


def test_lm_eval_has_no_option_of_that_name():
    """If it had, `act-eval run` would keep it from lm_eval."""
    commands = HarnessCLI()._subparsers.choices.values()
    assert not [option for command in commands for option in command._option_string_actions if option.startswith("--debug")]


@pytest.mark.parametrize("line", ["", "--help", "mt-bench", "mt-bench --help", "compare --help", "mt-bench judge --help"])
def test_help_says_how_to_get_a_traceback(run, line, capfd):
    code, errors = run(line)
    assert code == (0 if "--help" in line else 2)
    assert "act-eval: " not in errors


def test_whoever_reads_the_output_may_stop(run, monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("act_eval.profiles.published_profiles", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert run("profiles") == (1, "")


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_another_command_writes_to(run, tmp_path, monkeypatch, command):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("weights are loaded"))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        code, errors = run(WRITING[command])
    assert code == 2
    assert one_line(errors) == (
        "act-eval: another command is writing to out: wait until it has finished, or choose another folder."
    )
