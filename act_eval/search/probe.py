"""A probe: ACT that notes what it would change in each head, and changes the output in none, or in some that are named.

Gradients pass through a head that is calibrated as if it was not: that head's own slope is slightly off in what depends on it,
but no attention map has to be kept for the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from act_eval.attention.act import ACT
from act_eval.attention.layer import MODULE_ATTRIBUTE, LayerCalibration
from act_eval.attention.pairs import ChosenHeads
from act_eval.profiles import HeadProfile


@dataclass
class ProbeLayer(LayerCalibration):
    """Lets the base backend's output through, but for heads that are really calibrated, and notes what calibration changes.

    Attributes:
        calibrated_heads: the heads whose output is changed, by their numbers in the model; they are probed as well.
        outputs: of the base backend, one for each call, `[batch, n, heads, head_dim]`.
        changes: what calibration adds to them, of the same shapes; zero in heads that are not probed.
    """

    calibrated_heads: tuple[int, ...] = ()

    outputs: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def calibrate(self, chosen: ChosenHeads, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        output, weights = self.base(module, *args, **kwargs)
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        with torch.no_grad():
            calibrated = output.detach().clone()
            if chosen.any:
                self.replace_calibrated(chosen, calibrated, *args[:4], **kwargs)
            self.outputs.append(output)
            change = calibrated - output
            self.changes.append(change)
            own = [head - self.own_heads.start for head in self.calibrated_heads if head in self.own_heads]
            if not own:
                return output, weights
            really = torch.zeros_like(change)
            really[:, :, own] = change[:, :, own]
        return output + really, None

    def changes_output(self, call: int) -> np.ndarray:
        """Whether calibration would change anything in each row and head of a call, bool `[batch, heads]`."""
        return self.among_all_heads((self.changes[call] != 0).any(-1).any(1).cpu().numpy())

    def among_all_heads(self, values: np.ndarray) -> np.ndarray:
        """Put what this process reports of its heads, `[..., own heads]`, at their places among all heads, `[..., heads]`.

        Places of other processes' heads hold 0, so that the sum over processes is about all heads.
        """
        everything = np.zeros((*values.shape[:-1], self.num_heads), values.dtype)
        if self.reports:
            everything[..., self.own_heads] = values
        return everything


@dataclass(frozen=True)
class Probe(ACT):
    """ACT that notes what it would change, and changes nothing but some heads.

    Attributes:
        calibrated: the heads that it changes, all of which are in its profile; none by default.
    """

    calibrated: HeadProfile = field(default_factory=lambda: HeadProfile({}), kw_only=True)
    layer_class: ClassVar[type[LayerCalibration]] = ProbeLayer

    @classmethod
    def from_act(cls, act: ACT, profile: HeadProfile, calibrated: HeadProfile | None = None) -> Probe:
        """Make a probe of what some ACT would change in the heads of a profile, while it really changes some of them."""
        arguments = {argument.name: getattr(act, argument.name) for argument in fields(act) if argument.init}
        return cls(**{**arguments, "profile": profile, "calibrated": calibrated or HeadProfile({})})

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Probe `model` until the block ends; see `ACT`."""
        with super().__call__(model):
            for layer in probed_layers(model):
                layer.calibrated_heads = self.calibrated.heads.get(layer.layer, ())
            yield model


def probed_layers(model: nn.Module) -> list[ProbeLayer]:
    """The layers with probed heads, in order, of a model inside the context of a `Probe`."""
    found = (getattr(module, MODULE_ATTRIBUTE, None) for module in model.modules())
    return [layer for layer in found if isinstance(layer, ProbeLayer) and layer.calibrates]
