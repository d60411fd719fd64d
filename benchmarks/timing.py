"""Run systems in turn and compare their times within each repetition, since machines and moments differ."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import act_eval

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """Times of a system divided by those of the reference, repetition by repetition: median, least and most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(systems: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu") -> dict[str, list[float]]:
    """Time each system in each repetition, in seconds.

    All systems run once before the clock starts, then in turn; each repetition starts with another system.

    Args:
        systems: name -> what to time.
        repetitions: how many times to run each.
        device: what to wait for before the clock is read.
    """
    names = list(systems)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        systems[name]()
    for repetition in range(repetitions):
        start = repetition % len(names)
        for name in names[start:] + names[:start]:
            wait(device)
            began = time.perf_counter()
            systems[name]()
            wait(device)
            times[name].append(time.perf_counter() - began)
    return times


def wait(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def ratio(times: list[float], reference: list[float]) -> Ratio:
    """Divide the times of a system by those of the reference, both from one call of `alternate`."""
    values = [mine / theirs for mine, theirs in zip(times, reference, strict=True)]
    return Ratio(statistics.median(values), min(values), max(values))


def machine(device: str) -> dict[str, Any]:
    """Describe what the times depend on: device, threads and versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name()
    packages = {package: _version(package) for package in ("lm-eval", "torch", "transformers", "triton")}
    versions = {"act-eval": act_eval.__version__, **{package: number for package, number in packages.items() if number}}
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def _version(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def save(name: str, content: Mapping[str, Any]) -> None:
    """Write `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
