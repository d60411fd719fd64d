"""Which heads of a layer this process has, where tensor parallelism divides them among processes.

Profiles, results and everything else number heads as the model does. The attention function of a process gets the queries, keys
and values of that process's heads alone, and numbers them from 0; `LayerCalibration` translates.

Nothing of ACT depends on several heads of a layer together, so that processes exchange nothing while they calibrate. What is
counted or measured for each head is added up afterwards, by all processes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch.distributed
from torch import nn
from torch.distributed.tensor import DTensor

from act_eval.attention.model_structure import UnsupportedModelError


@dataclass(frozen=True)
class HeadDivision:
    """The processes among which a model's heads are divided: one alone, by default.

    Attributes:
        rank: number of this process among them.
        size: how many there are.
        group: torch's group of them, or None where there is one.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def of_model(cls, model: nn.Module) -> HeadDivision:
        """Find the processes that hold a model's weights together, as transformers or torch divided them."""
        mesh = getattr(model, "_device_mesh", None)
        if mesh is None:
            mesh = next((weights.device_mesh for weights in model.parameters() if isinstance(weights, DTensor)), None)
        if mesh is not None and mesh.ndim > 1:
            mesh = mesh["tp"] if "tp" in (mesh.mesh_dim_names or ()) else None
        return cls() if mesh is None else cls(mesh.get_local_rank(), mesh.size(), mesh.get_group())

    def own_heads(self, number: int, total: int, module: nn.Module) -> range:
        """Say which query heads of a layer an attention function was called with.

        Weights are divided into stretches of equal length, in order. Some models divide other weights only, and gather queries
        and keys before attention, so that every process has all heads.

        Args:
            number: how many heads the attention function got.
            total: how many the layer has.
            module: the attention module.

        Raises:
            UnsupportedModelError: the heads are neither all nor an equal share of them.
        """
        if number >= total:
            return range(number)
        if number * self.size != total:
            raise UnsupportedModelError(
                f"{type(module).__name__} computes {number} of {total} heads in one of {self.size} processes, so ACT cannot "
                "tell which heads these are: load the model with tp_plan, in processes that divide its heads equally."
            )
        return range(self.rank * number, (self.rank + 1) * number)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up what each process has; truths by "or". Every process must call this, and all get the same, bit for bit.

        Args:
            values: numbers or truths, of the same shape in every process.
        """
        parts: list[Any] = [values]
        if self.size > 1:
            parts = [None] * self.size
            torch.distributed.all_gather_object(parts, values, group=self.group)
        return reduce(np.add, parts)
