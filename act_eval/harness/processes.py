"""The processes of a run: they share its documents, or hold parts of the model (tensor parallelism).

Where they hold parts of the model, each must answer every request, together with the others, and lm-eval's model has
`world_size` 1 in each of them. In any case one process speaks, and writes what is not its own share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from rich.console import Console

from act_eval.errors import InputError
from act_eval.files import make_folder
from act_eval.refusals import FolderAsItWas, missing_paths

Value = TypeVar("Value")

_LOCK_FILE = ".lock"
_PATIENCE = timedelta(weeks=52)  # with processes that have more to do, as lm-eval's `hf` has it


def shared_processes() -> PartialState:
    """Find the processes that torchrun or `accelerate launch` started for this run; one where nothing did.

    accelerate takes processes on a machine without accelerators for separate runs, unless it is told that they are on CPUs; it
    is told by whoever asks first. It then calls each CPU cpu:0, where transformers 4.57 cannot load weights to.
    """
    processes = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    if processes.device.type == "cpu":
        processes.device = torch.device("cpu")
    return processes


def is_first_process() -> bool:
    """Whether this is the process that speaks: the first of those that torch joined, or the only one."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not joined or torch.distributed.get_rank() == 0


def speaking_console(console: Console | None) -> Console:
    """The console that was given, else one for stderr, on which the first process alone speaks."""
    return Console(stderr=True, quiet=not is_first_process()) if console is None else console


def same_for_all(value: Value) -> Value:
    """Give every process the main one's value; all of them must call this."""
    if shared_processes().num_processes > 1:
        (value,) = broadcast_object_list([value])
    return value


@contextmanager
def only_writer(folder: Path, records: Collection[str] = ()) -> Iterator[None]:
    """Keep other commands from writing to a folder until the block is left, or the process is killed.

    The main process holds the folder for all that run together. What is held may be asked for again inside the block: a study
    holds the folder in which its comparison runs. Where the block raises InputError and has written no results, the folder is
    as it was before, and is missing again where it was missing.

    Args:
        folder: made when missing.
        records: patterns of the files in it that say what is asked for, and are no results, see `refusals.FolderAsItWas`.

    Raises:
        InputError: another command writes to the folder, or it cannot be written; raised in all processes.
    """
    is_main = shared_processes().is_main_process
    missing = missing_paths(folder / _LOCK_FILE)
    shared_processes().wait_for_everyone()
    make_folder(folder)
    lock = FileLock(folder.resolve() / _LOCK_FILE, timeout=0, is_singleton=True)
    if not same_for_all(is_main and _acquired(lock)):
        raise InputError(f"another command is writing to {folder}: wait until it has finished, or choose another folder.")
    try:
        before = FolderAsItWas.of(folder, records, missing) if is_main else None
        try:
            yield
        except InputError:
            if before is not None:
                before.restore()
            raise
    finally:
        if is_main:
            lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True
