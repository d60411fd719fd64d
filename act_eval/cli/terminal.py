"""What commands say, and where: the terminal, and how loud libraries are on it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from act_eval.launch import is_first_launched
from act_eval.progress import print_line

console = Console(quiet=not is_first_launched())


class _StderrOfTheMoment(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is when something is written: bars put themselves below it for as long as they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def quiet(verbose: bool = False) -> None:
    """Show warnings as plain lines; lm-eval's own messages, and bars of its tokenizing and of datasets, only if asked for.

    To be called before these libraries are imported.
    """
    if not verbose:
        os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_StderrOfTheMoment()])


def say(lines: Iterable[str]) -> None:
    """Print lines as they are, without wrapping."""
    for line in lines:
        print_line(console, line)


def say_written(paths: Iterable[Path]) -> None:
    """Say which files were written, a line for each folder: `wrote to results: report.html, study.{csv,png,svg}`."""
    suffixes: dict[Path, dict[str, list[str]]] = {}
    for path in paths:
        suffixes.setdefault(path.parent, {}).setdefault(path.stem, []).append(path.suffix)
    for folder, of_folder in suffixes.items():
        names = (
            f"{stem}{every[0]}" if len(every) == 1 else f"{stem}.{{{','.join(suffix.removeprefix('.') for suffix in every)}}}"
            for stem, every in of_folder.items()
        )
        say([f"wrote to {folder}: {', '.join(names)}"])
