"""What arguments of generation say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def draws_replies(generation: Mapping[str, Any]) -> bool:
    """Whether replies are drawn at random with these `generation_kwargs`: as `do_sample` says, or else with a temperature."""
    do_sample = generation.get("do_sample")
    return bool(generation.get("temperature") if do_sample is None else do_sample)
