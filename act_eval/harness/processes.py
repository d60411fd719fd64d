"""The processes that share a run."""

from __future__ import annotations

import torch
from accelerate import PartialState


def shared_processes() -> PartialState:
    """Find the processes that torchrun or `accelerate launch` started for this run; one where nothing did.

    accelerate takes processes on a machine without accelerators for separate runs, unless it is told that they are on CPUs; it
    is told by whoever asks first. It then calls each CPU cpu:0, where transformers 4.57 cannot load weights to.
    """
    processes = PartialState(cpu=not torch.accelerator.is_available())
    if processes.device.type == "cpu":
        processes.device = torch.device("cpu")
    return processes
