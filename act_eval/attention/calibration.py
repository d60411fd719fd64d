"""Calibration on attention maps: column means, attention sinks, new maps. Plain tensor functions, no model code.

This is the reference that everything else in the project is tested against. "Unveiling and Harnessing Hidden Attention
Sinks" (ACT, arXiv 2406.15765), sections 3 and 4; where the paper leaves something open, the published code
(`atten_process_eval` in `GATECH-EIC/ACT`) decides.

Notation: an attention map `A` has shape `[..., n, k]`: `n` queries, `k` keys, rows that sum to 1. Query `i` stands at key
index `k - n + i` and sees no later key; in a layer with a sliding window, no key before its window either. A prefill map has
`n == k`; a decode map (queries on cached keys) has `n < k`.

Learned sink logits. In some models (gpt-oss) each head has a learned logit that joins the softmax of every row, so that rows
of `A` sum to less than 1. It is a key without a value: it stands nowhere in the input and can be no attention sink. Column
means are taken over the weights as the model has them, and what is freed goes to the row's other real keys, in proportion, so
that a row keeps its total. This is the definition word for word, with the map that meets the values as `A`; and it leaves to
the model what the learned logit is for, which is how much a head attends to anything at all.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import regex
import torch
from torch import Tensor

from act_eval.errors import InputError, SettingError
from act_eval.methods.base import Method
from act_eval.methods.registry import make_method
from act_eval.value_checks import is_number, is_whole_number

Keep = Literal["first-sink", "first-token"]
Decode = Literal["prefill", "row", "official"]
SpanMissing = Literal["error", "skip"]

DEFAULT_METHOD = "act"
DEFAULT_THRESHOLD = 0.1

_MOST_QUERIES = 1_000_000_000
_OTHER_ARGUMENTS = ("base", "profile", "head_share")  # of ACT and of act-hf, beside the settings


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """What is done to an attention map: when a key is a sink, which sinks are spared, and what becomes of the rows.

    The settings of ACT are declared here and nowhere else: `ACT`, `calibrate`, the `act_*` model arguments, sweeps, and what
    results say of a run follow from these fields.

    Args:
        method: what becomes of the rows: `"act"`, or another method of `act_eval.methods`, by name or as an object
            (`Temperature(theta=1.2)`), or several for groups of heads (`"act+mask-head"`, `PerHeadGroup`). The field holds the
            object.
        beta: of a method that has one: for ACT the share of its attention that a sink keeps, in [0, 1], 0.4 by default; 1
            changes nothing.
        threshold: a key is a sink when it receives more than this on average, in [0, 1). 0.1 when alpha is not given either.
        alpha: a key is a sink when it receives more than `alpha / n` on average, `n` being the number of real tokens (the
            paper's definition; 5 there); positive.
        keep: the sink that is never calibrated: "first-sink", the detected one with the lowest index (the published
            code), or "first-token" (the paper).
        decode: how rows on cached keys find their sinks: "prefill", the sinks that the prefill found stay the sinks; "row",
            each row alone decides; "official", each row alone with the published code's two slips (see
            `calibrate_decode_rows`), ACT only.
        sink_share: share of a sequence's sinks that are calibrated in a head, in [0, 1]: those that receive most, the spared
            one not counted, their number rounded.
        span: names the part of the prompt that a method such as `bias-span` is about: a regular expression that is looked for
            in the prompt (its first group, if it has one), or `description`, `question` or `examples` of a task. It is for
            `act-hf`; in Python, `span_tokens` says which tokens these are.
        span_missing: what to do with a prompt without that part: "error", or "skip", which leaves it alone.
        min_queries: a key is a sink only if so many queries see it, at least 1, as in the paper. The mean of a key near the end
            of a prompt is over few queries.

    Raises:
        InputError: a setting is out of range, there is no such method, a parameter of it is no number or is called like a
            setting, both threshold and alpha are given, or a setting that is about sinks is given to a method that does not use
            them.
    """

    # `text` words a value that is not the default, for the line that names a run's settings; `about_sinks` marks settings that
    # say which keys are sinks, so that a method without sinks does not take them.
    method: Any = DEFAULT_METHOD
    beta: float | str | None = None
    threshold: float | None = field(default=None, metadata={"text": "threshold {:.10g}".format, "about_sinks": True})
    alpha: float | None = field(default=None, metadata={"text": "alpha {:.10g}".format, "about_sinks": True})
    keep: Keep = field(default="first-sink", metadata={"text": str, "about_sinks": True})
    decode: Decode = field(default="prefill", metadata={"text": "decode {}".format})
    sink_share: float = field(
        default=1.0, metadata={"text": lambda share: f"{100 * share:.10g}% of sinks", "about_sinks": True}
    )
    min_queries: int = field(default=1, metadata={"text": "sinks seen by {} queries or more".format, "about_sinks": True})
    span: str | None = field(default=None, metadata={"text": "span {}".format, "about_span": True})
    span_missing: SpanMissing = field(
        default="error", metadata={"text": lambda _: "prompts without it left alone", "about_span": True}
    )

    def __post_init__(self) -> None:
        method = make_method(self.method, {} if self.beta is None else {"beta": self.beta})
        for part in method.parts:
            _check_parameters(part)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "beta", method.parameters.get("beta"))
        if not method.uses_span:
            self._refuse_settings("about_span", "a part of the prompt")
        if not method.uses_sinks:
            self._refuse_settings("about_sinks", "attention sinks")
        elif self.threshold is None and self.alpha is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD)
        self._check_number("sink_share", "a share of the sinks", "a number in [0, 1]", lambda share: 0 <= share <= 1)
        meaning = "the number of queries that must see a key for it to be a sink"
        expected = f"a whole number from 1 to {_MOST_QUERIES:,}"
        self._check_number("min_queries", meaning, expected, lambda number: 1 <= number <= _MOST_QUERIES and number % 1 == 0)
        object.__setattr__(self, "min_queries", int(self.min_queries))
        if self.threshold is not None:
            meaning = "the mean attention weight above which a key is a sink"
            self._check_number("threshold", meaning, "a number in [0, 1)", lambda weight: 0 <= weight < 1)
        if self.alpha is not None:
            meaning = "the multiple of 1 / n above which a key is a sink"
            self._check_number("alpha", meaning, "a finite number above 0", lambda times: 0 < times < math.inf)
        if self.threshold is not None and self.alpha is not None:
            raise InputError("threshold and alpha are two ways to say when a key is a sink: give one of them, not both.")
        if self.span is not None:
            check_pattern(self.span)
        choices_of = {"keep": get_args(Keep), "decode": get_args(Decode), "span_missing": get_args(SpanMissing)}
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise SettingError(name, f"is {reprlib.repr(getattr(self, name))}: choose one of {', '.join(choices)}.")
        if self.decode == "official" and method.constant_factor is None:
            raise InputError(
                f"decode=official is the published code, which has no method {method.name}: choose decode prefill or row."
            )
        if self.decode != "prefill" and method.uses_span:
            raise InputError(
                f"decode={self.decode} lets each row find its sinks, but the method {method.name} is about a part of the "
                "prompt, which is the same for all: leave decode out."
            )
        if self.decode == "official" and self.min_queries > 1:
            raise InputError(
                "decode=official is the published code, which has no min_queries: leave it out, or choose another decode."
            )

    def _check_number(self, name: str, meaning: str, expected: str, is_in_range: Callable[[float], bool]) -> None:
        """Raise SettingError unless a setting is a number in its range; the words say what it is and what is expected."""
        value = getattr(self, name)
        if not is_number(value) or not is_in_range(value):
            raise SettingError(name, f"is {reprlib.repr(value)}, but it is {meaning}: give {expected}.")

    def _refuse_settings(self, kind: str, about: str) -> None:
        """Raise SettingError for a setting of a kind that is given, though the method does not use what it is about."""
        for name in settings_about(kind):
            if getattr(self, name) != getattr(CalibrationSettings, name):
                raise SettingError(name, f"is about {about}, which the method {self.method.name} does not use: leave it out.")

    @property
    def of_groups(self) -> tuple[CalibrationSettings, ...]:
        """The settings of each group of heads: these themselves, unless the method has parts (`PerHeadGroup`)."""
        if len(self.method.parts) == 1:
            return (self,)
        given = {setting.name: getattr(self, setting.name) for setting in fields(CalibrationSettings)}
        return tuple(
            CalibrationSettings(
                **{name: value for name, value in given.items() if name not in settings_unused_by([type(part)])}
                | {"method": part, "beta": None}
            )
            for part in self.method.parts
        )

    @property
    def text(self) -> str:
        """The settings in a few words, such as `beta 0.4, alpha 5`.

        The method is named where it is not ACT's own; its parameters always are, and all else that is not the default, numbers
        before words.
        """
        parts, parameters = [] if self.method.name == DEFAULT_METHOD else [self.method.name], self.method.parameters
        parts += [f"{name} {value if isinstance(value, str) else format(value, '.10g')}" for name, value in parameters.items()]
        for setting in sorted(fields(CalibrationSettings), key=lambda setting: isinstance(setting.default, str)):
            value, words = getattr(self, setting.name), setting.metadata.get("text")
            if words is not None and value != setting.default:
                parts.append(words(value))
        return ", ".join(parts)

    @property
    def changes_nothing(self) -> bool:
        """True when calibrated maps equal the originals, whatever they are. (The published decode changes rows even so.)"""
        if len(self.of_groups) > 1:
            return all(of_group.changes_nothing for of_group in self.of_groups)
        nothing = self.method.changes_nothing or (self.method.uses_sinks and self.sink_share == 0)
        return nothing and self.decode != "official"


def _check_parameters(method: Method) -> None:
    """Raise InputError where a parameter of a method, as of another package, is no number or is called like a setting."""
    of_settings = {setting.name for setting in fields(CalibrationSettings)} - {"beta"} | {*_OTHER_ARGUMENTS}
    for name, value in method.parameters.items():
        if name in of_settings:
            raise InputError(
                f"the method {method.name} has a parameter {name}, which is the name of an argument that every method takes: "
                f"rename the field of {type(method).__name__}."
            )
        if not is_number(value):
            raise InputError(f"{name} is {reprlib.repr(value)}, but parameters of methods are numbers: give one.")


def settings_about(kind: str) -> list[str]:
    """The settings of a kind: "about_sinks" say which keys are sinks, "about_span" which part of the prompt the span is."""
    return [setting.name for setting in fields(CalibrationSettings) if setting.metadata.get(kind)]


def settings_unused_by(methods: Sequence[type[Method]]) -> set[str]:
    """The settings that none of these methods takes."""
    uses = {"about_sinks": any(cls.uses_sinks for cls in methods), "about_span": any(cls.uses_span for cls in methods)}
    return {name for kind, is_used in uses.items() if not is_used for name in settings_about(kind)}


def check_pattern(span: str) -> None:
    """Raise SettingError unless a part of the prompt is named by a word or a regular expression."""
    if span == "":
        raise SettingError("span", "is empty, and no part of a prompt is: name a part, or give a regular expression.")
    try:
        regex.compile(span)
    except (regex.error, TypeError, OverflowError, RecursionError) as error:
        raise SettingError(
            "span", f"is {reprlib.repr(span)}, which is no regular expression ({error}): mend it, or escape signs with \\."
        ) from None


def visible_keys(
    n: int, k: int, valid: Tensor | None = None, device: torch.device | None = None, window: int | None = None
) -> Tensor:
    """Which key each query may attend to: bool `[..., n, k]`.

    Args:
        n: number of queries; query `i` stands at key index `k - n + i`.
        k: number of keys.
        valid: bool `[..., k]`, False for padding; padding is neither seen nor does it see.
        device: where to make the mask when `valid` is None.
        window: how many keys a query sees at most, its own and those right before it; all by default.

    Raises:
        ValueError: the window is no whole number above 0.
    """
    if window is not None and not (is_whole_number(window) and window > 0):
        raise ValueError(f"window is {window!r}, but it is how many keys a query sees: give a whole number above 0.")
    device = device if valid is None else valid.device
    keys = torch.arange(k, device=device)
    visible = keys_in_window(keys[k - n :], keys, window)
    if valid is None:
        return visible
    return visible & valid[..., None, :] & valid[..., k - n :, None]


def keys_in_window(own: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which keys lie up to a query's own and within its window, if there is one: bool `[n, k]`.

    Args:
        own: integers `[n]`, the key index where each query stands.
        keys: integers `[k]`, key indices.
        window: how many keys a query sees at most, its own and those right before it; None for all.
    """
    visible = keys <= own[:, None]
    return visible if window is None else visible & (keys > own[:, None] - window)


