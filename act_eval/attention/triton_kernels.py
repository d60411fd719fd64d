"""The passes of a prefill's calibration as Triton kernels, for CUDA devices: no map, no copies of queries and keys.

They compute what the functions of the same names in `blockwise` compute in torch, for masks that are causality and padding.
Scores are accumulated in float32 from the model's own dtype, whose products are exact in float32 (float32 models: no TF32).

1. `attention_statistics`: each query's log-sum-exp, where the base backend's kernel has not given it (`log_sum_exp`; one
   program per block of queries), then each key's mean attention (one program per block of keys, over the queries from it on).
   No atomics: the result does not depend on timing.
2. `calibrate_prefill`: from these statistics the sinks, each query's attention to them, and outputs from the base backend's in
   O(n * sinks); blocks that hold a row with nearly all its mass on sinks go over all keys once more, without the sinks. The
   host never waits for the device.

Kernels take all compile-time constants that `compile_time_sizes` gives, whether they need them or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from act_eval.attention.blockwise import find_prefill_sinks
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.methods.base import Method

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
SINKS = {"SINK_BLOCK": 32, "PLACES": 1024}  # so many sinks are worked on together, and so many keys where they are looked for
_MOST_PAIRS = 65_535  # of row and head in one launch: the second dimension of CUDA's grids is no longer
_MOST_ROWS = 64  # queries or keys of a tile
_TILE_BYTES = 2**14  # of a block of queries or keys: kernels hold several at once, and devices have room for 99 KiB and more


@triton.jit
def _load_rows(base, stride, rows, count, dims, DIM: tl.constexpr):
    """Load vectors of the head dimension, `[rows, dims]`: 0 for those from `count` on."""
    mask = (rows < count)[:, None] & (dims < DIM)[None, :]
    return tl.load(base + rows[:, None] * stride + dims[None, :], mask=mask, other=0.0)


@triton.jit
def _scores(left, right, scale, softcap, HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):
    """Scores of vectors, `[left, dims]` and `[right, dims]`, as exponents of 2: float32 `[left, right]`."""
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    if HAS_SOFTCAP:
        return LOG2_E * softcap * (2.0 * tl.sigmoid(2.0 * (scores * scale) / softcap) - 1.0)
    return scores * (scale * LOG2_E)


@triton.jit
def _add_exponents(largest, total, scores):
    """Add scores, exponents of 2, `[any, more]`, to sums that are kept beside their largest exponent, `[any]`."""
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(largest - shift)
    return new_largest, total * decay + tl.sum(weights, 1), weights, decay


@triton.jit
def _weighted_sum(weights, values, total, IS_HALF: tl.constexpr, IN_PARTS: tl.constexpr):
    """Add a sum of values, `[keys, dims]`, with float32 weights, `[queries, keys]`, to a total.

    For values in half precision weights are rounded to it, as in the base backends, or taken in two parts with more digits.
    """
    if IS_HALF:
        rounded = weights.to(values.dtype)
        total = tl.dot(rounded, values, total)
        if IN_PARTS:
            total = tl.dot((weights - rounded.to(tl.float32)).to(values.dtype), values, total)
    else:
        total = tl.dot(weights, values, total, input_precision="ieee")
    return total


@triton.jit
def _log_normalizer_kernel(
    query_ptr,
    key_ptr,
    rows_ptr,
    heads_ptr,
    padding_ptr,
    log_normalizer_ptr,
    n,
    k,
    group,
    scale,
    softcap,
    query_batch,
    query_head,
    query_stride,
    key_batch,
    key_head,
    key_stride,
    HAS_PADDING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK  # those with most keys come first
    queries = first + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    query = _load_rows(query_ptr + row * query_batch + head * query_head, query_stride, queries, n, dims, DIM)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    # Keys before all of the queries, which see them, and those at the queries' own places; or all in one.
    for part in tl.static_range(2 - PARTS, 2):
        for start in range(first * part * (PARTS - 1), tl.minimum(first + BLOCK * part, k), STEP):
            columns = start + tl.arange(0, STEP)
            key = _load_rows(key_base, key_stride, columns, k, dims, DIM)
            scores = _scores(query, key, scale, softcap, HAS_SOFTCAP, PRECISION)
            if HAS_PADDING:
                is_padding = tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1) != 0
                scores += tl.where(is_padding, float("-inf"), 0.0)[None, :]
            if part == 1:
                scores = tl.where((columns[None, :] <= queries[:, None]) & (columns < k)[None, :], scores, float("-inf"))
            largest, total, _, _ = _add_exponents(largest, total, scores)
    log_normalizer = (largest + tl.log2(tl.where(total > 0, total, 1.0))) / LOG2_E
    is_real = total > 0
    if HAS_PADDING:
        is_real &= tl.load(padding_ptr + row * k + queries, mask=queries < n, other=1) == 0
    log_normalizer = tl.where(is_real, log_normalizer, float("inf"))
    tl.store(log_normalizer_ptr + row_head * n + queries, log_normalizer, mask=queries < n)


@triton.jit
def _received_kernel(
    query_ptr,
    key_ptr,
    rows_ptr,
    heads_ptr,
    padding_ptr,
    log_normalizer_ptr,
    received_ptr,
    n,
    k,
    group,
    scale,
    softcap,
    query_batch,
    query_head,
    query_stride,
    key_batch,
    key_head,
    key_stride,
    HAS_PADDING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    first = tl.program_id(0) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    query_base = query_ptr + row * query_batch + head * query_head
    key = _load_rows(key_ptr + row * key_batch + (head // group) * key_head, key_stride, columns, k, dims, DIM)
    received = tl.zeros([BLOCK, STEP], tl.float32)
    # Queries at the keys' own places, and those after all of the keys, which see them; or all in one.
    for part in tl.static_range(PARTS):
        for start in range(first + BLOCK * part, tl.minimum(first + BLOCK, n) if part < PARTS - 1 else n, STEP):
            queries = start + tl.arange(0, STEP)
            query = _load_rows(query_base, query_stride, queries, n, dims, DIM)
            scores = _scores(key, query, scale, softcap, HAS_SOFTCAP, PRECISION)
            log_normalizer = tl.load(log_normalizer_ptr + row_head * n + queries, mask=queries < n, other=float("inf"))
            weights = tl.exp2(scores - (log_normalizer * LOG2_E)[None, :])
            if part == 0:
                weights = tl.where(columns[:, None] <= queries[None, :], weights, 0.0)
            received += weights
    of_keys = tl.sum(received, 1)
    if HAS_PADDING:
        of_keys = tl.where(tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1) == 0, of_keys, 0.0)
    tl.store(received_ptr + row_head * k + columns, of_keys, mask=columns < k)


@triton.jit
def _pack_kernel(is_sink_ptr, index_ptr, count_ptr, k, PLACES: tl.constexpr):
    """Pack the places of a row's sinks at its beginning, and count them."""
    row_head = tl.program_id(0).to(tl.int64)
    count = tl.zeros([], tl.int32)
    for start in range(0, k, PLACES):
        columns = start + tl.arange(0, PLACES)
        is_sink = tl.load(is_sink_ptr + row_head * k + columns, mask=columns < k, other=0).to(tl.int32)
        places = count + tl.cumsum(is_sink, 0) - 1
        tl.store(index_ptr + row_head * k + places, columns, mask=is_sink != 0)
        count += tl.sum(is_sink, 0)
    tl.store(count_ptr + row_head, count)


