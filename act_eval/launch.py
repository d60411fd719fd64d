"""What torchrun and `accelerate launch` tell a process of itself in its environment, before it has joined the others."""

import os


def is_first_launched() -> bool:
    """Whether this is the first of the processes that were launched together, or was started alone."""
    return os.environ.get("RANK", "0") == "0"
