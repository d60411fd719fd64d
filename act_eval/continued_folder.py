"""The folder of long work, which is gone on with as long as it is the same work.

Where anything that its results depend on has changed, what is there is set aside in a folder `earlier-<digest>` in it, and
comes back from there when the same work is asked for again. Nothing is deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from act_eval.differences import differences, in_words
from act_eval.files import atomic_file

logger = logging.getLogger(__name__)


def go_on_in(folder: Path, record: str, identity: Mapping[str, Any], owned: Sequence[str]) -> None:
    """Go on with the work in a folder, or begin it there; a warning of one line says what changed since.

    Args:
        folder: exists.
        record: name of the file that holds the identity of the work.
        identity: all that its results depend on; values that JSON can hold.
        owned: patterns of the names in the folder that belong to the work, besides the record.
    """
    file, content = folder / record, f"{json.dumps(identity, indent=2, ensure_ascii=False)}\n".encode()
    if file.is_file():
        earlier = file.read_bytes()
        if earlier == content:
            return
        aside = folder / _name(earlier)
        for pattern in (*owned, record):  # the record last, so that a kill in between is made good by the next run
            for path in sorted(folder.glob(pattern)):
                _move(path, aside)
        text = "%s: the work begins anew, since this has changed: %s. What was there is in %s."
        logger.warning(text, folder, _changes(record, earlier, content), aside.name)
    kept = folder / _name(content)
    if kept.is_dir():
        for path in sorted(kept.iterdir()):
            _move(path, folder)
        kept.rmdir()
        logger.warning("%s: goes on with what was in %s.", folder, kept.name)
    with atomic_file(file) as target:
        target.write(content)


def _name(content: bytes) -> str:
    return f"earlier-{hashlib.sha256(content).hexdigest()[:8]}"


def _move(path: Path, folder: Path) -> None:
    """Move a file or a folder; what an earlier, unfinished move left in the same place is joined with it."""
    target = folder / path.name
    folder.mkdir(exist_ok=True)
    if path.is_dir() and target.is_dir():
        for below in sorted(path.iterdir()):
            _move(below, target)
        path.rmdir()
    else:
        os.replace(path, target)


def _changes(record: str, earlier: bytes, now: bytes) -> str:
    try:
        return in_words(differences(json.loads(earlier), json.loads(now)))
    except (ValueError, AttributeError):
        return f"{record}, which is not readable"
