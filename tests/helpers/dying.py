"""Processes that kill themselves at a known point of their work, so that no test has to hit a moment."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel


class Points:
    """Counts the points of a command's work, and kills the process at one of them.

    A point is a forward pass of a model, and twice each file that appears under its name in the output folder: when it is whole
    but has not its name yet, and when it has just got it.

    Args:
        output: the output folder.
        last: number of the point at which the process is killed, from 1; None for none.
    """

    def __init__(self, output: Path, last: int | None = None) -> None:
        self.output, self.last = output.resolve(), last
        self.passed, self.forward_passes = 0, 0
        torch.nn.modules.module.register_module_forward_pre_hook(self._forward_pass)
        self._replace, os.replace = os.replace, self._replacing(os.replace)

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


if __name__ == "__main__":  # OUTPUT, number of the last point, and the arguments of act-eval
    from act_eval.cli import main

    Points(Path(sys.argv[1]), int(sys.argv[2]))
    sys.argv = ["act-eval", *sys.argv[3:]]
    main()
