"""Call a function in several processes at once, among which transformers divides models (`tp_plan`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from helpers.processes import meet, quick_processes


def call_in_processes(function: Callable[..., Any], size: int, folder: Path, *arguments: Any) -> list[Any]:
    """What a function returns in each of some processes that know each other.

    Args:
        function: of a module; its result can be saved by torch.
        size: number of processes.
        folder: empty; where they meet, and leave what they return.
        arguments: of the function.
    """
    folder.mkdir(parents=True, exist_ok=True)
    quick_processes()
    multiprocessing.start_processes(_call, (function, size, folder, arguments), size, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _call(rank: int, function: Callable[..., Any], size: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    meet(rank, size, folder)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    distributed.destroy_process_group()
