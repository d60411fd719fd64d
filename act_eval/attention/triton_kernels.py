"""The two passes of a prefill's calibration as Triton kernels, for CUDA devices: no map, no copies of queries and keys.

They compute what the functions of the same names in `blockwise` compute in torch, for masks that are causality and padding.
Scores are accumulated in float32 from the model's own dtype, whose products are exact in float32 (float32 models: no TF32).

1. `attention_statistics`: each query's log-sum-exp, where the base backend's kernel has not given it (`log_sum_exp`; one
   program per block of queries), then each key's mean attention (one program per block of keys, over the queries from it on).
   No atomics: the result does not depend on timing.
2. `calibrate_prefill`: these statistics, the sinks, and outputs from the base backend's in O(n * sinks); blocks that hold a row
   with nearly all its mass on sinks go over all keys once more, without the sinks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from act_eval.attention.blockwise import find_prefill_sinks
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.call import AttentionCall
from act_eval.attention.pairs import SelectedKeys
from act_eval.methods.base import Method

CALIBRATE_STAGES = 2  # of loads in flight: with the usual three, keys and values would not fit where there are 99 KiB
_MOST_QUERIES = 64  # of a block
_TILE_BYTES = 2**14  # of a block of queries or keys: kernels hold several at once, and devices have room for 99 KiB and more


@triton.jit
def _scores(
    query,
    key_base,
    key_stride,
    columns,
    k,
    scale,
    softcap,
    dims,
    HAS_SOFTCAP: tl.constexpr,
    DIM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores of a block of queries over the keys at `columns`, float32 `[block, columns]`."""
    key_mask = (columns < k)[None, :] & (dims < DIM)[:, None]
    key = tl.load(key_base + columns[None, :] * key_stride + dims[:, None], mask=key_mask, other=0.0)
    scores = tl.dot(query, key, input_precision=PRECISION) * scale
    if HAS_SOFTCAP:
        scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
    return scores


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
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    queries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    query_base = query_ptr + row * query_batch + head * query_head
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    query_mask = (queries < n)[:, None] & (dims < DIM)[None, :]
    query = tl.load(query_base + queries[:, None] * query_stride + dims[None, :], mask=query_mask, other=0.0)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, tl.minimum((tl.program_id(0) + 1) * BLOCK, k), BLOCK):
        columns = start + tl.arange(0, BLOCK)
        scores = _scores(query, key_base, key_stride, columns, k, scale, softcap, dims, HAS_SOFTCAP, DIM, PRECISION)
        seen = (columns[None, :] <= queries[:, None]) & (columns < k)[None, :]
        if HAS_PADDING:
            seen &= tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1)[None, :] == 0
        scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(scores - shift[:, None]), 1)
        largest = new_largest
    # Queries that see nothing are padding.
    log_normalizer = tl.where(total > 0, largest + tl.log(total), 0.0)
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
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    query_base = query_ptr + row * query_batch + head * query_head
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    key_is_real = columns < k
    if HAS_PADDING:
        key_is_real &= tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1) == 0
    received = tl.zeros([BLOCK], tl.float32)
    for start in range(tl.program_id(0) * BLOCK, n, BLOCK):
        queries = start + tl.arange(0, BLOCK)
        query_mask = (queries < n)[:, None] & (dims < DIM)[None, :]
        query = tl.load(query_base + queries[:, None] * query_stride + dims[None, :], mask=query_mask, other=0.0)
        scores = _scores(query, key_base, key_stride, columns, k, scale, softcap, dims, HAS_SOFTCAP, DIM, PRECISION)
        log_normalizer = tl.load(log_normalizer_ptr + row_head * n + queries, mask=queries < n, other=0.0)
        query_is_real = queries < n
        if HAS_PADDING:
            query_is_real &= tl.load(padding_ptr + row * k + queries, mask=queries < n, other=1) == 0
        seen = (columns[None, :] <= queries[:, None]) & query_is_real[:, None] & key_is_real[None, :]
        received += tl.sum(tl.where(seen, tl.exp(scores - log_normalizer[:, None]), 0.0), 0)
    tl.store(received_ptr + row_head * k + columns, received, mask=columns < k)


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
    n,
    k,
    most,
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
    SINK_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_head = tl.program_id(1)
    count = tl.load(count_ptr + row_head).to(tl.int32)
    if count == 0:
        return
    row = tl.load(rows_ptr + row_head)
    head = tl.load(heads_ptr + row_head)
    queries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    query_base = query_ptr + row * query_batch + head * query_head
    key_base = key_ptr + row * key_batch + (head // group) * key_head
    value_base = value_ptr + row * value_batch + (head // group) * value_head
    output_at = output_ptr + row * output_batch + head * output_head + queries[:, None] * output_stride + dims[None, :]
    query_is_real = queries < n
    if HAS_PADDING:
        query_is_real &= tl.load(padding_ptr + row * k + queries, mask=queries < n, other=1) == 0
    query_mask = (queries < n)[:, None] & (dims < DIM)[None, :]
    query = tl.load(query_base + queries[:, None] * query_stride + dims[None, :], mask=query_mask, other=0.0)
    log_normalizer = tl.load(log_normalizer_ptr + row_head * n + queries, mask=queries < n, other=0.0)

    mass = tl.zeros([BLOCK], tl.float32)
    from_sinks = tl.zeros([BLOCK, DIM_BLOCK], tl.float32)
    for start in range(0, count, SINK_BLOCK):
        places = start + tl.arange(0, SINK_BLOCK)
        columns = tl.load(index_ptr + row_head * most + places, mask=places < count, other=k)
        scores = _scores(query, key_base, key_stride, columns, k, scale, softcap, dims, HAS_SOFTCAP, DIM, PRECISION)
        seen = (columns[None, :] <= queries[:, None]) & (places < count)[None, :]
        weights = tl.where(seen, tl.exp(scores - log_normalizer[:, None]), 0.0)
        mass += tl.sum(weights, 1)
        value_mask = (columns < k)[:, None] & (dims < DIM)[None, :]
        value = tl.load(value_base + columns[:, None] * value_stride + dims[None, :], mask=value_mask, other=0.0)
        from_sinks += tl.dot(weights, value.to(tl.float32), input_precision="ieee")

    output = tl.load(output_at, mask=query_mask, other=0.0).to(tl.float32)
    factor = 1.0 + (1.0 - beta) * mass / tl.maximum(1.0 - mass, 1.1920929e-07)
    calibrated = factor[:, None] * output + (beta - factor)[:, None] * from_sinks
    loses_precision = (factor > largest_safe_factor) & query_is_real

    if tl.max(loses_precision.to(tl.int32), 0) > 0:
        largest = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        over_others = tl.zeros([BLOCK, DIM_BLOCK], tl.float32)
        for start in range(0, tl.minimum((tl.program_id(0) + 1) * BLOCK, k), BLOCK):
            columns = start + tl.arange(0, BLOCK)
            scores = _scores(query, key_base, key_stride, columns, k, scale, softcap, dims, HAS_SOFTCAP, DIM, PRECISION)
            seen = (columns[None, :] <= queries[:, None]) & (columns < k)[None, :]
            seen &= tl.load(is_sink_ptr + row_head * k + columns, mask=columns < k, other=1)[None, :] == 0
            if HAS_PADDING:
                seen &= tl.load(padding_ptr + row * k + columns, mask=columns < k, other=1)[None, :] == 0
            scores = tl.where(seen, scores, float("-inf"))
            new_largest = tl.maximum(largest, tl.max(scores, 1))
            shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
            weights = tl.exp(scores - shift[:, None])
            decay = tl.exp(largest - shift)
            total = total * decay + tl.sum(weights, 1)
            value_mask = (columns < k)[:, None] & (dims < DIM)[None, :]
            value = tl.load(value_base + columns[:, None] * value_stride + dims[None, :], mask=value_mask, other=0.0)
            over_others = over_others * decay[:, None] + tl.dot(weights, value.to(tl.float32), input_precision="ieee")
            largest = new_largest
        other_mass = tl.where(total > 0, tl.exp(largest + tl.log(total) - log_normalizer), 0.0)
        over_others = over_others / tl.where(total > 0, total, 1.0)[:, None]
        exact = (1.0 - beta * mass)[:, None] * over_others + beta * from_sinks
        exact = tl.where((other_mass > 0)[:, None], exact, output)
        calibrated = tl.where(loses_precision[:, None], exact, calibrated)

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
    means, log_normalizer = attention_statistics(call, rows, heads)
    sinks = find_prefill_sinks(means, call.visibility, rows, heads, settings)
    beta = settings.method.constant_factor
    assert beta is not None
    keys = SelectedKeys.from_masks(sinks, torch.zeros_like(sinks))
    if keys is None:
        return sinks
    rows, heads = rows.contiguous(), heads.contiguous()
    (query, key, padding, n, k, group, scale, softcap, *strides), options = _common(call)
    by_head = call.output.transpose(1, 2)
    _calibrate_kernel[(triton.cdiv(n, options["BLOCK"]), len(rows))](
        query,
        key,
        call.value,
        by_head,
        rows,
        heads,
        padding,
        log_normalizer,
        sinks,
        keys.index,
        keys.present.sum(-1),
        n,
        k,
        keys.index.shape[-1],
        group,
        scale,
        softcap,
        beta,
        call.limits.largest_safe_factor(call.query.dtype),
        *strides,
        *call.value.stride()[:3],
        *by_head.stride()[:3],
        SINK_BLOCK=16,
        num_stages=CALIBRATE_STAGES,
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
        `[row_heads, n]`; 0 for padding.
    """
    n, k = call.query.shape[-2], call.key.shape[-2]
    rows, heads = rows.contiguous(), heads.contiguous()
    received = torch.empty(len(rows), k, dtype=torch.float32, device=rows.device)
    (query, key, padding, *others), options = _common(call)
    if call.log_sum_exp is None:
        log_normalizer = torch.empty(len(rows), n, dtype=torch.float32, device=rows.device)
        _log_normalizer_kernel[(triton.cdiv(n, options["BLOCK"]), len(rows))](
            query, key, rows, heads, padding, log_normalizer, *others, **options
        )
    else:
        log_normalizer = call.log_sum_exp[rows, heads].float()
        if not call.visibility.all_real:
            log_normalizer.masked_fill_(~call.visibility.real[call.visibility.places_of_rows(rows)], 0)
    _received_kernel[(triton.cdiv(k, options["BLOCK"]), len(rows))](
        query, key, rows, heads, padding, log_normalizer, received, *others, **options
    )
    seen_by = call.visibility.seen_by[call.visibility.places_of_rows(rows), 0]
    return received / seen_by.clamp(min=1), log_normalizer


def _common(call: AttentionCall) -> tuple[list[Any], dict[str, Any]]:
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
        **compile_time_sizes(query.shape[-1], query.dtype),
    }
    return arguments, options


def compile_time_sizes(dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """The compile-time constants of the kernels that follow from the head dimension and the dtype.

    Blocks are smaller where a query is longer, so that all fits into the shared memory of any device.
    """
    dim_block = max(16, triton.next_power_of_2(dim))
    return {
        "DIM": dim,
        "DIM_BLOCK": dim_block,
        "BLOCK": max(16, min(_MOST_QUERIES, _TILE_BYTES // (dim_block * dtype.itemsize))),
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }
