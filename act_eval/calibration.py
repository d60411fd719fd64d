"""The method on attention maps: column means, attention sinks, calibration. Plain tensor functions, no model code.

This is the reference that everything else in the project is tested against. "Unveiling and Harnessing Hidden Attention
Sinks" (ACT, arXiv 2406.15765), sections 3 and 4; where the paper leaves something open, the published code
(`atten_process_eval` in `GATECH-EIC/ACT`) decides.

Notation: an attention map `A` has shape `[..., n, k]`: `n` queries, `k` keys, rows that sum to 1. Query `i` stands at key
index `k - n + i` and sees no later key. A prefill map has `n == k`; a decode map (queries on cached keys) has `n < k`.

Learned sink logits. In some models (gpt-oss) each head has a learned logit that joins the softmax of every row, so that rows
of `A` sum to less than 1. It is a key without a value: it stands nowhere in the input and can be no attention sink. Column
means are taken over the weights as the model has them, and what is freed goes to the row's other real keys, in proportion, so
that a row keeps its total. This is the definition word for word, with the map that meets the values as `A`; and it leaves to
the model what the learned logit is for, which is how much a head attends to anything at all.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from act_eval.errors import InputError

Keep = Literal["first-sink", "first-token"]
Decode = Literal["prefill", "row", "official"]

DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True)
class CalibrationSettings:
    """What ACT does to an attention map: when a key is a sink, which sink is spared, and how much a sink keeps.

    Args:
        beta: share of its attention that a sink keeps, in [0, 1].
        threshold: a key is a sink when it receives more than this on average, in [0, 1). 0.1 when alpha is not given either.
        alpha: a key is a sink when it receives more than `alpha / n`, `n` being the number of real tokens; positive.
        keep: the sink that is never calibrated: "first-sink", the detected one with the lowest index (the published
            code), or "first-token" (the paper).
        decode: how rows on cached keys find their sinks: "prefill", the sinks that the prefill found; "row", each row
            alone; "official", each row alone with the published code's two slips (see `calibrate_decode_rows`).

    Raises:
        InputError: a setting is out of range, or both threshold and alpha are given.
    """

    beta: float = 0.4
    threshold: float | None = None
    alpha: float | None = None
    keep: Keep = "first-sink"
    decode: Decode = "prefill"

    def __post_init__(self) -> None:
        if self.threshold is None and self.alpha is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD)
        for name in ("beta", "threshold", "alpha"):
            value = getattr(self, name)
            if (value is not None or name == "beta") and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise InputError(f"{name} is {reprlib.repr(value)}: give a number.")
        if not 0 <= self.beta <= 1:
            raise InputError(
                f"beta is {self.beta}, but it is the share of attention that a sink keeps: give a number in [0, 1]."
            )
        if self.threshold is not None and self.alpha is not None:
            raise InputError("threshold and alpha are two ways to say when a key is a sink: give one of them, not both.")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise InputError(
                f"threshold is {self.threshold}, but it is compared with a mean attention weight: give one in [0, 1)."
            )
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"alpha is {self.alpha}, but a sink receives more than alpha / n: give a positive number.")
        if self.keep not in get_args(Keep):
            raise InputError(f"keep is {reprlib.repr(self.keep)}: choose {' or '.join(get_args(Keep))}.")
        if self.decode not in get_args(Decode):
            raise InputError(f"decode is {reprlib.repr(self.decode)}: choose {', '.join(get_args(Decode))}.")

    @property
    def changes_nothing(self) -> bool:
        """True when calibrated maps equal the originals: sinks keep everything. (The published decode changes rows even so.)"""
        return self.beta == 1 and self.decode != "official"


def visible_keys(n: int, k: int, valid: Tensor | None = None, device: torch.device | None = None) -> Tensor:
    """Which key each query may attend to: bool `[..., n, k]`.

    Args:
        n: number of queries; query `i` stands at key index `k - n + i`.
        k: number of keys.
        valid: bool `[..., k]`, False for padding; padding is neither seen nor does it see.
        device: where to make the mask when `valid` is None.
    """
    device = device if valid is None else valid.device
    keys = torch.arange(k, device=device)
    visible = keys <= keys[k - n :, None]
    if valid is None:
        return visible
    return visible & valid[..., None, :] & valid[..., k - n :, None]


def column_means(attention: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean attention that each key receives from the queries that can see it (the paper's `a[j]`).

    Args:
        attention: float `[..., n, n]`, a prefill map.
        valid: bool `[..., n]`, False for padding.

    Returns:
        float `[..., n]` in [0, 1], at least float32; 0 for padding.
    """
    n, k = attention.shape[-2:]
    visible = visible_keys(n, k, valid, attention.device)
    received = torch.where(visible, at_least_float32(attention), 0).sum(-2)
    return received / visible.sum(-2).clamp(min=1)


def find_sinks(means: Tensor, length: Tensor | int, settings: CalibrationSettings, valid: Tensor | None = None) -> Tensor:
    """The sinks to calibrate: keys that receive more than the threshold, less the one that is spared.

    Args:
        means: float `[..., k]`, attention per key: column means in prefill, a single row in decode.
        length: number of real tokens `n` that alpha is divided by: an int, or an integer tensor of shape `[...]`.
        settings: threshold or alpha, and keep.
        valid: bool, broadcastable to `[..., k]`, False for padding: token 0 is the first valid one.

    Returns:
        bool `[..., k]`.
    """
    if settings.alpha is None:
        assert settings.threshold is not None
        detected = means > settings.threshold
    else:
        length = torch.as_tensor(length, device=means.device).clamp(min=1)
        detected = means > (settings.alpha / length.to(means.dtype))[..., None]
    if valid is not None:
        detected = detected & valid
    if settings.keep == "first-sink":
        return detected & (detected.cumsum(-1) > 1)
    return detected.scatter(-1, first_token(means.shape, valid, means.device), False)


