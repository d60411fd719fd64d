"""The report as JSON, under a schema with a version: `schema.json` beside this module."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib import resources
from typing import Any

import pandas as pd

from act_eval import __version__
from act_eval.report.build import Report
from act_eval.report.methods import MethodFindings
from act_eval.report.study import StudyFindings
from act_eval.report.unfinished import Unfinished

SCHEMA_VERSION = 2


def to_json(report: Report) -> str:
    """The report as JSON text: numbers at full precision, what is missing as null.

    `schema_version` grows when a field is renamed, removed or changes its meaning; new fields alone do not change it.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "act_eval_version": __version__,
        "comparison": _records(report.comparison),
        "groups": _records(report.groups),
        "subjects": _records(report.subjects),
        "label_priors": _records(report.label_priors),
        "label_prior_groups": _records(report.label_prior_groups),
        "labels": _records(report.labels),
        "label_prior_notes": list(report.priors.notes),
        "replies": _records(report.replies),
        "runs": _records(report.runs),
        "flips": {"total": report.flips.total, "documents": _records(report.flips.documents)},
        "notes": list(report.notes),
        "unpaired_notes": list(report.unpaired_notes),
        "unfinished": _unfinished(report.unfinished),
        "studies": [_study(findings) for findings in report.studies],
        "method_comparisons": [_methods(findings) for findings in report.method_comparisons],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that `to_json` follows."""
    return json.loads(resources.files(__package__).joinpath("schema.json").read_text(encoding="utf-8"))


def _unfinished(unfinished: Unfinished | None) -> dict[str, Any] | None:
    if unfinished is None:
        return None
    missing = [{"variant": run.variant, "task": run.task, "seed": run.seed} for run in unfinished.missing]
    numbers = {"planned": len(unfinished.planned), "finished": unfinished.finished}
    return {**numbers, "missing": missing, "waiting": list(unfinished.waiting), "sentences": unfinished.sentences()}


def _study(findings: StudyFindings) -> dict[str, Any]:
    verdict = findings.verdict
    return {
        "verdict": None if verdict is None else {"outcome": verdict.outcome, "sentences": list(verdict.sentences)},
        "model": findings.model,
        "record": asdict(findings.record),
        "variants": dict(findings.with_profiles),
        "table": _records(findings.table),
    }


def _methods(findings: MethodFindings) -> dict[str, Any]:
    return {
        "sentences": [findings.headline, *findings.sentences],
        "best": findings.best,
        "model": findings.model,
        "record": asdict(findings.record),
        "settings": dict(findings.settings),
        "correction": None if findings.correction is None else asdict(findings.correction),
        "table": _records(findings.table),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _json_value(value) for name, value in row.items()} for row in table.to_dict("records")]


def _json_value(value: Any) -> Any:
    """A value of a table as JSON has it; missing and infinite numbers as null."""
    if isinstance(value, dict):
        return {name: _json_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    if isinstance(value, str) or value is None:
        return value
    if pd.isna(value) or value in (math.inf, -math.inf):
        return None
    return value.item() if hasattr(value, "item") else value