def column_means(attention: Tensor, valid: Tensor | None = None, window: int | None = None) -> Tensor:
    """Mean attention that each key receives from the queries that can see it (the paper's `a[j]`).

    Args:
        attention: float `[..., n, n]`, a prefill map.
        valid: bool `[..., n]`, False for padding.
        window: of a layer with a sliding window, the number of keys that a query sees at most, its own among them.

    Returns:
        float `[..., n]` in [0, 1], at least float32; 0 for padding.

    Raises:
        ValueError: the window is no whole number above 0.
    """
    n, k = attention.shape[-2:]
    visible = visible_keys(n, k, valid, attention.device, window)
    received = torch.where(visible, at_least_float32(attention), 0).sum(-2)
    return received / visible.sum(-2).clamp(min=1)


def find_sinks(
    means: Tensor,
    length: Tensor | int,
    settings: CalibrationSettings,
    valid: Tensor | None = None,
    seen_by: Tensor | None = None,
) -> Tensor:
    """The sinks to calibrate: keys that receive more than the threshold, less the one that is spared.

    Args:
        means: float `[..., k]`, attention per key: column means in prefill, a single row in decode.
        length: number of real tokens `n` that alpha is divided by: an int, or an integer tensor of shape `[...]`.
        settings: threshold or alpha, keep, sink_share, and min_queries.
        valid: bool, broadcastable to `[..., k]`, False for padding: token 0 is the first valid one.
        seen_by: integers, broadcastable to `[..., k]`, how many queries see each key; by default those from its own to the last
            valid one, as where no sliding window hides it.

    Returns:
        bool `[..., k]`.
    """
    if settings.alpha is None:
        assert settings.threshold is not None
        detected = means > settings.threshold
    else:
        length = torch.as_tensor(length).clamp(min=1)  # of an int on the CPU, where nobody waits for a device
        threshold = settings.alpha / length.to(means.dtype)
        detected = means > (threshold[..., None] if threshold.ndim else threshold)
    if valid is not None:
        detected = detected & valid
    if settings.min_queries > 1:
        seen_by = _tokens_from_here(means, valid) if seen_by is None else seen_by
        detected = detected & (seen_by >= settings.min_queries)
    if settings.keep == "first-sink":
        sinks = detected & (detected.cumsum(-1) > 1)
    else:
        sinks = detected.scatter(-1, first_token(means.shape, valid, means.device), False)
    return sinks if settings.sink_share == 1 else _with_most_attention(means, sinks, settings.sink_share)


