"""Write a sweep: the data, and a table and a plot for each axis."""

from __future__ import annotations

from pathlib import Path

from act_eval.files import write_texts
from act_eval.sweep.plots import plot_axis
from act_eval.sweep.results import SweepResults
from act_eval.sweep.tables import NOTE, axis_table, varied
from act_eval.tables import csv_text


def write_sweep(results: SweepResults, metric: tuple[str, str], output: Path) -> list[Path]:
    """Write `sweep.csv`, all rows of all points, and for each axis that varies `by_<axis>` as Markdown, LaTeX, PNG and SVG.

    The same results give the same bytes.

    Args:
        results: what to write.
        metric: see `tables.main_metric`.
        output: folder that exists.

    Returns:
        The paths of the files.
    """
    texts = {"sweep.csv": csv_text(results.table.drop(columns="point"))}
    plots: list[Path] = []
    for axis in varied(results):
        name, table = f"by_{axis.name}", axis_table(results, axis, metric)
        texts |= {f"{name}.md": f"{table.to_markdown()}\n{NOTE}\n", f"{name}.tex": table.to_latex(NOTE)}
        plots += plot_axis.named(name).write(output, results, axis, metric)
    return [*write_texts(texts, output), *plots]
