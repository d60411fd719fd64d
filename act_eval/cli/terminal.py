"""What commands say, and where: the terminal, and how loud libraries are on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of processes that accelerate launched, the first one speaks


def quiet(verbose: bool = False) -> None:
    """Show warnings as plain lines, and none of lm-eval's own messages unless they are asked for."""
    if not verbose:
        os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def say(lines: Iterable[str]) -> None:
    """Print lines as they are, without wrapping."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def tell(line: str) -> None:
    """Print a line as it is, without wrapping."""
    say([line])


def say_written(paths: Iterable[Path]) -> None:
    """Say which files were written."""
    say(f"wrote {path}" for path in paths)
