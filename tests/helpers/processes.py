"""Processes that start at once, since what they need is imported already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch


def quick_processes() -> ForkServerContext:
    """Start processes from a server that has everything imported: one for all tests of a pytest process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.imported"])
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def run_program(
    *arguments: object, cwd: Path | None = None, prepare: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run act-eval in a process of its own, as a shell does, but for the many seconds that imports take.

    Args:
        arguments: of the command line.
        cwd: the folder that it runs in; this one by default.
        prepare: of a module, or a partial one; called in the process before the program.
    """
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        process = quick_processes().Process(target=_run_program, args=(command, cwd or Path.cwd(), prepare, Path(folder)))
        process.start()
        process.join()
        printed = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(command, process.exitcode, *printed)


def _run_program(command: list[str], cwd: Path, prepare: Callable[[], object] | None, folder: Path) -> None:
    from act_eval.cli.app import main

    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(cwd)
    sys.argv = ["act-eval", *command]
    if prepare is not None:
        prepare()
    main()