@triton.jit
def _seen_sinks(index_at, count, after, PLACES: tl.constexpr):
    """How many of a row's sinks are before a key."""
    seen = 0
    for start in range(0, count, PLACES):
        places = start + tl.arange(0, PLACES)
        columns = tl.load(index_at + places, mask=places < count, other=0)
        seen += tl.sum(((columns < after) & (places < count)).to(tl.int32), 0)
    return seen


@triton.jit
def _sink_mass_kernel(
    query_ptr,
    key_ptr,
    rows_ptr,
    heads_ptr,
    log_normalizer_ptr,
    index_ptr,
    count_ptr,
    mass_ptr,
    n,
    k,
    group,
    scale,
    softcap,
    query_batch,
    query_head,
    query_stride,
    key_batch,
    key_head,
    key_stride,
    HAS_PADDING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PARTS: tl.constexpr,
    SINK_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    first = tl.program_id(0) * BLOCK
    index_at = index_ptr + row_head.to(tl.int64) * k
    count = _seen_sinks(index_at, tl.load(count_ptr + row_head), first + BLOCK, PLACES)
    queries = first + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    query = _load_rows(query_ptr + row * query_batch + head * query_head, query_stride, queries, n, dims, DIM)
    log_normalizer = tl.load(log_normalizer_ptr + row_head * n + queries, mask=queries < n, other=float("inf")) * LOG2_E
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, SINK_BLOCK):
        places = start + tl.arange(0, SINK_BLOCK)
        columns = tl.load(index_at + places, mask=places < count, other=k)
        key = _load_rows(key_base, key_stride, columns, k, dims, DIM)
        scores = _scores(query, key, scale, softcap, HAS_SOFTCAP, PRECISION)
        weights = tl.exp2(scores - log_normalizer[:, None])
        mass += tl.sum(tl.where(columns[None, :] <= queries[:, None], weights, 0.0), 1)
    tl.store(mass_ptr + row_head * n + queries, mass, mask=queries < n)


