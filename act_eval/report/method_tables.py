"""The table and the words of a comparison of methods."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from act_eval.report.methods import MethodFindings
from act_eval.report.statistics import ALL_TASKS
from act_eval.report.study_tables import print_conclusion
from act_eval.tables import TextTable, interval, number, p_value

METHODS_CSV = "methods.csv"
METHODS_NOTE = (
    "Heads of each method were searched for on the same training documents and in the same mode; full_passes in methods.csv "
    "says what each search cost, which is more where a method has several parts, or parameters to find. Columns of tasks are "
    "differences from the baseline, too. Differences are paired by document, with 95% intervals; Holm p is corrected for the "
    "number of methods with heads. A star marks a difference that is significant (Holm p below 0.05). The best method is "
    "marked (best) only where it is better than the baseline and than every other method with heads, corrected for all "
    "pairs of them. The difference with priors corrected is what is left when label priors are corrected in baseline and "
    "method, tasks without label priors as they are."
)
_BEST = " (best)"


def methods_table(findings: MethodFindings) -> TextTable:
    """A row for each method: its score and difference from the baseline, on average and in each task; the best is bold."""
    rows = []
    tasks = _tasks(findings)
    for _, row in findings.counting.iterrows():
        star = "*" if row["differs"] else ""
        text = {
            "method": f"{row['method']}{_BEST if row['best'] else ''}",
            "heads": number(row["heads"], ".0f"),
            "baseline": number(row["baseline"], ".3f"),
            "score": number(row["score"], ".3f"),
            "delta": f"{number(row['delta'], '+.3f')}{star}",
            "95% interval": "= baseline" if pd.isna(row["low"]) else interval(row["low"], row["high"]),
            "Holm p": p_value(row["p_holm"]),
            "priors corrected": number(row["corrected_delta"], "+.3f"),
        }
        if len(tasks) > 1:
            of_method = findings.table[findings.table["method"] == row["method"]].set_index("task")
            text |= {task: number(of_method.loc[task, "delta"], "+.3f") for task in tasks}
        rows.append({**text, "settings": str(row["settings"])})
    texts = pd.DataFrame(rows)
    bold = pd.DataFrame(False, index=texts.index, columns=texts.columns)
    bold.loc[findings.counting["best"].to_numpy(bool)] = True
    documents = f"{int(findings.counting['n'].iloc[0]):,} documents"
    return TextTable(f"Methods against one baseline, {findings.model}, {documents}", texts, ("method", "settings"), bold)


def print_methods(findings: MethodFindings, console: Console) -> None:
    """Show what the comparison comes to and its table on a terminal."""
    print_conclusion(findings, console)
    leave_out = ["settings", *reversed(_tasks(findings))]
    console.print(methods_table(findings).to_terminal(leave_out=leave_out, elsewhere=METHODS_CSV))


def _tasks(findings: MethodFindings) -> list[str]:
    return [str(task) for task in findings.table["task"].unique() if task != ALL_TASKS]
