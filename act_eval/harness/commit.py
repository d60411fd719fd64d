"""The commit that lm-eval notes in its results, looked up without words on the terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


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


def _commit_hash() -> str | None:
    """Find the commit of the current folder as lm-eval does, or None outside of a repository."""
    from lm_eval.loggers.utils import get_commit_from_path

    try:
        found = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return get_commit_from_path(os.getcwd())
    return found.stdout.strip()
