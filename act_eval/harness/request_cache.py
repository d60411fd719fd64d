"""lm-eval's cache of requests (`--cache_requests`), which knows the names of tasks, but not what they ask."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.caching import cache

from act_eval.harness.settings import PromptSettings
from act_eval.harness.what_ran import digest_of

if TYPE_CHECKING:
    from act_eval.harness.lm import ACTLM

_FOLDER = "act-eval"  # beside what lm-eval itself keeps

_one_at_a_time = threading.Lock()  # the folder is a global of lm-eval


@contextmanager
def request_cache_of(task: Mapping[str, Any], prompts: PromptSettings, lm: ACTLM) -> Iterator[None]:
    """Let lm-eval keep the requests that are made in a block where only the same task, asked in the same way, finds them.

    Args:
        task: see `describe_task`.
        prompts: how it is asked, and whether requests are kept.
        lm: holds the chat template.
    """
    if not prompts.keeps_requests:
        yield
        return
    chat = [lm.tokenizer_fingerprint, lm.tokenizer.chat_template, lm.kept_arguments] if prompts.apply_chat_template else None
    content = {"task": task, "prompts": prompts.recorded, "chat": chat, "lm-eval": version("lm-eval")}
    with _one_at_a_time:
        usual, cache.PATH = cache.PATH, str(Path(cache.PATH, _FOLDER, digest_of(content)))
        try:
            Path(cache.PATH).mkdir(parents=True, exist_ok=True)
            yield
        finally:
            cache.PATH = usual


def delete_cached_requests() -> None:
    """Delete all requests that were kept, by lm-eval itself or here."""
    folder = Path(cache.PATH)
    if folder.is_dir():
        cache.delete_cache()
        shutil.rmtree(folder / _FOLDER, ignore_errors=True)
