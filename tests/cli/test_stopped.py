"""Ctrl-C and SIGTERM: one line, which says whether the same command goes on, and the exit code that shells expect."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.own_tasks import leave_out_lm_evals_tasks
from helpers.processes import quick_processes

import act_eval.report.build
from act_eval.cli.app import main

pytestmark = pytest.mark.tier("process")

MT_BENCH = Path(__file__).parents[1] / "mt_bench"
GOES_ON = ": the same command goes on where it stopped."

ASKED = "--tasks demo_topic --limit 4 --device cpu"
ANSWER = f"mt-bench answer --questions {MT_BENCH}/question.jsonl --chat-template {MT_BENCH}/chat.jinja --limit 1 --output out"
COMMANDS = {
    "compare": f"compare {ASKED} --output out --model-args act_profile=all",
    "sweep": f"sweep {ASKED} --vary beta=0,0.2 --output out --model-args act_profile=all",
    "search": f"search {ASKED} --layers all --output out",
    "sinks": f"sinks {ASKED} --output out",
    "study": f"study {ASKED} --layers all --search-limit 4 --output out",
    "demo": "demo --limit 4 --output out",
    "mt-bench answer": f"{ANSWER} --device cpu --model-args act_profile=all",
}


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have everything imported, so that many are quick."""
    return quick_processes()


def wait(_module, _input):
    """Say through a pipe that the model is at work, and stay there."""
    os.write(wait.pipe, b"here")
    while True:
        time.sleep(0.1)


def wait_in_a_child(_module, _input):
    child = multiprocessing.get_context("fork").Process(target=wait, args=(None, None), daemon=True)
    child.start()
    child.join()


def wait_in_a_report(*_):
    wait(None, None)


def program(line, folder, place, pipe):
    """Run the program in a session of its own, as a terminal does, up to a place in the middle of its work."""
    os.setsid()
    os.chdir(folder)
    wait.pipe = pipe.fileno()
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), stream)
    sys.argv = ["act-eval", *line.split()]
    leave_out_lm_evals_tasks()
    if place is wait_in_a_report:
        act_eval.report.build.make_report = place
    else:
        torch.nn.modules.module.register_module_forward_pre_hook(place)
    main()


def stopped(processes, folder, line, place=wait, by=signal.SIGINT):
    """Stop a command, and all that it started, in the middle of its work: its exit code, and what it printed to stderr."""
    there, say = processes.Pipe(duplex=False)
    process = processes.Process(target=program, args=(line, folder, place, say))
    process.start()
    say.close()
    arrived = os.read(there.fileno(), 4)
    assert arrived == b"here", (folder / "stderr").read_text()
    os.killpg(process.pid, by)
    process.join()
    return process.exitcode, (folder / "stderr").read_text()


def last_line(errors):
    """The line of the program; none other may look like a traceback."""
    assert "Traceback" not in errors
    assert "Error" not in errors
    assert errors.count("act-eval: ") == 1
    return errors.rstrip("\n").splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_go_on(processes, command, tmp_path):
    code, errors = stopped(processes, tmp_path, COMMANDS[command])
    assert code == 130
    assert last_line(errors) == f"act-eval: interrupted{GOES_ON}"


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (f"run --model_args act_profile=all {ASKED} --use_cache answers", wait),
        ("report .", wait_in_a_report),
    ],
    ids=["run with a response cache", "report"],
)
def test_commands_that_begin_again(processes, line, place, tmp_path):
    code, errors = stopped(processes, tmp_path, line, place)
    assert code == 130
    assert last_line(errors) == "act-eval: interrupted"


def test_sigterm(processes, tmp_path):
    code, errors = stopped(processes, tmp_path, COMMANDS["compare"], by=signal.SIGTERM)
    assert code == 143
    assert last_line(errors) == f"act-eval: terminated{GOES_ON}"


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_child_processes_say_nothing(processes, tmp_path, by):
    code, errors = stopped(processes, tmp_path, COMMANDS["compare"], wait_in_a_child, by)
    assert code == 128 + by
    assert last_line(errors).endswith(GOES_ON)
