"""Processes that start at once, since what they need is imported already."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

import torch

ACT_EVAL, LM_EVAL = "act_eval.cli.app:main", "lm_eval.__main__:cli_evaluate"


def quick_processes() -> ForkServerContext:
    """Start processes from a server that has everything imported: one for all tests of a pytest process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.imported"])
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def run_program(
    *arguments: object, cwd: Path | None = None, prepare: Callable[[], object] | None = None, program: str = ACT_EVAL
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, as a shell does, but for the many seconds that imports take.

    Args:
        arguments: of the command line.
        cwd: the folder that it runs in; this one by default.
        prepare: of a module, or a partial one; called in the process before the program.
        program: module and function that its command calls.
    """
    with _started(arguments, cwd, prepare, program) as ended:
        return ended()


def run_programs(
    size: int, *arguments: object, prepare: Callable[[], object] | None = None, program: str = ACT_EVAL
) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in several processes that know each other, as torchrun does; see `run_program`."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        preparations = [partial(meet, rank, size, Path(folder), prepare) for rank in range(size)]
        started = [stack.enter_context(_started(arguments, None, each, program)) for each in preparations]
        return [ended() for ended in started]


def meet(rank: int, size: int, folder: Path, prepare: Callable[[], object] | None = None) -> None:
    """Make this process one of several.

    Args:
        rank: its number.
        size: how many there are.
        folder: where all of them meet.
        prepare: called first.
    """
    if prepare is not None:
        prepare()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # accelerate wants them set, also where all have met
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)


@contextlib.contextmanager
def _started(
    arguments: tuple[object, ...], cwd: Path | None, prepare: Callable[[], object] | None, program: str
) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
    """Start a program; gives what waits for its end."""
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        where = cwd or Path.cwd(), Path(folder)
        process = quick_processes().Process(target=_run_program, args=(command, dict(os.environ), *where, prepare, program))
        process.start()

        def ended() -> subprocess.CompletedProcess[str]:
            process.join()
            printed = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
            return subprocess.CompletedProcess(command, process.exitcode, *printed)

        yield ended


def _run_program(
    command: list[str],
    environment: dict[str, str],
    cwd: Path,
    folder: Path,
    prepare: Callable[[], object] | None,
    program: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(cwd)
    sys.argv = [program.partition(".")[0].replace("_", "-"), *command]
    if prepare is not None:
        prepare()
    module, _, function = program.partition(":")
    getattr(importlib.import_module(module), function)()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