@triton.jit
def _calibrate_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    output_ptr,
    rows_ptr,
    heads_ptr,
    padding_ptr,
    log_normalizer_ptr,
    is_sink_ptr,
    index_ptr,
    count_ptr,
    mass_ptr,
    n,
    k,
    group,
    scale,
    softcap,
    beta,
    largest_safe_factor,
    query_batch,
    query_head,
    query_stride,
    key_batch,
    key_head,
    key_stride,
    value_batch,
    value_head,
    value_stride,
    output_batch,
    output_head,
    output_stride,
    HAS_PADDING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PARTS: tl.constexpr,
    SINK_BLOCK: tl.constexpr,
    PLACES: tl.constexpr,
    IS_HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    index_at = index_ptr + row_head.to(tl.int64) * k
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK  # those with most keys come first
    count = _seen_sinks(index_at, tl.load(count_ptr + row_head), first + BLOCK, PLACES)
    if count == 0:
        return
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    queries = first + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    value_base = value_ptr + row * value_batch + (head // group) * value_head
    output_at = output_ptr + row * output_batch + head * output_head + queries[:, None] * output_stride + dims[None, :]
    query_is_real = queries < n
    if HAS_PADDING:
        query_is_real &= tl.load(padding_ptr + row * k + queries, mask=queries < n, other=1) == 0
    query_mask = (queries < n)[:, None] & (dims < DIM)[None, :]
    query = _load_rows(query_ptr + row * query_batch + head * query_head, query_stride, queries, n, dims, DIM)
    log_normalizer = tl.load(log_normalizer_ptr + row_head * n + queries, mask=queries < n, other=float("inf")) * LOG2_E
    mass = tl.load(mass_ptr + row_head * n + queries, mask=queries < n, other=0.0)
    factor = 1.0 + (1.0 - beta) * mass / tl.maximum(1.0 - mass, 1.1920929e-07)
    loses_precision = (factor > largest_safe_factor) & query_is_real
    any_loses = tl.max(loses_precision.to(tl.int32), 0)

    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    calibrated = tl.zeros([BLOCK, DIM_BLOCK], tl.float32)
    # As in `_log_normalizer_kernel`; nothing at all where no row loses precision.
    for part in tl.static_range(2 - PARTS, 2):
        for start in range(first * part * (PARTS - 1), tl.minimum(first + BLOCK * part, k) * any_loses, STEP):
            columns = start + tl.arange(0, STEP)
            key = _load_rows(key_base, key_stride, columns, k, dims, DIM)
            scores = _scores(query, key, scale, softcap, HAS_SOFTCAP, PRECISION)
            is_left_out = tl.load(is_sink_ptr + row_head * k + columns, mask=columns < k, other=1) != 0
            if HAS_PADDING:
                is_left_out |= tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1) != 0
            scores += tl.where(is_left_out, float("-inf"), 0.0)[None, :]
            if part == 1:
                scores = tl.where(columns[None, :] <= queries[:, None], scores, float("-inf"))
            largest, total, weights, decay = _add_exponents(largest, total, scores)
            value = _load_rows(value_base, value_stride, columns, k, dims, DIM)
            calibrated = _weighted_sum(weights, value, calibrated * decay[:, None], IS_HALF, False)
    has_others = (total > 0) & (tl.exp2(largest + tl.log2(tl.where(total > 0, total, 1.0)) - log_normalizer) > 0)

    # Of the base backend's output, of the other keys' values, and of the sinks' values.
    of_output = tl.where(loses_precision, tl.where(has_others, 0.0, 1.0), factor)
    of_others = tl.where(loses_precision & has_others, (1.0 - beta * mass) / tl.where(total > 0, total, 1.0), 0.0)
    of_sinks = tl.where(loses_precision, tl.where(has_others, beta, 0.0), beta - factor)
    output = tl.load(output_at, mask=query_mask, other=0.0).to(tl.float32)
    calibrated = of_others[:, None] * calibrated + of_output[:, None] * output
    for start in range(0, count, SINK_BLOCK):
        places = start + tl.arange(0, SINK_BLOCK)
        columns = tl.load(index_at + places, mask=places < count, other=k)
        key = _load_rows(key_base, key_stride, columns, k, dims, DIM)
        scores = _scores(query, key, scale, softcap, HAS_SOFTCAP, PRECISION)
        weights = tl.exp2(scores - log_normalizer[:, None]) * of_sinks[:, None]
        weights = tl.where(columns[None, :] <= queries[:, None], weights, 0.0)
        value = _load_rows(value_base, value_stride, columns, k, dims, DIM)
        calibrated = _weighted_sum(weights, value, calibrated, IS_HALF, True)
    tl.store(output_at, calibrated.to(output_ptr.dtype.element_ty), mask=query_mask & query_is_real[:, None])


