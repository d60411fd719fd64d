"""Every method as its definition says, one row of a map at a time, in float64 and plain Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Row = list[float]


def act(row: Row, sinks: list[int], first_token: int | None, beta: float) -> Row:
    others = [key for key in range(len(row)) if key not in sinks]
    mass, other_mass = sum(row[key] for key in sinks), sum(row[key] for key in others)
    if other_mass < np.finfo(np.float32).tiny:
        return row
    return [row[key] * (beta if key in sinks else (other_mass + (1 - beta) * mass) / other_mass) for key in range(len(row))]


def remove(row: Row, sinks: list[int], first_token: int | None) -> Row:
    kept = [0.0 if key in sinks else weight for key, weight in enumerate(row)]
    if sum(kept) < np.finfo(np.float32).tiny:
        return row
    return [weight * sum(row) / sum(kept) for weight in kept]


def boost(row: Row, sinks: list[int], first_token: int | None, beta: float) -> Row:
    mass, total = sum(row[key] for key in sinks), sum(row)
    if mass == 0 or total == mass:
        return row
    boosted = min(beta * mass, total)
    return [weight * (boosted / mass if key in sinks else (total - boosted) / (total - mass)) for key, weight in enumerate(row)]


def to_first_token(row: Row, sinks: list[int], first_token: int | None, beta: float) -> Row:
    if first_token is None or row[first_token] == 0:
        return row
    new = [weight * (beta if key in sinks else 1) for key, weight in enumerate(row)]
    new[first_token] += sum(row) - sum(new)
    return new


def temperature(row: Row, sinks: list[int], first_token: int | None, theta: float) -> Row:
    softened = [0.0 if key == first_token or weight == 0 else np.exp(np.log(weight) / theta) for key, weight in enumerate(row)]
    if sum(softened) == 0:
        return row
    mass = sum(weight for key, weight in enumerate(row) if key != first_token)
    return [row[key] if key == first_token else softened[key] * mass / sum(softened) for key in range(len(row))]


def scale_first_token(row: Row, sinks: list[int], first_token: int | None, gamma: float) -> Row:
    if sum(row) == 0:
        return row
    scaled = [weight * (gamma if key == first_token else 1) for key, weight in enumerate(row)]
    return [weight * sum(row) / sum(scaled) for weight in scaled]


def mask_head(row: Row, sinks: list[int], first_token: int | None) -> Row:
    return [0.0] * len(row)


def bias_span(row: Row, span: list[int], first_token: int | None, bias: float) -> Row:
    if sum(row) == 0:
        return row
    raised = [weight * (np.exp(bias) if key in span else 1) for key, weight in enumerate(row)]
    return [weight * sum(row) / sum(raised) for weight in raised]


def target_span(row: Row, span: list[int], first_token: int | None, psi: float) -> Row:
    mass, total = sum(row[key] for key in span), sum(row)
    if mass < np.finfo(np.float32).tiny or mass >= psi * total:
        return row
    return [
        weight * (psi * total / mass if key in span else (1 - psi) * total / (total - mass)) for key, weight in enumerate(row)
    ]


def pasta(row: Row, span: list[int], first_token: int | None, outside: float) -> Row:
    if sum(row) == 0:
        return row
    steered = [weight if key in span else weight * outside for key, weight in enumerate(row)]
    return [weight * sum(row) / sum(steered) for weight in steered]


NAIVE: dict[str, Callable[..., Row]] = {
    "act": act,
    "mask-head": mask_head,
    "remove": remove,
    "boost": boost,
    "to-first-token": to_first_token,
    "temperature": temperature,
    "scale-first-token": scale_first_token,
    "bias-span": bias_span,
    "target-span": target_span,
    "pasta": pasta,
}


def rewrite(name: str, maps: np.ndarray, sinks: np.ndarray, first_token_mask: np.ndarray, **parameters: float) -> np.ndarray:
    """Rewrite all rows of maps, float `[..., n, k]`, with sinks and first token as bool `[..., k]`: float64 `[..., n, k]`."""
    maps, shape = maps.astype(np.float64), maps.shape
    masks = [np.broadcast_to(mask, (*shape[:-2], shape[-1])).reshape(-1, shape[-1]) for mask in (sinks, first_token_mask)]
    new = []
    for rows, row_sinks, row_first in zip(maps.reshape(-1, *shape[-2:]), *masks, strict=True):
        places = np.flatnonzero(row_sinks).tolist()
        first_token = int(row_first.argmax()) if row_first.any() else None
        new.append([NAIVE[name](row, places, first_token, **parameters) for row in rows.tolist()])
    return np.array(new).reshape(shape)
