"""Write a sweep: the data, and a table and a plot for each axis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from act_eval.files import remove_unwritten, write_texts
from act_eval.sweep.plots import plot_axis
from act_eval.sweep.results import SweepResults
from act_eval.sweep.tables import NOTE, axis_table, title_of_axis, varied
from act_eval.tables import csv_text

_BY = "by_"


def write_sweep(results: SweepResults, metric: tuple[str, str], output: Path) -> list[Path]:
    """Write `sweep.csv`, all rows of all points, and for each axis that varies `by_<axis>` as Markdown, LaTeX, PNG and SVG.

    The same results give the same bytes. Of an earlier sweep in the folder, tables and plots of other axes are removed.

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
        name, table = f"{_BY}{axis.name}", axis_table(results, axis, metric)
        texts |= {f"{name}.md": f"{table.to_markdown()}\n{NOTE}\n", f"{name}.tex": table.to_latex(NOTE)}
        plots += plot_axis.named(name).write(output, results, axis, metric)
    written = [*write_texts(texts, output), *plots]
    remove_unwritten(_earlier(output), written, output)
    return written


def _earlier(folder: Path) -> Iterator[str]:
    """The names of the files of sweeps in a folder, which tables in Markdown tell from files of others; these come last."""
    for table in sorted(folder.glob(f"{_BY}*.md")):
        plot = plot_axis.named(table.stem)
        heading = f"### {title_of_axis(table.stem.removeprefix(_BY))}"
        if table.is_file() and table.read_text(encoding="utf-8", errors="replace").startswith(heading):
            yield from (*plot.file_names, f"{table.stem}.tex", table.name)
