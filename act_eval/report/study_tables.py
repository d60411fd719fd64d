"""The table and the words of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import Console
from rich.text import Text

from act_eval.report.methods import MethodFindings
from act_eval.report.settings_text import profile_of
from act_eval.report.study import AVERAGE, StudyFindings
from act_eval.report.verdict import Conclusion
from act_eval.study_record import FOUND, is_random
from act_eval.tables import TextTable, interval, number

STUDY_NOTE = (
    "In a study, ACT is ACT in the heads found, and delta its difference from the baseline; beside it is what is left of that "
    "after label priors are corrected, on average over those of the tasks that have any. The other differences from the "
    "baseline are those of ACT in all heads, of ACT in random heads, as many in each layer (mean over several sets, least and "
    "most), and of the heads found switched off. The primary comparison is the average; it was fixed before anything was "
    "evaluated."
)
STUDY_CSV = "study.csv"

_UNSEEN_MARK = " †"
UNSEEN_NOTE = "† The search did not see these tasks."


def study_table(findings: StudyFindings, with_ranges: bool = True) -> TextTable:
    """A row for each task, then the averages, which are bold; scores are shares of 1.

    Args:
        findings: of a study.
        with_ranges: whether the least and the most of several sets of random heads stand beside their mean.
    """
    table = findings.table
    rows = []
    for _, row in table.iterrows():
        is_unseen = row["task"] in findings.record.unseen
        sets = _range(row) if with_ranges and pd.notna(row["random_sets"]) and row["random_sets"] > 1 else ""
        rows.append(
            {
                "task": f"{row['task']}{_UNSEEN_MARK if is_unseen else ''}",
                "n": number(row["n"], ".0f"),
                "baseline": number(row["baseline"], ".3f"),
                "ACT": number(row["found"], ".3f"),
                "delta": number(row["delta"], "+.3f"),
                "95% interval": "" if pd.isna(row["delta"]) else interval(row["low"], row["high"]),
                "priors corrected": f"{number(row['corrected_delta'], '+.3f')}{corrected_tasks(row)}",
                "all heads": number(row["all_heads_delta"], "+.3f"),
                "random heads": f"{number(row['random_delta'], '+.3f')}{sets}",
                "switched off": number(row["switched_off_delta"], "+.3f"),
            }
        )
    texts = pd.DataFrame(rows)
    bold = pd.DataFrame(False, index=texts.index, columns=texts.columns)
    bold.loc[table["task"].eq(AVERAGE).to_numpy()] = True
    empty = [header for header in texts if texts[header].eq("").all()]
    return TextTable(f"Study of {findings.model}", texts.drop(columns=empty), ("task",), bold.drop(columns=empty))


def print_study(findings: StudyFindings, console: Console) -> None:
    """Show verdict and table on a terminal."""
    if findings.verdict is not None:
        print_conclusion(findings.verdict, console)
    last = len(findings.record.tasks) - 1
    shown = study_table(findings, with_ranges=False).to_terminal(
        leave_out=("n", "priors corrected", "switched off", "all heads", "random heads"),
        elsewhere=STUDY_CSV,
        notes=[UNSEEN_NOTE] if findings.record.unseen else [],
        ends_of_sections=[last],
    )
    console.print(shown)


def print_conclusion(conclusion: Conclusion, console: Console) -> None:
    """Show in words what a study, or a comparison of methods, comes to."""
    console.print(Text(conclusion.headline, style="bold"))
    for sentence in conclusion.sentences:
        console.print(Text(sentence))
    console.print()


def rows_with_models(found: Sequence[StudyFindings | MethodFindings]) -> pd.DataFrame:
    """The tables of some studies, or comparisons of methods, one below the other, each with its model."""
    tables = [findings.table.assign(model=findings.model)[["model", *findings.table]] for findings in found]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def study_notes(findings: StudyFindings) -> Iterator[str]:
    """What the table's columns and marks mean, and where the heads of variants come from."""
    yield STUDY_NOTE
    if findings.record.unseen:
        yield UNSEEN_NOTE
    profiles = [
        f"{variant}, {profile_of(text)}"
        for variant, text in findings.with_profiles.items()
        if variant == FOUND or is_random(variant)
    ]
    if profiles:
        yield f"Profiles in the study of {findings.model}: {'; '.join(sorted(profiles))}."


def corrected_tasks(row: pd.Series) -> str:
    """Over how many tasks the average after label priors are corrected is, such as ` (2 of 3 tasks)`; empty where it is all."""
    count = row["corrected_tasks"]
    return "" if pd.isna(count) or count == row["tasks"] else f" ({count} of {row['tasks']} tasks)"


def _range(row: pd.Series) -> str:
    return f" ({number(row['random_least'], '+.3f')} to {number(row['random_most'], '+.3f')})"
