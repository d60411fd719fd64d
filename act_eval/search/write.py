"""What a search leaves behind: the profile and tables."""

from __future__ import annotations

from pathlib import Path

from act_eval.files import write_texts
from act_eval.head_scores import write_head_scores
from act_eval.search.heads import SearchSpace
from act_eval.search.results import SearchResult
from act_eval.search.store import HEAD_SETS_FILE, PROFILE_FILE


def write_result(result: SearchResult, space: SearchSpace, folder: Path) -> None:
    """Write `heads.csv` with its heat map, `heads_together.csv` where head sets were tried, and last `profile.json`."""
    write_head_scores(result.heads, folder, space.num_layers, space.num_heads)
    head_sets = result.head_sets.to_csv(index=False, float_format="%.6f") if len(result.head_sets) else None
    write_texts({HEAD_SETS_FILE: head_sets, PROFILE_FILE: result.profile.to_json()}, folder)