def first_token(shape: torch.Size, valid: Tensor | None, device: torch.device) -> Tensor:
    """Index of token 0, the first key that is not padding: int64 `[..., 1]` for keys of `shape` `[..., k]`."""
    if valid is None:
        return torch.zeros(*shape[:-1], 1, dtype=torch.long, device=device)
    return valid.expand(shape).to(torch.uint8).argmax(-1, keepdim=True)


def redistribute(attention: Tensor, sinks: Tensor, beta: float) -> Tensor:
    """Scale the sinks of every row by beta and give the freed attention to the row's other keys, in proportion.

    The mass outside the sinks is summed, never taken as one minus the mass on them: in float32 the difference loses its
    digits when a row has nearly everything on its sinks. A row with no mass outside its sinks stays as it is.

    Args:
        attention: float32 or float64 `[..., n, k]`; rows sum to 1, or to less with a learned sink logit.
        sinks: bool, broadcastable to `attention`.
        beta: share of its attention that a sink keeps, in [0, 1].

    Returns:
        A new map of the same shape and dtype; rows sum to what they summed to.
    """
    on_sinks = attention * sinks
    on_others = attention - on_sinks
    mass, rest = on_sinks.sum(-1, keepdim=True), on_others.sum(-1, keepdim=True)
    least = torch.finfo(rest.dtype).tiny
    can_give = rest >= least
    kept = torch.where(can_give, beta, torch.ones_like(rest))
    scale = torch.where(can_give, 1 + (1 - beta) * mass / rest.clamp(min=least), 1)
    return torch.addcmul(on_others * scale, on_sinks, kept)


def calibrate_decode_rows(attention: Tensor, visible: Tensor, settings: CalibrationSettings) -> Tensor:
    """Calibrate rows that follow cached keys, each with the sinks that it finds itself (`decode` "row" or "official").

    "official" is the published code as it is, with two slips: the sinks share in what is redistributed, and token 0 ends
    with weight 1 whatever it had, so that the row no longer sums to 1.

    Args:
        attention: float32 or float64 `[..., n, k]`.
        visible: bool, broadcastable to `[..., n, k]`: the real keys that each row sees.
        settings: what to do.
    """
    visible = visible.expand(attention.shape)
    sinks = find_sinks(attention, visible.sum(-1), settings, visible)
    if settings.decode == "row":
        return redistribute(attention, sinks, settings.beta)
    mass = torch.where(sinks, attention, 0).sum(-1, keepdim=True)
    total = attention.sum(-1, keepdim=True)
    share = attention / torch.where(total > 0, total, 1)
    calibrated = torch.where(sinks, settings.beta * attention, attention) + (1 - settings.beta) * mass * share
    return calibrated.scatter(-1, first_token(attention.shape, visible, attention.device), 1.0)


def calibrate(
    attention: Tensor,
    *,
    beta: float,
    threshold: float | None = None,
    alpha: float | None = None,
    keep: Keep = "first-sink",
    decode: Decode = "prefill",
    sinks: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """ACT on attention maps: the reference implementation.

    A square map is a prefill: its sinks come from its own column means. A map with more keys than queries is a decode: its
    rows use the prefill's `sinks`, or find their own, as `decode` says.

    Args:
        attention: float `[..., n, k]` with `n <= k`; rows sum to 1, or to less with a learned sink logit, and give no weight
            to keys that a query cannot see.
        beta, threshold, alpha, keep, decode: see `CalibrationSettings`.
        sinks: bool `[..., k']`, `k' <= k`: the prefill's sinks, for decode rows; later keys are no sinks.
        valid: bool `[..., k]`, False for padding. Rows of padding are returned as they are.

    Returns:
        The calibrated maps, same shape and dtype. Arithmetic is at least float32.

    Raises:
        ValueError: settings out of range, a map with more queries than keys, or decode rows with `decode="prefill"` and no
            `sinks`.
    """
    settings = CalibrationSettings(beta, threshold, alpha, keep, decode)
    n, k = attention.shape[-2:]
    if n > k:
        raise ValueError(f"an attention map has at least as many keys as queries, but this one has shape [..., {n}, {k}].")
    weights = at_least_float32(attention)
    if n == k:
        length = n if valid is None else valid.sum(-1)
        own_sinks = find_sinks(column_means(weights, valid), length, settings, valid)
        calibrated = redistribute(weights, own_sinks[..., None, :], beta)
    elif decode == "prefill":
        if sinks is None:
            raise ValueError('decode="prefill" calibrates the sinks that the prefill found: pass them as `sinks`.')
        sinks = torch.nn.functional.pad(sinks, (0, k - sinks.shape[-1]))
        calibrated = redistribute(weights, sinks[..., None, :], beta)
    else:
        calibrated = calibrate_decode_rows(weights, visible_keys(n, k, valid, attention.device), settings)
    if valid is not None:
        calibrated = torch.where(valid[..., k - n :, None], calibrated, weights)
    return calibrated.to(attention.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
