"""Calibrated attention of prefills so short that whole maps fit into a block: each map is made once, and held.

`blockwise` lets go of each block of weights, and so computes scores twice, in the base backend and for the sinks. Here the
weights of some heads stay until their sinks are known, and then meet the values. Where more than a few heads of a layer are
calibrated, all are computed so, and the base backend does not run: that is less work than to run it first. Nothing is taken
from its output, so no digits are lost where nearly all mass is on sinks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from act_eval.attention.blockwise import find_prefill_sinks
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.shared_heads import SharedHeads, rewrite_rows


def fit(heads: int, queries: int, keys: int, device: torch.device, limits: ComputeLimits) -> bool:
    """Whether the maps of so many heads, of one row of the batch, are small enough to be held."""
    return heads * queries * keys <= min(limits.map_elements, limits.elements(device))


def calibrate_prefill(call: AttentionCall, rows: Tensor, heads: Tensor, settings: CalibrationSettings) -> Tensor:
    """Find the sinks of a prefill and write the calibrated outputs over the base backend's, if it ran.

    Args:
        call: a prefill; the maps of the query heads of one key/value head `fit`.
        rows, heads: int64 `[row_heads]`, batch row and head of the calibrated pairs: the same heads in all rows.
        settings: when a key is a sink, and what becomes of the rows.

    Returns:
        The sinks, or the tokens of the part of the prompt that the method uses, bool `[row_heads, k]`; False everywhere for
        methods that use neither.
    """
    batch, num_heads = call.query.shape[:2]
    method, visibility = settings.method, call.visibility
    some = heads[: len(heads) // batch]
    computed = some if call.has_base_output else torch.arange(num_heads, device=heads.device)
    is_chosen = torch.zeros(num_heads, dtype=torch.bool, device=heads.device).index_fill_(0, some, True)[computed]
    shared = SharedHeads.of_call(call, None if len(computed) == num_heads else computed)
    real = visibility.real[:, None, None].to(visibility.dtype).expand(batch, -1, -1, -1)
    seen_by = visibility.seen_by if visibility.seen_by.shape[1] == 1 else visibility.seen_by.index_select(1, computed)
    seen_by, first_token = (mask.expand(batch, len(computed), -1) for mask in (seen_by, visibility.first_token[:, None]))
    sinks = torch.zeros_like(first_token)
    for some_rows, key_heads in _parts(shared, call.limits):
        some_heads = slice(key_heads.start * shared.group, key_heads.stop * shared.group)
        part, place = shared.part(some_rows, key_heads), (some_rows, some_heads)
        weights, changed = part.weights(), None
        if method.uses_sinks:
            means = (real[some_rows] @ weights).squeeze(-2) / seen_by[place].clamp(min=1)
            pairs = torch.cartesian_prod(torch.arange(batch, device=rows.device)[some_rows], computed[some_heads])
            found = find_prefill_sinks(means.flatten(0, 1), visibility, pairs[:, 0], pairs[:, 1], settings).view_as(means)
            sinks[place] = found & is_chosen[some_heads, None]
        elif method.uses_span:
            sinks[place] = call.tokens_of_span()[some_rows, None] & is_chosen[some_heads, None]
        if method.marks_keys and call.has_base_output:
            changed = sinks[place].any(-1)
            if not changed.any():
                continue
        attended = part.sum_values(rewrite_rows(method, weights, sinks[place], first_token[place]))
        written = None if part.query.shape[1] == num_heads else computed[some_heads]
        call.write_heads(written, attended, None if changed is None or changed.all() else changed, some_rows)
    return sinks[:, is_chosen].flatten(0, 1)


def _parts(shared: SharedHeads, limits: ComputeLimits) -> Iterator[tuple[slice, slice]]:
    """Split rows and key/value heads so that the maps of a part fill a block: all heads of some rows, or some of one row."""
    batch, key_heads, k, _ = shared.key.shape
    size = max(1, limits.elements(shared.key.device) // (shared.group * shared.query.shape[-2] * k))
    for start in range(0, batch, max(1, size // key_heads)):
        rows = slice(start, min(start + max(1, size // key_heads), batch))
        for first in range(0, key_heads, size):
            yield rows, slice(first, min(first + size, key_heads))
