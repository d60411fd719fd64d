"""The report as one HTML page that needs no network: tables, plots, settings, and the documents that changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
import pandas as pd

from act_eval import __version__
from act_eval.report.build import Report
from act_eval.report.plots import PLOTS
from act_eval.report.tables import report_notes, report_tables


def page(report: Report, figures: Mapping[str, Path]) -> str:
    """The page, as HTML. Texts from results, such as prompts and answers, are escaped.

    Args:
        report: what to show.
        figures: SVG files, by name of the plot.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("act_eval.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    whole_names = {short: name for name, short in report.short_names.items() if short != name}
    shown = report.with_short_names()
    return environment.get_template("page.html").render(
        version=__version__,
        whole_names=whole_names,
        unfinished=report.unfinished.sentences() if report.unfinished else [],
        tables=[(table.title, table.texts, table.is_bold, table.is_left) for table in report_tables(shown)],
        verdicts=report.verdicts,
        notes=report_notes(report),
        not_compared=report.notes,
        plots=[(plot.title, _base64(figures[plot.name])) for plot in PLOTS if plot.name in figures],
        runs=[_run(run) for _, run in report.runs.iterrows()],
        flips=shown.flips.documents.astype(object).where(shown.flips.documents.notna(), None).to_dict("records"),
        total_flips=report.flips.total,
    )


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _run(run: pd.Series) -> dict[str, object]:
    """What the page says of a run: short facts, and the whole configuration as JSON."""
    shots = "" if pd.isna(run["num_fewshot"]) else f"{run['num_fewshot']}"
    documents = "" if pd.isna(run["documents"]) else f"{run['documents']}"
    facts = {"model": run["model"], "settings": run["settings"], "task": run["task"], "shots": shots}
    facts |= {"n": documents, "date": run["date"], "model arguments": run["model_args"]}
    return {"facts": facts, "arguments": json.dumps(run["arguments"], indent=1, sort_keys=True)}
