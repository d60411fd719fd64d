"""The report as one HTML page that needs no network: tables, plots, settings, and the documents that changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from act_eval import __version__
from act_eval.report.build import Report
from act_eval.report.plots import PLOTS
from act_eval.report.tables import count_text, labels, report_notes, report_tables

_COUNTS_OF_LABELS = {
    "documents": ("n", None),
    "baseline": ("baseline_predicted_before", "baseline_right_before"),
    "ACT": ("act_predicted_before", "act_right_before"),
    "baseline, corrected": ("baseline_predicted_after", "baseline_right_after"),
    "ACT, corrected": ("act_predicted_after", "act_right_after"),
}
_WIDTH_OF_ALL = 8  # of a bar for all documents, in letters
_TASK = ["task", "num_fewshot", "limit", "filter", "metric"]  # what tells tasks apart


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
        conclusions=report.conclusions,
        notes=report_notes(report),
        counts_of_labels=list(_COUNTS_OF_LABELS),
        labels=list(_labels(shown)),
        not_compared=report.notes,
        plots=[(plot.title, _base64(figures[plot.name])) for plot in PLOTS if plot.name in figures],
        runs=[_run(run) for _, run in report.runs.iterrows()],
        flips=shown.flips.documents.astype(object).where(shown.flips.documents.notna(), None).to_dict("records"),
        total_flips=report.flips.total,
    )


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _labels(report: Report) -> Iterator[tuple[str, list[tuple[str, list[Any]]]]]:
    """For each model and settings its title, and for each task a title with its labels and their bars.

    A bar has a width, in letters, for its share of all documents, and a text: how many these are, and how many are right.
    """
    named = report.labels.assign(title=labels(report.labels, "task", ("metric", "filter", "num_fewshot", "limit")))
    for (model, settings), of_settings in named.groupby(["model", "settings"], sort=False):
        tasks = []
        for _, of_task in of_settings.groupby(_TASK, dropna=False, sort=False):
            documents = of_task["n"].sum()
            rows = []
            for _, row in of_task.iterrows():
                bars = []
                for count, right in _COUNTS_OF_LABELS.values():
                    text = count_text(row[count]) + (f" ({count_text(row[right])} right)" if right else "")
                    bars.append({"width": round(_WIDTH_OF_ALL * row[count] / documents, 3), "text": text})
                rows.append((row["label"], bars))
            tasks.append((str(of_task["title"].iloc[0]), rows))
        yield f"{model}: {settings}", tasks


def _run(run: pd.Series) -> dict[str, object]:
    """What the page says of a run: short facts, and the whole configuration as JSON."""
    shots = "" if pd.isna(run["num_fewshot"]) else f"{run['num_fewshot']}"
    documents = "" if pd.isna(run["documents"]) else f"{run['documents']}"
    facts = {"model": run["model"], "settings": run["settings"], "task": run["task"], "shots": shots}
    facts |= {"n": documents, "date": run["date"], "model arguments": run["model_args"]}
    return {"facts": facts, "arguments": json.dumps(run["arguments"], indent=1, sort_keys=True)}
