"""lm-eval's response cache (`--use_cache`), which knows prompts but not the model's settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import CacheHook


def keep_settings_apart(cache_hook: CacheHook, settings: Mapping[str, Any]) -> None:
    """Let a cache hold the answers of these settings apart from those of others.

    The cache is an SQLite file of one table; each setting gets a table of its own in it.

    Args:
        cache_hook: of lm-eval; may have no file.
        settings: all that answers depend on beside the prompt; values that JSON can hold.
    """
    database = cache_hook.dbdict
    if database is not None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        table = f"act_{digest[:16]}"
        type(database)(database.filename, tablename=table).close()
        database.tablename = table
