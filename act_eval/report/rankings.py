"""Which settings of a report differ by how many heads of one ranking they calibrate, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from act_eval.report.older_files import current_form

_OF_HEADS = ("profile", "profile_hash", "profile_commit", "num_heads", "heads", "groups", "text", "head_share")

Heads = frozenset[tuple[str, int]]  # layer and head


def rankings(runs: pd.DataFrame) -> dict[str, list[list[str]]]:
    """Divide the settings of each model into rankings: chains in which each set of heads holds the one before it.

    What is done in the heads is the same along a chain. A set that holds several of which none holds another, as all heads hold
    those found and random ones, begins a chain of its own. Settings are in none where results files do not name their heads, or
    name groups of them.

    Args:
        runs: `load.Results.runs`.

    Returns:
        By model, the chains, each with the fewest heads first.
    """
    chains: dict[str, list[list[str]]] = {}
    for (model, _), alike in _settings(runs).items():
        chains.setdefault(model, []).extend(_chains(alike))
    return chains


def _settings(runs: pd.DataFrame) -> dict[tuple[str, str], dict[str, Heads]]:
    """By model and what is done in heads, the heads of each of the settings that have some."""
    found: dict[tuple[str, str], dict[str, Heads]] = {}
    for run in runs[~runs["is_baseline"].astype(bool)].to_dict("records"):
        act = current_form(run["arguments"]["act"])
        heads = _heads(act)
        if heads is not None:
            done = {name: value for name, value in act.items() if name not in _OF_HEADS}
            key = str(run["model"]), json.dumps(done, sort_keys=True, default=str)
            found.setdefault(key, {})[str(run["settings"])] = heads
    return found


def _heads(act: Mapping[str, Any]) -> Heads | None:
    """The heads of a results file; None where it does not name them, or in groups."""
    if "groups" in act:
        return None
    try:
        return frozenset((str(layer), int(head)) for layer, of_layer in act["heads"].items() for head in of_layer)
    except (LookupError, AttributeError, TypeError, ValueError):
        return None


def _chains(heads: Mapping[str, Heads]) -> list[list[str]]:
    """Divide settings into chains of nested sets of heads."""
    chains: list[list[str]] = []
    for settings in sorted(heads, key=lambda name: (len(heads[name]), name)):
        below = [chain for chain in chains if heads[chain[-1]] < heads[settings]]
        largest = [chain for chain in below if not any(heads[chain[-1]] < heads[other[-1]] for other in below)]
        if len(largest) == 1:
            largest[0].append(settings)
        else:
            chains.append([settings])
    return chains
