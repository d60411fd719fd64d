"""How much memory a piece of work needs at its highest."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that a run needs at its highest, on top of what is there before it."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    _give_freed_memory_back()
    done, highest, before = threading.Event(), 0, _resident_bytes()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(0, highest - before)


def _give_freed_memory_back() -> None:
    """Make glibc map every larger tensor by itself, so that resident memory falls when it is freed."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 2**16)
    libc.malloc_trim(0)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def free_memory(device: str) -> int:
    """Bytes that can still be had on a device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
