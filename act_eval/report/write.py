"""The whole report: read runs, compare, write tables and plots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from act_eval.report.load import load
from act_eval.report.pairing import pair
from act_eval.report.plots import plot_improvement
from act_eval.report.statistics import compare
from act_eval.report.tables import write_tables


@dataclass(frozen=True)
class Report:
    """What a report says, and where it is.

    Attributes:
        comparison: see `statistics.compare`.
        notes: what was not compared, and why.
        paths: the files that were written.
    """

    comparison: pd.DataFrame
    notes: tuple[str, ...]
    paths: list[Path]


def write_report(folders: Iterable[Path], output: Path) -> Report:
    """Compare all runs below some folders and write tables and plots.

    Args:
        folders: where results are looked for, recursively.
        output: folder for the report; made when missing.

    Raises:
        ReportError: see `load` and `pair`.
    """
    pairing = pair(load(folders))
    comparison = compare(pairing)
    output.mkdir(parents=True, exist_ok=True)
    paths = [*write_tables(comparison, pairing.notes, output), *plot_improvement(comparison, output)]
    return Report(comparison, pairing.notes, paths)
