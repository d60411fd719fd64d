"""Prefills that attention kernels are tried on, and what calibrated outputs are by definition: full maps in float64.

Needs torch and `act_eval.attention` alone, so that a machine with a CUDA device can run it without the tools of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from act_eval.attention import blockwise
from act_eval.attention.calibration import CalibrationSettings, find_sinks
from act_eval.attention.call import AttentionCall
from act_eval.attention.layer import choose_kernels
from act_eval.attention.limits import DEFAULT_LIMITS, ComputeLimits
from act_eval.attention.masks import Visibility
from act_eval.attention.pairs import ChosenHeads
from act_eval.methods.base import Method

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HEAD_DIMS = (128, 64, 80, 96, 256)
MEANS_TOLERANCE = 5e-6


@dataclass(frozen=True)
class KernelCase:
    """A prefill of random states in which every eleventh key attracts attention.

    Attributes:
        name: what is special about it.
        dtype, dim: of queries, keys and values.
        n: tokens of a row.
        heads, key_heads: of queries; of keys and values.
        padding: how many tokens on the left of row 1 are padding.
        window: how many keys a query sees at most, or None for all up to its own.
        softcap: of the scores, or None.
        learned_sinks: whether heads have a learned sink logit.
        safe_factor: up to which factor on its other keys a row may be computed from the base output; None for the default.
    """

    name: str
    dtype: torch.dtype = torch.float32
    dim: int = 24
    n: int = 70
    heads: int = 4
    key_heads: int = 4
    padding: int = 0
    window: int | None = None
    softcap: float | None = None
    learned_sinks: bool = False
    safe_factor: float | None = None

    @property
    def limits(self) -> ComputeLimits:
        """How much is computed at once, and which rows are computed over all their keys."""
        if self.safe_factor is None:
            return DEFAULT_LIMITS
        return ComputeLimits(safe_factor=self.safe_factor, safe_factor_in_half_precision=self.safe_factor)

    def cut(self, most: int) -> KernelCase:
        """The case with at most so many tokens, since an interpreter is slow; padding and window shrink with it."""
        if self.n <= most:
            return self
        window = None if self.window is None else max(2, self.window * most // self.n)
        return replace(self, n=most, padding=self.padding * most // self.n, window=window)


@dataclass(frozen=True)
class Outcome:
    """What kernels made of a case.

    Attributes:
        kernels: the module that did it: "triton_kernels" or "blockwise".
        sinks: how many keys are sinks in the heads that are calibrated.
        sinks_differ: how many keys it took for sinks, or not, that are none, or are one.
        others_changed: whether it touched heads that are not calibrated, or padding.
        means_error: largest difference of a key's mean attention.
        output_error: largest difference of an output.
        output_tolerance: what that may be in this dtype.
    """

    kernels: str
    sinks: int
    sinks_differ: int
    others_changed: bool
    means_error: float
    output_error: float
    output_tolerance: float

    @property
    def is_right(self) -> bool:
        """Whether the kernels gave what the definition says; values that are no numbers are wrong."""
        exact = self.means_error <= MEANS_TOLERANCE and self.output_error <= self.output_tolerance
        return exact and self.sinks_differ == 0 and not self.others_changed


def kernel_cases(dtype: torch.dtype, dim: int) -> Iterator[KernelCase]:
    """Cases for a dtype and head dimension: odd lengths, shared key/value heads, and each kind of mask and score."""
    shape = {"dtype": dtype, "dim": dim, "n": 203, "key_heads": 2}
    yield KernelCase("odd length, grouped heads", **shape)
    yield KernelCase("rows computed over all keys", **shape, safe_factor=1.2)
    yield KernelCase("padding", **shape, padding=77)
    yield KernelCase("padding, rows computed over all keys", **shape, padding=77, safe_factor=1.2)
    yield KernelCase("soft cap", **shape, softcap=2.0)
    yield KernelCase("window", **shape, window=40)
    yield KernelCase("window and padding", **shape, window=40, padding=77)
    yield KernelCase("learned sinks", **shape, learned_sinks=True)
    yield KernelCase("one head of keys", dtype=dtype, dim=dim, n=131, key_heads=1)
    if dim == HEAD_DIMS[0]:  # lengths that kernels are compiled for anew, whatever the head dimension
        yield KernelCase("one token", dtype=dtype, dim=dim, n=1)
        yield KernelCase("one head each, length of a power of two", dtype=dtype, dim=dim, n=256)


@dataclass(frozen=True)
class Prefill:
    """A case's states on the CPU, and its attention by definition.

    Attributes:
        query, key, value: `[2, heads, n, dim]` and `[2, key heads, n, dim]`, in the case's dtype.
        visible: bool `[2, 1, n, n]`, which key a query sees; rows of padding see nothing.
        real: bool `[2, n]`, False for padding.
        learned_sinks: float32 `[heads]`, or None.
        weights: float64 `[2, heads, n, n]`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    real: Tensor
    learned_sinks: Tensor | None
    weights: Tensor

    @classmethod
    def of_case(cls, case: KernelCase, seed: int = 0) -> Prefill:
        """Draw the states of a case."""
        generator = torch.Generator().manual_seed(seed)
        n = case.n

        def states(heads: int) -> Tensor:
            return torch.randn(2, n, heads, case.dim, generator=generator).transpose(1, 2)

        # Scores of the same size whatever the dimension: as in models, a few keys get most of the attention.
        query = states(case.heads) + 0.7 * (24 / case.dim) ** 0.25
        key, value = states(case.key_heads), states(case.key_heads)
        key[:, :, 3::11] += 0.7 * (24 / case.dim) ** 0.25
        query, key, value = (tensor.to(case.dtype) for tensor in (query, key, value))
        real = torch.ones(2, n, dtype=torch.bool)
        real[1, : case.padding] = False
        own = torch.arange(n)
        visible = own <= own[:, None]
        if case.window is not None:
            visible &= own > own[:, None] - case.window
        visible = (visible & real[:, None, :] & real[:, :, None])[:, None]
        learned = torch.randn(case.heads, generator=generator) if case.learned_sinks else None
        group = case.heads // case.key_heads
        scores = query.double() @ key.double().repeat_interleave(group, 1).mT * case.dim**-0.5
        if case.softcap is not None:
            scores = torch.tanh(scores / case.softcap) * case.softcap
        scores = scores.masked_fill(~visible, -torch.inf)
        column = torch.full_like(scores[..., :1], -torch.inf)
        if learned is not None:
            column = learned.double()[:, None, None].expand_as(column)
        weights = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
        return cls(query, key, value, visible, real, learned, torch.where(visible, weights, 0))

    @property
    def means(self) -> Tensor:
        """Each key's mean attention over the queries that see it, float64 `[2, heads, n]`."""
        return self.weights.sum(-2) / self.visible.sum(-2).clamp(min=1)

    def outputs(self, weights: Tensor) -> Tensor:
        """What attention weights give, float64 `[2, n, heads, dim]`."""
        group = self.query.shape[1] // self.key.shape[1]
        return (weights @ self.value.double().repeat_interleave(group, 1)).transpose(1, 2)

    def threshold(self) -> float:
        """A threshold above which a tenth of all keys are, or a little more or less: in the widest gap between their means."""
        means = self.means[self.real[:, None].expand_as(self.means)].sort().values
        upper = means[int(0.8 * len(means)) : int(0.97 * len(means))]
        if len(upper) < 2:  # one token, which gets all there is
            return 0.5
        widest = int(upper.diff().argmax())
        return float(upper[widest : widest + 2].mean())

    def call(self, case: KernelCase, device: str) -> AttentionCall:
        """The call that the attention function makes of it, with the base backend's output, on a device."""
        query, key, value = (tensor.to(device) for tensor in (self.query, self.key, self.value))
        # As sdpa gets it; queries that are padding see themselves in none of these rows, and nothing else looks at them.
        mask = self.visible.to(device) if case.padding or case.window is not None else None
        learned = None if self.learned_sinks is None else self.learned_sinks.to(device)
        output = self.outputs(self.weights).to(case.dtype).contiguous().to(device)
        visibility = Visibility.from_mask(mask, query, key)
        return AttentionCall(query, key, value, output, visibility, case.dim**-0.5, case.softcap, learned, case.limits)


