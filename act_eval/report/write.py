"""The whole report: read runs, compare, write tables and plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from act_eval.report.load import load
from act_eval.report.plots import plot_improvement
from act_eval.report.statistics import compare
from act_eval.report.tables import write_tables


def write_report(folders: Iterable[Path], output: Path) -> tuple[pd.DataFrame, list[Path]]:
    """Compare all runs below some folders and write tables and plots.

    Args:
        folders: where results are looked for, recursively.
        output: folder for the report; made when missing.

    Returns:
        The comparison (see `statistics.compare`) and the paths of the files.

    Raises:
        ReportError: see `load` and `compare`.
    """
    comparison = compare(*load(folders))
    output.mkdir(parents=True, exist_ok=True)
    return comparison, [*write_tables(comparison, output), *plot_improvement(comparison, output)]
