"""lm-eval's response cache (`--use_cache`), which knows prompts but not who answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import CacheHook

from act_eval.harness.what_ran import digest_of


def keep_apart(cache_hook: CacheHook, identity: Mapping[str, Any]) -> None:
    """Let a cache hold these answers apart from those of other models, settings and package versions.

    The cache is an SQLite file of one table; each identity gets a table of its own in it.

    Args:
        cache_hook: of lm-eval; may have no file.
        identity: all that answers depend on beside the prompt, but no names; values that JSON can hold.
    """
    database = cache_hook.dbdict
    if database is not None:
        table = f"act_{digest_of(identity)}"
        type(database)(database.filename, tablename=table).close()
        database.tablename = table