def triton_where_supported(call: AttentionCall, method: Method, chosen: ChosenHeads) -> ModuleType:
    """As `choose_kernels`, on any device: on a CPU the Triton kernels need Triton's interpreter."""
    from act_eval.attention import triton_kernels

    return triton_kernels if triton_kernels.is_supported(call, method) else blockwise


def try_kernels(
    case: KernelCase, device: str, choose: Callable[[AttentionCall, Method, ChosenHeads], ModuleType] = choose_kernels
) -> Outcome:
    """Calibrate some heads of a case on a device, and compare with the definition.

    Args:
        case: what is tried.
        device: where; everything it is compared with is computed on the CPU.
        choose: says which kernels do it; by default those that a model would use there.
    """
    prefill = Prefill.of_case(case)
    settings = CalibrationSettings(threshold=prefill.threshold())
    call = prefill.call(case, device)
    before = call.output.clone()
    chosen = torch.ones(2, case.heads, dtype=torch.bool)
    chosen[0, 1] = chosen[1, 0] = False
    rows, heads = chosen.nonzero().to(device).unbind(-1)
    kernels = choose(call, settings.method, ChosenHeads(chosen.to(device)))
    means, _ = kernels.attention_statistics(call, rows, heads)
    sinks = kernels.calibrate_prefill(call, rows, heads, settings)

    expected_sinks = find_sinks(prefill.means, case.n, settings, prefill.real[:, None])
    first = torch.zeros_like(expected_sinks)
    first[0, :, 0] = first[1, :, case.padding] = True
    calibrated = settings.method.rewrite(prefill.weights, expected_sinks[:, :, None], first[:, :, None])
    expected = prefill.outputs(calibrated)
    touched = (chosen[:, None] & prefill.real[:, :, None])[..., None].expand_as(expected)
    size = float(expected.abs().max())
    return Outcome(
        kernels=kernels.__name__.rpartition(".")[2],
        sinks=int(expected_sinks[chosen].sum()),
        sinks_differ=int((sinks.cpu() != expected_sinks[chosen]).sum()),
        others_changed=not torch.equal(call.output.cpu()[~touched], before.cpu()[~touched]),
        means_error=_largest(means.cpu().double() - prefill.means[chosen]),
        output_error=_largest((call.output.cpu().double() - expected)[touched]),
        output_tolerance=size * max(3e-5, 2 * torch.finfo(case.dtype).eps),
    )


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())
