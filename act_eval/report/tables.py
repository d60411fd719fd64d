"""The tables of a report: which rows and columns they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import Console

from act_eval.report.aggregation import METRICS_OF_LIKELIHOOD
from act_eval.report.build import Report
from act_eval.report.method_tables import METHODS_NOTE, methods_table, print_methods
from act_eval.report.statistics import differs
from act_eval.report.study_tables import print_study, study_notes, study_table
from act_eval.tables import BOOKTABS_NOTE, TerminalTable, TextTable, interval, number, one_line, p_value, with_spread

PAIRED_NOTE = (
    "Differences are paired by document. Intervals are 95%: where each document is 0 or 1, of the posterior of how many are "
    "gained and lost, elsewhere a Bayesian bootstrap over documents (the column interval of the CSV says which). Both leave "
    "room for changes that were not seen. p is that of the exact McNemar test where each document is 0 or 1, which asks for "
    "more where few documents changed, and elsewhere, as on average over few-shot seeds, agrees with the interval: twice the "
    "share of its draws on the smaller side of zero, at least 0.0002. Holm p is the same corrected for the number of paired "
    "rows of the model and the settings, whatever their metric, also those that a filter leaves out."
)
POWER_NOTE = (
    "Detectable is the smallest difference that so many documents, of which so many change, would show with a probability of "
    "80%, by the exact McNemar test at 5%, not corrected, or, for averages and for metrics that are not 0 or 1, by a 95% "
    "interval without zero."
)
OVERVIEW_NOTE = (
    "Below each baseline are the settings that were compared with it, over the same documents and seeds: best in bold, unless "
    "all are the same; * differs from the baseline: Holm p below 0.05, or, for averages, a 95% "
    "interval without zero."
)
CLUSTER_NOTE = (
    "SE is the standard error of delta; clustered SE allows documents of one subject or article to depend on each other."
)
SCORE_NOTE = (
    "Perplexities and bits per byte are computed from all documents as lm-eval does, and anew for each draw of the bootstrap; "
    "less is better."
)
UNPAIRED_NOTE = "Where it says unpaired, scores are lm-eval's own, and their difference has no interval and no test."
NOISE_NOTE = (
    "Noise is how much two runs of the baseline differ: the absolute difference, and how many documents have another score."
)
GROUP_NOTE = "Averages give every task the same weight; their intervals weigh documents anew within each task."
WEIGHTED_NOTE = (
    "Where it says by size, tasks count by their number of documents, as lm-eval's group has it; the other averages "
    "give every task the same weight. Their intervals weigh documents anew within each task."
)
LABEL_PRIORS_NOTE = (
    "Label priors are corrected by batch calibration (Zhou et al., ICLR 2024), in the same way for baseline and ACT: from the "
    "log-probability of each label, the logarithm of its mean probability over one half of the documents is subtracted in the "
    "other half (halves at random, the same for all runs). A difference that vanishes was a shift of which label is preferred. "
    "Where some labels are more frequent than others, a preference that is right is taken away too."
)
REPLIES_NOTE = (
    "Replies are as the model wrote them, before lm-eval's filters: empty is the share without anything but white space, "
    "characters the mean length without white space at both ends."
)
TERMINAL_NOTE = "paired by document: interval with room for unseen changes, p not corrected"
SHORT_NAMES_NOTE = "the model by the end of its path; whole in comparison.csv"
SEEDS_NOTE = "means over {} few-shot seeds ± standard deviation over seeds"

_MEANS = (("baseline", "baseline", ".3f"), ("ACT", "act", ".3f"), ("delta", "delta", "+.3f"))  # header, column, form
_PRIORS_IN_TERMINAL = ("task", "metric", "shots", "n", "labels", "baseline", "ACT", "delta", "95% interval", "p")
_TERMINAL = ("task", "metric", "shots", "n", "baseline", "ACT", "delta", "95% interval", "p", "detectable")
_LEFT_OUT = (
    "detectable",
    "median baseline",
    "median ACT",
    "n",
    "p",
    "95% interval",
)  # by a narrow terminal, the first one first
_NAMES = ("model", "settings", "task", "metric", "group", "subject", "label", "replies")
_AFTER_CORRECTION = "After label priors are corrected"


def report_tables(report: Report) -> list[TextTable]:
    """All tables but `label_tables`: studies, methods, models x tasks, then those for each model and settings."""
    tables = [*map(study_table, report.studies), *map(methods_table, report.method_comparisons), overview(report)]
    for title, rows in _by_settings(report.comparison):
        tables.append(TextTable(title, comparison_texts(rows), _NAMES))
    for title, rows in _by_settings(report.groups):
        tables.append(TextTable(f"Averages over tasks, {title}", group_texts(rows), _NAMES))
    for title, rows in _by_settings(report.subjects):
        tables.append(TextTable(f"Per subject, {title}", group_texts(rows), _NAMES))
    for title, rows in _by_settings(report.label_priors):
        texts = label_prior_texts(rows, _of_settings(report.label_prior_groups, rows))
        tables.append(TextTable(f"{_AFTER_CORRECTION}, {title}", texts, _NAMES))
    for title, rows in _by_settings(report.replies):
        tables.append(TextTable(f"Replies, {title}", reply_texts(rows), _NAMES))
    return tables


def label_tables(report: Report) -> list[TextTable]:
    """How often each label is predicted and right, for each model and settings."""
    return [TextTable(f"Labels, {title}", label_texts(rows), _NAMES) for title, rows in _by_settings(report.labels)]


def report_notes(report: Report) -> list[str]:
    """What the columns of the tables mean, a sentence or two each."""
    of_studies = dict.fromkeys(note for findings in report.studies for note in study_notes(findings))
    of_methods = [METHODS_NOTE] if report.method_comparisons else []
    notes = [*of_studies, *of_methods, OVERVIEW_NOTE, PAIRED_NOTE, POWER_NOTE]
    if report.comparison["metric"].isin(METRICS_OF_LIKELIHOOD).any():
        notes.append(SCORE_NOTE)
    if not report.comparison["paired"].all():
        notes += [UNPAIRED_NOTE, *report.unpaired_notes]
    if seeds := _seeds(report.comparison):
        notes.append(f"Few-shot results are {SEEDS_NOTE.format(seeds)}.")
    if report.comparison["clusters"].notna().any():
        notes.append(CLUSTER_NOTE)
    if report.comparison["noise"].notna().any():
        notes.append(NOISE_NOTE)
    if len(report.groups):
        notes.append(WEIGHTED_NOTE if report.groups["weighted_by_size"].any() else GROUP_NOTE)
    notes += [LABEL_PRIORS_NOTE] if len(report.label_priors) else []
    notes += report.priors.notes
    notes += [REPLIES_NOTE] if len(report.replies) else []
    return notes


def comparison_texts(comparison: pd.DataFrame) -> pd.DataFrame:
    """The comparison as text, one row per task and metric; accuracies are shares of 1.

    Columns that say nothing are left out: SE and clustered SE, without clusters; noise, without two baseline runs; what is
    detectable, without paired documents. Where several seeds were averaged, ± and the standard deviation over seeds follow the
    mean.
    """
    rows = []
    for _, row in comparison.iterrows():
        rows.append(
            {
                "task": row["task"],
                "metric": _metric(row),
                "shots": number(row["num_fewshot"], ".0f"),
                "n": number(row["n"], ".0f"),
                **{header: with_spread(row[column], row[f"{column}_sd"], form) for header, column, form in _MEANS},
                "95% interval": interval(row["low"], row["high"]),
                "detectable": number(row["detectable"], ".3f"),
                "SE": number(row["standard_error"], ".3f"),
                "clustered SE": number(row["clustered_standard_error"], ".3f"),
                "only baseline right": number(row["only_baseline"], ".0f"),
                "only ACT right": number(row["only_act"], ".0f"),
                "p": p_value(row["p"]),
                "Holm p": p_value(row["p_holm"]),
                "noise": _noise(row),
            }
        )
    texts = pd.DataFrame(rows)
    empty = [] if comparison["clusters"].notna().any() else ["SE", "clustered SE"]
    empty += [name for name in ("noise", "detectable") if comparison[name].isna().all()]
    return texts.drop(columns=empty)


def group_texts(groups: pd.DataFrame) -> pd.DataFrame:
    """Averages over tasks, or the comparison per subject, as text."""
    name = "group" if "group" in groups else "subject"
    has_power = name == "group" and groups["detectable"].notna().any()
    rows = []
    for _, row in groups.iterrows():
        texts = {name: row[name]}
        if name == "group":
            of_tasks = "" if row["tasks"] == row["of_tasks"] else f" of {row['of_tasks']}"
            texts["tasks"] = f"{row['tasks']}{of_tasks}{', by size' if row['weighted_by_size'] else ''}"
        texts |= {"metric": _metric(row), "shots": number(row["num_fewshot"], ".0f"), "n": number(row["n"], ".0f")}
        texts |= {header: number(row[column], form) for header, column, form in _MEANS}
        texts["95% interval"] = interval(row["low"], row["high"])
        rows.append(texts | ({"detectable": number(row["detectable"], ".3f")} if has_power else {}))
    return pd.DataFrame(rows)


def label_prior_texts(priors: pd.DataFrame, averages: pd.DataFrame) -> pd.DataFrame:
    """Accuracies after label priors are corrected as text, with the difference before; averages are the last rows."""
    parts = [comparison_texts(priors).assign(labels=priors["labels"].map(lambda count: number(count, ".0f")).to_numpy())]
    if len(averages):
        names = group_names(averages).to_numpy()
        parts.append(group_texts(averages).assign(group=names, labels="").rename(columns={"group": "task"}))
    for part, rows in zip(parts, (priors, averages), strict=False):
        for header, column, form in _MEANS:
            part[f"{header} before"] = [number(value, form) for value in rows[f"{column}_before"]]
    columns = ("task", "metric", "shots", "n", "labels", *(f"{header} before" for header, *_ in _MEANS))
    columns += (*(header for header, *_ in _MEANS), "95% interval", "p", "Holm p")
    return pd.concat([part.reindex(columns=list(columns), fill_value="") for part in parts], ignore_index=True)


def label_texts(labels: pd.DataFrame) -> pd.DataFrame:
    """How often each label is predicted and right as text; counts have a digit where they are means over seeds."""
    rows = []
    for _, row in labels.iterrows():
        texts = {"task": row["task"], "metric": _metric(row), "shots": number(row["num_fewshot"], ".0f")}
        texts |= {"label": one_line(row["label"]), "n": number(row["n"], ".0f")}
        for when, suffix in (("before", ""), ("after", ", corrected")):
            for side, name in (("baseline", "baseline"), ("act", "ACT")):
                counts = [row[f"{side}_{count}_{when}"] for count in ("predicted", "right")]
                texts[f"{name}: predicted (right){suffix}"] = "{} ({})".format(*map(count_text, counts))
        rows.append(texts)
    return pd.DataFrame(rows)


def count_text(count: float) -> str:
    """A count, with a digit where it is a mean that is not whole."""
    return f"{count:.0f}" if float(count).is_integer() else f"{count:.1f}"


def reply_texts(replies: pd.DataFrame) -> pd.DataFrame:
    """How many replies are empty and how long replies are, as text: shares with three digits, characters with one."""
    rows = []
    for _, row in replies.iterrows():
        digits = 3 if row["measure"] == "empty" else 1
        texts = {"task": row["task"], "replies": row["measure"], "shots": number(row["num_fewshot"], ".0f")}
        texts |= {"n": number(row["n"], ".0f")}
        for header, column, form in _MEANS:
            texts[header] = number(row[column], f"{'+' if form.startswith('+') else ''}.{digits}f")
        texts["95% interval"] = interval(row["low"], row["high"], digits)
        texts |= {f"median {header}": number(row[f"{column}_median"], f".{digits}f") for header, column, _ in _MEANS[:2]}
        rows.append({**texts, "p": p_value(row["p"])})
    return pd.DataFrame(rows)


def group_names(groups: pd.DataFrame) -> pd.Series:
    """The names of averages; those that lack tasks say so, such as `act_17 (6 of 17 tasks)`."""
    counts = " (" + groups["tasks"].astype(str) + " of " + groups["of_tasks"].astype(str) + " tasks)"
    return groups["group"].where(groups["tasks"] == groups["of_tasks"], groups["group"].astype(str) + counts)


def overview(report: Report) -> TextTable:
    """Models x tasks, as papers lay it out: a row for the baseline and one for each setting of ACT, below each model.

    Settings that were compared with other runs of the baseline, such as those of fewer seeds, follow below a row for these. The
    best below a baseline, itself included, is bold in each column, unless all of them are the same, and a star marks what
    differs from the baseline (`OVERVIEW_NOTE`).
    """
    groups = report.groups.assign(group=group_names(report.groups))
    shown = [_scores(report.comparison, "task"), _scores(groups, "group")]
    scores = pd.concat(shown, ignore_index=True)
    columns = list(dict.fromkeys(scores["column"]))
    rows, bold = [], []
    for model, of_model in _of_one_baseline(scores):
        once = of_model.drop_duplicates("column").set_index("column")
        values = {"baseline": once["baseline"]}
        stars = {}
        for settings, of_settings in of_model.groupby("settings", sort=False):
            values[str(settings)] = of_settings.set_index("column")["act"]
            stars[str(settings)] = of_settings.set_index("column")["differs"]
        numbers = pd.DataFrame(values).T.reindex(columns=columns).astype(float).round(3)
        shown = numbers.map(lambda value: number(value, ".3f"))
        best = numbers.mul(once["sign"].reindex(columns), axis=1)
        best = best.eq(best.max()) & (shown.where(numbers.notna()).nunique() > 1)
        for settings, row in shown.iterrows():
            marks = stars.get(str(settings), pd.Series(dtype=bool)).reindex(columns, fill_value=False)
            texts = {column: text + ("*" if marks[column] else "") for column, text in row.items()}
            rows.append({"model": model, "settings": settings, **texts})
            bold.append({"model": False, "settings": False, **best.loc[settings]})
        rows.append({"model": model, "settings": "n", **{column: number(once["n"].get(column), ".0f") for column in columns}})
        bold.append(dict.fromkeys(["model", "settings", *columns], False))
    return TextTable("Models x tasks", pd.DataFrame(rows), _NAMES, pd.DataFrame(bold).astype(bool))


def _of_one_baseline(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each model, once for each baseline, with the rows of the settings that have no other one in any column."""
    for model, of_model in scores.groupby("model", sort=False):
        blocks: list[tuple[dict[str, str], list[pd.DataFrame]]] = []
        for _, rows in of_model.groupby("settings", sort=False):
            own = dict(zip(rows["column"], rows["baseline_id"].fillna(""), strict=True))
            fitting = (block for block in blocks if all(block[0].get(column, own[column]) == own[column] for column in own))
            baseline, settings = next(fitting, ({}, []))
            if not settings:
                blocks.append((baseline, settings))
            baseline |= own
            settings.append(rows)
        for _, settings in blocks:
            yield str(model), pd.concat(settings)


