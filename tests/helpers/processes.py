"""Processes that start at once, since what they need is imported already."""

from __future__ import annotations

import multiprocessing
import os
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
