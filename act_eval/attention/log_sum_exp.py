"""The log-sum-exp of each query's scores, noted while the base backend runs.

Fused attention kernels compute it on their way and give it back to who calls them, but the functions above them drop it. With
it, sinks need one pass over the scores instead of two (`triton_kernels`). It is noted below all dispatching, where the kernel
is called, so that the base backend runs as it always does.

Not on CPUs: `blockwise` normalises a block of scores and sums its columns in one go, and `whole_maps` needs the weights
themselves, so that neither saves a pass. And of sdpa alone: transformers rounds what flex_attention gives to the model's dtype,
and its functions for flash attention drop it above the dispatcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICES = {"cuda"}
_LEAST_SCORES = 2**25  # below, what is saved on a device is less than the tenths of a millisecond that noting takes

_aten = torch.ops.aten
_KERNELS = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
_GIVE_IT_WHERE_ASKED = {
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
_PLACE_OF_COMPUTE_LOG_SUM_EXP = 4  # among the arguments of those


class LogSumExp(TorchDispatchMode):
    """Notes the log-sum-exp of the attention kernels that run in its block."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _GIVE_IT_WHERE_ASKED and len(args) > _PLACE_OF_COMPUTE_LOG_SUM_EXP:
            args = (*args[:_PLACE_OF_COMPUTE_LOG_SUM_EXP], True, *args[_PLACE_OF_COMPUTE_LOG_SUM_EXP + 1 :])
        result = func(*args, **(kwargs or {}))
        if func in _KERNELS:
            self._noted.append(result[1])
        return result

    def of_queries(self, query: Tensor) -> Tensor | None:
        """What was noted for all queries, `[batch, heads, n, head_dim]`: float `[batch, heads, n]`, or None.

        Those of padding may be any number, or none. None where another kernel ran, such as the one for any mask and device, or
        where one ran for parts.
        """
        batch, heads, n, _ = query.shape
        if len(self._noted) != 1:
            return None
        noted = self._noted[0]
        if noted.ndim == 4:  # of cuDNN
            noted = noted.squeeze(-1)
        if noted.ndim != 3 or noted.shape[:2] != (batch, heads) or noted.shape[2] < n:
            return None
        return noted[..., :n]  # the efficient kernel rounds n up


def can_be_noted(query: Tensor, base_name: str) -> bool:
    """Whether it is worth while to note the log-sum-exp of a base backend's kernel, and whether it has the digits.

    In float32 the kernels of a CUDA device may multiply with fewer digits than the scores have that meet the result; in half
    precision products are exact, and accumulated in float32 as in `triton_kernels`.
    """
    has_digits = query.dtype in (torch.float16, torch.bfloat16)
    return base_name == "sdpa" and query.device.type in _DEVICES and has_digits and _scores(query) >= _LEAST_SCORES


def _scores(query: Tensor) -> int:
    batch, heads, n, _ = query.shape
    return batch * heads * n**2
