"""Write a sweep: the data, and a table and a plot for each axis."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from act_eval.files import write_texts
from act_eval.plotting import STYLE, write_figure
from act_eval.report.tables import table_latex, table_markdown
from act_eval.sweep.plots import plot_axis
from act_eval.sweep.results import SweepResults
from act_eval.sweep.tables import NOTE, axis_table, varied


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
    texts, paths = {"sweep.csv": results.table.drop(columns="point").to_csv(index=False)}, []
    for axis in varied(results):
        table = axis_table(results, axis, metric)
        texts[f"by_{axis.name}.md"] = f"### {table.title}\n\n{table_markdown(table)}\n\n{NOTE}\n"
        texts[f"by_{axis.name}.tex"] = f"% {table.title}\n% {NOTE}\n{table_latex(table)}"
        with matplotlib.rc_context(STYLE):
            paths += write_figure(plot_axis(results, axis, metric), output, f"by_{axis.name}")
    return [*write_texts(texts, output), *paths]