def is_supported(call: AttentionCall, method: Method) -> bool:
    """Whether the kernels can calibrate a prefill: one whose mask is causality and padding, not in float64, without learned
    sink logits, with values that have the head dimension of the keys; by a method that multiplies sinks by a constant.
    """
    visibility = call.visibility
    return (
        method.constant_factor is not None
        and call.learned_sinks is None
        and visibility.hidden is None
        and visibility.query_offset == 0
        and call.query.dtype != torch.float64
        and call.value.shape[-1] == call.key.shape[-1]
        and all(tensor.stride(-1) == 1 for tensor in (call.query, call.key, call.value, call.output))
    )


def calibrate_prefill(call: AttentionCall, rows: Tensor, heads: Tensor, settings: CalibrationSettings) -> Tensor:
    """Find the sinks of a prefill and write the calibrated outputs over the base backend's.

    Args:
        call: a prefill that `is_supported`, with the base backend's output.
        rows, heads: int64 `[row_heads]`, batch row and head of the calibrated pairs, in ascending order.
        settings: when a key is a sink, and what becomes of the rows.

    Returns:
        The sinks, bool `[row_heads, k]`.
    """
    if len(rows) > _MOST_PAIRS:
        return torch.cat([calibrate_prefill(call, *pairs, settings) for pairs in _in_launches(rows, heads)])
    means, log_normalizer = attention_statistics(call, rows, heads)
    sinks = find_prefill_sinks(means, call.visibility, rows, heads, settings)
    beta = settings.method.constant_factor
    assert beta is not None
    rows, heads = rows.contiguous(), heads.contiguous()
    index, count = _packed(sinks)
    by_head, mass = call.output.transpose(1, 2), torch.empty_like(log_normalizer)
    (query, key, padding, *others), options = _common(call, gives_outputs=True)
    n, k, group, scale, softcap, *strides = others
    blocks = (triton.cdiv(n, options["BLOCK"]), len(rows))
    _sink_mass_kernel[blocks](query, key, rows, heads, log_normalizer, index, count, mass, *others, **SINKS, **options)
    _calibrate_kernel[blocks](
        query,
        key,
        call.value,
        by_head,
        rows,
        heads,
        padding,
        log_normalizer,
        sinks,
        index,
        count,
        mass,
        n,
        k,
        group,
        scale,
        softcap,
        beta,
        call.limits.largest_safe_factor(call.query.dtype),
        *strides,
        *call.value.stride()[:3],
        *by_head.stride()[:3],
        IS_HALF=call.value.dtype != torch.float32,
        **SINKS,
        **options,
    )
    return sinks


