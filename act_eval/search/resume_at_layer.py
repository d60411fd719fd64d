"""Start a forward pass at any decoder layer, from hidden states that an earlier pass recorded.

Calibrating a head of one layer changes nothing in the layers below it. The model's own forward code runs, so that no model
family needs code of its own: the decoder layers below the start are made to hand on what they get, and the last of these hands
on the recorded hidden states. `DecoderLayers.from_model` finds the layers through their attention modules.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from act_eval.attention.model_structure import attention_modules, decoder_layers, pretrained_model


@dataclass
class Recording:
    """What a forward pass went through.

    Attributes:
        hidden: the input of each decoder layer, `[batch, n, hidden size]`.
        returned: what each decoder layer returned besides its hidden states, or None if it returned these alone.
    """

    hidden: list[Tensor]
    returned: list[tuple[Any, ...] | None]


@dataclass(frozen=True)
class DecoderLayers:
    """The decoder layers of a model, in order; none if they could not be told from the model's other modules."""

    layers: tuple[nn.Module, ...]

    @classmethod
    def from_model(cls, model: nn.Module) -> DecoderLayers:
        """Find the layers of a model; none in hybrid models, where layers without attention keep states of their own."""
        pretrained = pretrained_model(model)
        layers = decoder_layers(pretrained)
        return cls(layers if len(layers) == len(attention_modules(pretrained)) else ())

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """Record the forward pass that runs inside the context."""
        recording = Recording([], [])

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recording.hidden.append((args[0] if args else kwargs["hidden_states"]).detach())

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            recording.returned.append(output[1:] if isinstance(output, tuple) else None)

        with ExitStack() as stack:
            for layer in self.layers:
                stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(after).remove)
            yield recording

    @contextmanager
    def resume_at(self, start_layer: int, hidden: Tensor, recording: Recording) -> Iterator[None]:
        """Inside the context, forward passes start at a decoder layer.

        Args:
            start_layer: the first layer that runs.
            hidden: its input, `[batch, n, hidden size]`; not used for layer 0.
            recording: of a pass over all layers.
        """
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers[:start_layer]):
                replacement = _hand_on(hidden if number == start_layer - 1 else None, recording.returned[number])
                if "forward" in vars(layer):  # set by accelerate's hooks
                    stack.callback(setattr, layer, "forward", layer.forward)
                else:
                    stack.callback(delattr, layer, "forward")
                layer.forward = replacement
            yield


def _hand_on(hidden: Tensor | None, returned: tuple[Any, ...] | None) -> Callable[..., Any]:
    """Make a layer's forward function that returns given hidden states, or those that it gets."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        states = hidden_states if hidden is None else hidden
        return states if returned is None else (states, *returned)

    return forward


def fill_skipped_layers(cache: Cache, complete: Cache, start_layer: int, rows: int, length: int) -> None:
    """Make the layers of a cache that were skipped as long as the others, since masks and positions are made from layer 0.

    Nothing reads what they hold, so they hold views of single numbers.

    Args:
        cache: filled by a forward pass that started at `start_layer`.
        complete: filled by a pass over all layers.
        start_layer: the first layer that ran.
        rows: batch size of `cache`.
        length: number of tokens that `cache` holds.
    """
    for index in range(start_layer):
        layer = copy.copy(complete.layers[index])
        if layer.is_initialized:
            held = min(length, layer.keys.shape[-2])  # a sliding layer holds no more than its window
            layer.keys = layer.keys[:1, :1, :held, :1].expand(rows, 1, held, 1)
            layer.values = layer.values[:1, :1, :held, :1].expand(rows, 1, held, 1)
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = length
        cache.layers[index] = layer
