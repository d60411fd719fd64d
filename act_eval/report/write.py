"""Write a report: tables, plots, page and JSON."""

from __future__ import annotations

from pathlib import Path

from act_eval.files import make_folder, remove_unwritten, write_texts
from act_eval.plotting import check_style
from act_eval.report.build import Report
from act_eval.report.machine_readable import to_json
from act_eval.report.method_tables import METHODS_CSV
from act_eval.report.page import page
from act_eval.report.plots import PLOTS, write_plots
from act_eval.report.study_tables import STUDY_CSV, rows_with_models
from act_eval.report.tables import latex, markdown
from act_eval.tables import csv_text

_REPORT_FILE = "report.json"


def write_report(report: Report, output: Path, style: str | None = None) -> list[Path]:
    """Write `comparison.md`, `.csv` and `.tex`, plots, `report.json` and `report.html`.

    Where there are any, also `groups.csv`, `subjects.csv`, `study.csv`, `methods.csv`, `label_priors.csv`,
    `label_prior_groups.csv`, `labels.csv` and `replies.csv`. Of an earlier report in the folder, those files are removed that
    this one does not have.

    Args:
        report: see `build.make_report`.
        output: folder for the files; made when missing.
        style: name of a matplotlib style or path of a style sheet for the plots, on top of the project's.

    Returns:
        The paths of the files.

    Raises:
        SettingError: there is no such style.
        InputError: the folder cannot be made.
    """
    if style is not None:
        check_style(style)
    make_folder(output)
    is_repeated = (output / _REPORT_FILE).is_file()
    plots = write_plots(report, output, style)
    figures = {path.stem: path for path in plots if path.suffix == ".svg"}
    texts = {
        "comparison.md": markdown(report),
        "comparison.csv": csv_text(report.comparison),
        "comparison.tex": latex(report),
        "groups.csv": csv_text(report.groups),
        "subjects.csv": csv_text(report.subjects),
        STUDY_CSV: csv_text(rows_with_models(report.studies)),
        METHODS_CSV: csv_text(rows_with_models(report.method_comparisons)),
        "label_priors.csv": csv_text(report.label_priors),
        "label_prior_groups.csv": csv_text(report.label_prior_groups),
        "labels.csv": csv_text(report.labels),
        "replies.csv": csv_text(report.replies),
        _REPORT_FILE: to_json(report),
        "report.html": page(report, figures),
    }
    written = [*write_texts(texts, output), *plots]
    if is_repeated:
        remove_unwritten([*texts, *(name for each in PLOTS for name in each.file_names)], written, output)
    return written
