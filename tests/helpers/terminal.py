"""A terminal that keeps what was shown on it."""

import io
import re
from typing import cast

from rich.console import Console


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def shown_on(console: Console) -> str:
    """All that was ever shown, also what bars were drawn over."""
    return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", cast("io.StringIO", console.file).getvalue())