def attention_statistics(call: AttentionCall, rows: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Walk over the scores of a prefill by keys, and before by queries where the base backend's log-sum-exp is not known.

    Args:
        call: a prefill whose mask is causality and padding.
        rows, heads: int64 `[row_heads]`, batch row and head of the pairs to look at.

    Returns:
        Each key's mean attention over the real queries that see it, float32 `[row_heads, k]`, and each query's log-sum-exp,
        `[row_heads, n]`; infinite for padding.
    """
    if len(rows) > _MOST_PAIRS:
        means, normalizers = zip(*(attention_statistics(call, *pairs) for pairs in _in_launches(rows, heads)), strict=True)
        return torch.cat(means), torch.cat(normalizers)
    n, k = call.query.shape[-2], call.key.shape[-2]
    rows, heads = rows.contiguous(), heads.contiguous()
    received = torch.empty(len(rows), k, dtype=torch.float32, device=rows.device)
    (query, key, padding, *others), options = _common(call, gives_outputs=False)
    if call.log_sum_exp is None:
        log_normalizer = torch.empty(len(rows), n, dtype=torch.float32, device=rows.device)
        _log_normalizer_kernel[(triton.cdiv(n, options["BLOCK"]), len(rows))](
            query, key, rows, heads, padding, log_normalizer, *others, **options
        )
    else:
        log_normalizer = call.log_sum_exp[rows, heads].float()
        if not call.visibility.all_real:
            log_normalizer.masked_fill_(~call.visibility.real[call.visibility.places_of_rows(rows)], torch.inf)
    _received_kernel[(triton.cdiv(k, options["BLOCK"]), len(rows))](
        query, key, rows, heads, padding, log_normalizer, received, *others, **options
    )
    seen_by = call.visibility.seen_by[:, 0]
    return received / (seen_by if len(seen_by) == 1 else seen_by[rows]).clamp(min=1), log_normalizer


def _in_launches(rows: Tensor, heads: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of row and head, as many together as one launch takes."""
    return zip(rows.split(_MOST_PAIRS), heads.split(_MOST_PAIRS), strict=True)


def _packed(sinks: Tensor) -> tuple[Tensor, Tensor]:
    """The places of sinks, bool `[row_heads, k]`, one after the other, and how many there are.

    Returns:
        int32 `[row_heads, k]`, of which as many are written as there are sinks: as wide as a row, so that nobody waits for the
        device to say how many that is; and int32 `[row_heads]`.
    """
    sinks = sinks.contiguous()
    index = torch.empty(sinks.shape, dtype=torch.int32, device=sinks.device)
    count = torch.empty(len(sinks), dtype=torch.int32, device=sinks.device)
    _pack_kernel[(len(sinks),)](sinks, index, count, sinks.shape[-1], PLACES=SINKS["PLACES"])
    return index, count


def _common(call: AttentionCall, gives_outputs: bool) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that the kernels share, in their order, and their compile-time constants."""
    query, key, padding = call.query, call.key, call.visibility.padding
    arguments = [
        query,
        key,
        query if padding is None else padding,
        query.shape[-2],
        key.shape[-2],
        query.shape[1] // key.shape[1],
        call.scaling,
        0.0 if call.softcap is None else call.softcap,
        *query.stride()[:3],
        *key.stride()[:3],
    ]
    options = {
        "HAS_PADDING": padding is not None,
        "HAS_SOFTCAP": call.softcap is not None,
        **compile_time_sizes(query.shape[-1], query.dtype, gives_outputs),
    }
    return arguments, options


def compile_time_sizes(dim: int, dtype: torch.dtype, gives_outputs: bool) -> dict[str, Any]:
    """The compile-time constants of the kernels that follow from the head dimension and the dtype.

    A program works on a block of queries or keys, and goes over the others in steps, of which a block is a multiple. Both are
    smaller where a query is longer, so that all fits into the 99 KiB of shared memory that any device has. Of those that were
    tried on an H200 (`benchmarks/device_block_sizes.py`) these are the fastest. In float32, where products are not for tensor
    cores, programs are kept small, for they take long to compile.

    Args:
        dim: head dimension.
        dtype: of queries, keys and values.
        gives_outputs: of the kernels that make outputs of sinks, one of which holds values beside keys; else of those that find
            sinks.
    """
    dim_block = max(16, triton.next_power_of_2(dim))
    step = max(16, min(_MOST_ROWS, _TILE_BYTES // (dim_block * dtype.itemsize)))
    is_half = dtype.itemsize == 2
    is_large = is_half and not gives_outputs
    return {
        "DIM": dim,
        "DIM_BLOCK": dim_block,
        "BLOCK": 2 * step if is_large else step,
        "STEP": step,
        "PARTS": 2 if is_half else 1,
        "PRECISION": "tf32" if is_half else "ieee",
        "num_warps": 8 if is_large and step == _MOST_ROWS else 4,
        "num_stages": 2 if gives_outputs else 3,
    }
