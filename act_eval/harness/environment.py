"""What lm-eval notes in its results of where it runs: the commit, without words on the terminal, and the machine, once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def commit_looked_up_quietly() -> Iterator[None]:
    """Keep git's "fatal: not a git repository" off the terminal while lm-eval evaluates outside of one.

    lm-eval asks git in a process of its own that shares this one's stderr. What it notes in its results stays the same.
    """
    from lm_eval import evaluator
    from lm_eval.loggers.utils import get_git_commit_hash

    evaluator.get_git_commit_hash = _commit_hash
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = get_git_commit_hash


@contextmanager
def machine_described_once() -> Iterator[None]:
    """Let all evaluations of a block share one description of the machine, which takes lm-eval seconds for each."""
    from torch.utils import collect_env

    describe = collect_env.get_pretty_env_info
    collect_env.get_pretty_env_info = cache(describe)
    try:
        yield
    finally:
        collect_env.get_pretty_env_info = describe


def _commit_hash() -> str | None:
    """Find the commit of the current folder as lm-eval does, or None outside of a repository."""
    from lm_eval.loggers.utils import get_commit_from_path

    try:
        found = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return get_commit_from_path(os.getcwd())
    return found.stdout.strip()
