"""Processes that kill themselves at a known point of their work, so that no test has to hit a moment."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import PreTrainedModel

from helpers.processes import quick_processes, run_program


class Points:
    """Counts the points of a command's work, and kills the process at one of them.

    A point is a forward pass of a model, and twice each file that appears under its name in the output folder: when it is whole
    but has not its name yet, and when it has just got it.

    Args:
        output: the output folder.
        last: number of the point at which the process is killed, from 1; None for none.
        files_alone: whether forward passes are no points.
        passes_alone: whether files are no points.
    """

    def __init__(self, output: Path, last: int | None = None, files_alone: bool = False, passes_alone: bool = False) -> None:
        self.output, self.last = output.resolve(), last
        self.passed, self.forward_passes = 0, 0
        if not files_alone:
            torch.nn.modules.module.register_module_forward_pre_hook(self._forward_pass)
        if not passes_alone:
            os.replace = self._replacing(os.replace)

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _forward_pass(self, module: torch.nn.Module, _: object) -> None:
        if isinstance(module, PreTrainedModel) and hasattr(module, "lm_head"):
            self.forward_passes += 1
            self._pass()

    def _replacing(self, replace: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(replace)
        def wrapped(source: str, target: str, **options: int) -> None:
            counts = self.output in Path(target).resolve().parents
            if counts:
                self._pass()
            replace(source, target, **options)
            if counts:
                self._pass()

        return wrapped


def run_until_killed(output: Path, last: int, *arguments: str) -> None:
    """Run act-eval in a process of its own until a file that it writes; see `Points`."""
    result = run_program(*arguments, prepare=functools.partial(Points, output, last, files_alone=True))
    assert result.returncode == -signal.SIGKILL, result.stderr


def count_passes(command: Callable[[Path], object], output: Path, last: int | None = None) -> int | None:
    """Run a command in a process of its own, killed when it begins its forward pass number `last`, from 1.

    Args:
        command: of a module; gets the output folder.
        output: the output folder.
        last: None for none.

    Returns:
        How many forward passes there were, or None if the process was killed.
    """
    processes = quick_processes()
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_count_passes, args=(command, output, last, sender))
    process.start()
    process.join()
    assert process.exitcode in ((0,) if last is None else (0, -signal.SIGKILL))
    return receiver.recv() if process.exitcode == 0 else None


def _count_passes(command: Callable[[Path], object], output: Path, last: int | None, sender: Connection) -> None:
    points = Points(output, last, passes_alone=True)
    command(output)
    sender.send(points.forward_passes)
