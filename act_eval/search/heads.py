"""The heads that a search looks at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import transformers

from act_eval.attention.model_structure import attention_layers, model_shape
from act_eval.errors import SettingError
from act_eval.layer_lists import resolve_layers
from act_eval.profiles import HeadProfile

Head = tuple[int, int]
"""A layer, and a query head of it; both are counted from 0."""


@dataclass(frozen=True)
class SearchSpace:
    """The part of a model that is searched.

    Attributes:
        layers: the layers whose heads are looked at, ascending.
        num_layers, num_heads: decoder layers of the model, and query heads of each.
    """

    layers: tuple[int, ...]
    num_layers: int
    num_heads: int

    @classmethod
    def from_config(cls, config: transformers.PretrainedConfig, layers: str | None) -> SearchSpace:
        """Find the layers that a search is asked to look at.

        Args:
            config: of the model.
            layers: "all", or numbers and ranges such as "2-30,33"; None for all but the first two and the last.

        Raises:
            InputError: there are none, or the model has no such layers.
        """
        num_layers, num_heads = model_shape(config)
        with_attention = attention_layers(config)
        if layers is None:
            searched = tuple(layer for layer in with_attention if 2 <= layer < num_layers - 1)
        else:
            searched = resolve_layers(layers, with_attention)
        if not searched:
            raise SettingError(
                "layers",
                f"must be given, such as all: the model has {num_layers} layers, and by default the first two and the last "
                "are not searched.",
            )
        return cls(searched, num_layers, num_heads)

    @property
    def heads(self) -> list[Head]:
        """All heads of the layers, by layer and head."""
        return [(layer, head) for layer in self.layers for head in range(self.num_heads)]


def profile_from_heads(heads: Iterable[Head]) -> HeadProfile:
    """Make a profile of some heads."""
    of_layers: dict[int, tuple[int, ...]] = {}
    for layer, head in heads:
        of_layers[layer] = (*of_layers.get(layer, ()), head)
    return HeadProfile(of_layers)
