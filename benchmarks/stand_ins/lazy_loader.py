"""What act-eval imports of lazy-loader, for machines without it: public names are then found in their own modules alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def attach_stub(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """As lazy-loader's, for a package without public names."""

    def find(name: str) -> Any:
        raise AttributeError(f"{package} has no attribute {name!r} where lazy-loader is not installed: import its own module.")

    return find, list, []