def _scores(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """What `overview` shows of each row of the comparison or of the averages."""
    scores = rows[["model", "settings", "n", "baseline", "baseline_id", "act"]].copy()
    scores["column"] = labels(rows, name)
    scores["sign"] = rows["higher_is_better"].map({True: 1, False: -1}).astype(float)
    scores["differs"] = differs(rows)
    return scores


def labels(rows: pd.DataFrame, name: str, columns: Sequence[str] = ("metric", "filter", "num_fewshot", "limit")) -> pd.Series:
    """A column of names, with what else tells apart rows of the same name, such as `demo_choice, 2 shots`.

    Where some settings still have two rows of one name, as with few-shot seeds of which some could not be paired, the names say
    which is paired.
    """
    texts = rows[name].astype(str)
    for column in columns:
        ambiguous = rows[column].astype(str).groupby(texts).transform("nunique") > 1
        suffix = {"num_fewshot": " shots", "limit": " documents"}.get(column, "")
        values = rows[column].map(lambda value: f"{value:g}" if isinstance(value, float) else str(value)).astype(str)
        texts = texts.where(~ambiguous | rows[column].isna(), texts + ", " + values + suffix)
    if "paired" not in rows:
        return texts
    has_both = rows["paired"].groupby([texts, rows["model"], rows["settings"]]).transform("nunique") > 1
    paired = rows["paired"].map({True: ", paired", False: ", unpaired"})
    return texts.where(~has_both.groupby(texts).transform("any"), texts + paired)


def markdown(report: Report) -> str:
    """All tables in Markdown, with a heading each, and what was not compared."""
    parts = [f"{' '.join([f'**{conclusion.headline}**', *conclusion.sentences])}\n" for conclusion in report.conclusions]
    parts += [f"{' '.join(report.unfinished.sentences())}\n"] if report.unfinished else []
    parts += [table.to_markdown() for table in (*report_tables(report), *label_tables(report))]
    parts += [f"{note}\n" for note in report_notes(report)]
    if report.notes:
        parts.append("Not compared:\n\n" + "".join(f"- {text}\n" for text in report.notes))
    return "\n".join(parts)


def latex(report: Report) -> str:
    """All tables as LaTeX, each below a comment with its title."""
    unfinished = report.unfinished.sentences() if report.unfinished else []
    conclusions = [one_line(" ".join([conclusion.headline, *conclusion.sentences])) for conclusion in report.conclusions]
    parts = [
        BOOKTABS_NOTE,
        *(f"% {conclusion}" for conclusion in conclusions),
        *(f"% {one_line(text)}" for text in unfinished),
        *(table.to_latex() for table in (*report_tables(report), *label_tables(report))),
    ]
    parts += [f"% {note}" for note in report_notes(report)]
    parts += [f"% Not compared: {one_line(note)}" for note in report.notes]
    return "\n".join(parts) + "\n"


def print_tables(report: Report, console: Console) -> None:
    """Show studies and methods on a terminal, then comparisons with averages, with label priors corrected, and replies.

    Green is better and red worse, where that is significant (`statistics.differs`). Of studies the verdict and one table are
    shown, and nothing more of the settings that they compare; of comparisons of methods likewise.
    """
    shortened = {short for name, short in report.short_names.items() if short != name}
    report = report.with_short_names()
    for findings in report.studies:
        print_study(findings, console)
    for of_methods in report.method_comparisons:
        print_methods(of_methods, console)
    shown_above = [findings.holds for findings in report.studies] + [findings.holds for findings in report.method_comparisons]
    for (model, settings), rows in report.comparison.groupby(["model", "settings"], sort=False):
        if any(holds(str(model), str(settings)) for holds in shown_above):
            continue
        averages = _of_settings(report.groups, rows)
        texts = [comparison_texts(rows)]
        if len(averages):
            texts.append(group_texts(averages).assign(group=group_names(averages).to_numpy()).rename(columns={"group": "task"}))
        shown = pd.concat([part.reindex(columns=list(_TERMINAL), fill_value="") for part in texts], ignore_index=True)
        shown = shown.loc[:, (shown != "").any()]
        notes = [TERMINAL_NOTE, *([SEEDS_NOTE.format(seeds)] if (seeds := _seeds(rows)) else [])]
        notes += [SHORT_NAMES_NOTE] if model in shortened else []
        console.print(_for_terminal(f"{model}: {settings}", shown, rows, averages, "comparison.csv", notes))
        priors, averages = (_of_settings(table, rows) for table in (report.label_priors, report.label_prior_groups))
        if len(priors):
            shown = label_prior_texts(priors, averages)[list(_PRIORS_IN_TERMINAL)]
            console.print(_for_terminal("after label priors are corrected", shown, priors, averages, "label_priors.csv"))
        replies = _of_settings(report.replies, rows)
        if len(replies):
            console.print(_for_terminal("replies", reply_texts(replies), elsewhere="replies.csv"))


def _for_terminal(
    title: str,
    texts: pd.DataFrame,
    rows: pd.DataFrame | None = None,
    averages: pd.DataFrame | None = None,
    elsewhere: str = "",
    notes: Sequence[str] = (),
) -> TerminalTable:
    """A table of a report for a terminal, in colours where it shows `rows` and, below a line, `averages`."""
    parts = [part for part in (rows, averages) if part is not None and len(part)]
    return TextTable(title, texts.map(lambda text: text.replace(" ± ", "\n± ")), _NAMES).to_terminal(
        leave_out=_LEFT_OUT,
        elsewhere=elsewhere,
        notes=notes,
        padding=(0, 0, 0, 0),
        styles=[style for part in parts for style in _styles(part)] or None,
        ends_of_sections=[len(parts[0]) - 1] if len(parts) > 1 else [],
    )


def _of_settings(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that are of the same model and settings as others, which have one of each."""
    model, settings = rows["model"].iloc[0], rows["settings"].iloc[0]
    return table[(table["model"] == model) & (table["settings"] == settings)]


def _styles(rows: pd.DataFrame) -> list[str | None]:
    """The colour of each row on a terminal: green is better and red worse."""
    is_better = (rows["delta"] > 0) == rows["higher_is_better"].astype(bool)
    return [
        ("green" if better else "red") if different else None
        for better, different in zip(is_better, differs(rows), strict=True)
    ]


def _by_settings(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (model, settings), of_settings in rows.groupby(["model", "settings"], sort=False):
        yield f"{model}: {settings}", of_settings


def _metric(row: pd.Series) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"


def _noise(row: pd.Series) -> str:
    return "" if pd.isna(row["noise"]) else f"{number(row['noise'], '.3f')} ({row['noise_changed']} changed)"


def _seeds(comparison: pd.DataFrame) -> str:
    """How many seeds were averaged, such as "5" or "3 to 5"; empty where each result has one."""
    counts = sorted({int(seeds) for seeds in comparison["seeds"] if seeds > 1})
    return " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1]))) if counts else ""