def _tokens_from_here(means: Tensor, valid: Tensor | None) -> Tensor:
    """How many tokens there are from each key on, itself among them: int64, broadcastable to `[..., k]`; see `find_sinks`."""
    if valid is None:
        return torch.arange(means.shape[-1], 0, -1, device=means.device)
    return valid.flip(-1).cumsum(-1).flip(-1)


def _with_most_attention(means: Tensor, sinks: Tensor, share: float) -> Tensor:
    """A share of the sinks, those that receive most, and of two that receive the same the earlier one; see `find_sinks`."""
    order = torch.where(sinks, means, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
    number = (sinks.sum(-1, keepdim=True).double() * share + 0.5).floor()
    return sinks & (rank < number)


def first_token(shape: torch.Size, valid: Tensor | None, device: torch.device) -> Tensor:
    """Index of token 0, the first key that is not padding: int64 `[..., 1]` for keys of `shape` `[..., k]`."""
    if valid is None:
        return torch.zeros(*shape[:-1], 1, dtype=torch.long, device=device)
    return valid.expand(shape).to(torch.uint8).argmax(-1, keepdim=True)


def first_token_mask(shape: torch.Size, valid: Tensor | None, device: torch.device) -> Tensor:
    """True for token 0, the first key that is not padding: bool `[..., k]` for keys of `shape` `[..., k]`."""
    mask = torch.zeros(shape, dtype=torch.bool, device=device).scatter_(-1, first_token(shape, valid, device), True)
    return mask if valid is None else mask & valid


def calibrate_decode_rows(attention: Tensor, visible: Tensor, settings: CalibrationSettings) -> Tensor:
    """Calibrate rows that follow cached keys, each with the sinks that it finds itself (`decode` "row" or "official").

    Token 0 is the first key that a row sees.

    "official" is the published code as it is, with two slips: the sinks share in what is redistributed, and token 0 ends
    with weight 1 whatever it had, so that the row no longer sums to 1.

    Args:
        attention: float32 or float64 `[..., n, k]`.
        visible: bool, broadcastable to `[..., n, k]`: the real keys that each row sees.
        settings: what to do.
    """
    visible = visible.expand(attention.shape)
    if settings.method.uses_sinks:
        sinks = find_sinks(attention, visible.sum(-1), settings, visible)
    else:
        sinks = torch.zeros_like(visible)
    if settings.decode == "row":
        first = first_token_mask(attention.shape, visible, attention.device)
        return settings.method.rewrite(attention, sinks, first)
    beta = settings.method.constant_factor
    assert beta is not None
    mass = torch.where(sinks, attention, 0).sum(-1, keepdim=True)
    total = attention.sum(-1, keepdim=True)
    share = attention / torch.where(total > 0, total, 1)
    calibrated = torch.where(sinks, beta * attention, attention) + (1 - beta) * mass * share
    return calibrated.scatter(-1, first_token(attention.shape, visible, attention.device), 1.0)


def calibrate(
    attention: Tensor,
    *,
    sinks: Tensor | None = None,
    valid: Tensor | None = None,
    window: int | None = None,
    **settings: Any,
) -> Tensor:
    """ACT, or another method, on attention maps: the reference implementation.

    A square map is a prefill: its sinks come from its own column means. A map with more keys than queries is a decode: its
    rows use the prefill's `sinks`, or find their own, as `decode` says.

    Args:
        attention: float `[..., n, k]` with `n <= k`; rows sum to 1, or to less with a learned sink logit, and give no weight
            to keys that a query cannot see.
        sinks: bool `[..., k']`, `k' <= k`: the prefill's sinks, for decode rows; later keys are no sinks. For a method that is
            about a part of the prompt, the tokens of that part, for prefills too.
        valid: bool `[..., k]`, False for padding. Rows of padding are returned as they are.
        window: of a layer with a sliding window, the number of keys that a query sees at most, its own among them. Without it,
            a key's mean attention counts later queries that cannot see it, so that other sinks are found.
        settings: the fields of `CalibrationSettings`, such as `beta=0.4`, `alpha=5`, `method="boost"`.

    Returns:
        The calibrated maps, same shape and dtype. Arithmetic is at least float32.

    Raises:
        ValueError: settings or window out of range, a map with more queries than keys, decode rows with `decode="prefill"` and
            no `sinks`, which the method uses, or a square map with `sinks`, which it finds itself.
    """
    chosen = CalibrationSettings(**settings)
    method: Method = chosen.method
    n, k = attention.shape[-2:]
    if n > k:
        raise ValueError(f"an attention map has at least as many keys as queries, but this one has shape [..., {n}, {k}].")
    weights = at_least_float32(attention)
    if n < k and chosen.decode != "prefill":
        calibrated = calibrate_decode_rows(weights, visible_keys(n, k, valid, attention.device, window), chosen)
    else:
        keys = weights.shape[:-2] + weights.shape[-1:]
        sinks = _marked_keys(weights, chosen, sinks, valid, window) if method.marks_keys else weights.new_zeros(keys).bool()
        first = first_token_mask(keys, valid, weights.device)
        calibrated = method.rewrite(weights, sinks[..., None, :], first[..., None, :])
    if valid is not None:
        calibrated = torch.where(valid[..., k - n :, None], calibrated, weights)
    return calibrated.to(attention.dtype)


def _marked_keys(
    weights: Tensor, settings: CalibrationSettings, sinks: Tensor | None, valid: Tensor | None, window: int | None
) -> Tensor:
    """The sinks of a prefill's map from itself, or of decode rows from what the prefill found: bool `[..., k]`.

    For a method that is about a part of the prompt, the tokens of that part.
    """
    n, k = weights.shape[-2:]
    if settings.method.uses_span and sinks is None:
        raise ValueError(f"the method {settings.method.name} is about a part of the prompt: pass its tokens as `sinks`.")
    if n == k and settings.method.uses_sinks:
        if sinks is not None:
            raise ValueError("sinks are those of a prefill, for decode rows, but a square map finds its own: leave sinks out.")
        length = n if valid is None else valid.sum(-1)
        seen_by = None if window is None else visible_keys(n, n, valid, weights.device, window).sum(-2)
        return find_sinks(column_means(weights, valid, window), length, settings, valid, seen_by)
    if sinks is None:
        raise ValueError('decode="prefill" calibrates the sinks that the prefill found: pass them as `sinks`.')
    return torch.nn.functional.pad(sinks, (0, k - sinks.shape[-1]))


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
