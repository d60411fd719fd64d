"""A probe: ACT that leaves a model's output as it is, and notes what it would change in each head."""

from __future__ import annotations

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
    """Lets the base backend's output through, and notes what calibration would change of it.

    Attributes:
        outputs: of the base backend, one for each call, `[batch, n, heads, head_dim]`.
        changes: what calibration adds to them, of the same shapes; zero in heads that are not calibrated.
    """

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
            self.changes.append(calibrated - output)
        return output, weights

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


class Probe(ACT):
    """ACT that changes nothing and notes what it would change."""

    layer_class: ClassVar[type[LayerCalibration]] = ProbeLayer

    @classmethod
    def from_act(cls, act: ACT, profile: HeadProfile) -> Probe:
        """Make a probe of what some ACT would change in the heads of a profile."""
        arguments = {argument.name: getattr(act, argument.name) for argument in fields(act) if argument.init}
        return cls(**{**arguments, "profile": profile})


def probed_layers(model: nn.Module) -> list[ProbeLayer]:
    """The layers with probed heads, in order, of a model inside the context of a `Probe`."""
    found = (getattr(module, MODULE_ATTRIBUTE, None) for module in model.modules())
    return [layer for layer in found if isinstance(layer, ProbeLayer) and layer.calibrates]
