"""Scores from judgements: paired by question, per category and turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from act_eval.errors import InputError
from act_eval.mt_bench.folder import Answer, ComparisonFolder
from act_eval.mt_bench.grading import Kind, make_request
from act_eval.mt_bench.questions import TURNS, Question
from act_eval.report.statistics import holm, paired_statistics, public_table

ALL, BOTH = "all", "both"
_ROW = ("model", "settings", "category", "turn", "n")
_DIFFERENCE = ("delta", "low", "high", "interval", "p", "p_holm")
SINGLE_COLUMNS = (*_ROW, "baseline", "act", *_DIFFERENCE)
PAIR_COLUMNS = (*_ROW, "win", "tie", "loss", *_DIFFERENCE)

_LARGEST_CHANGE = 9.0  # of a grade
_SIDES = ["baseline", "calibrated"]
_REPLY = ["model", "settings", "category", "question_id", "turn"]


@dataclass(frozen=True)
class Scores:
    """What a judge makes of ACT against the baseline.

    Attributes:
        judge: its name.
        single: a row per ACT setting, category (and `all`) and turn (1, 2, and `both`): mean grades from 1 to 10, their paired
            difference `delta` with its 95% interval, and a two-sided `p`, which agrees with the interval (`SINGLE_COLUMNS`).
            `p_holm` is corrected over the categories of the same ACT setting and turn, and missing for `all`.
        pair: the same rows (`PAIR_COLUMNS`). `win`, `tie` and `loss` count replies of ACT; `delta` is the share of wins minus
            that of losses; `p` is that of the exact sign test, or, where the turns of a question differ, agrees with the
            interval.
        notes: what is missing, a sentence each.
    """

    judge: str
    single: pd.DataFrame
    pair: pd.DataFrame
    notes: tuple[str, ...]


def make_scores(folder: ComparisonFolder, judge: str | None = None) -> Scores:
    """Score what a judge said of the answers in a folder.

    Args:
        folder: with answers and judgements.
        judge: whose; may be left out where there is only one.

    Raises:
        InputError: there is no such judge, or there are several and none was named; nothing can be compared.
    """
    judge = _the_judge(folder, judge)
    grades, verdicts = _values(folder, judge, "single"), _values(folder, judge, "pair")
    if grades.dropna().empty and verdicts.dropna().empty:
        raise InputError(
            f"{folder.path} holds no judgements of {judge} that compare ACT with the baseline: finish act-eval mt-bench "
            "answer, then run act-eval mt-bench judge."
        )
    notes = [*_unanswered(folder, grades), *_missing("single", grades), *_missing("pair", verdicts)]
    return Scores(judge, single_scores(grades), pair_scores(verdicts), tuple(notes))


def single_scores(grades: pd.DataFrame) -> pd.DataFrame:
    """Compute `Scores.single`, the mean grades.

    In a row of both turns each question counts once, with its mean over the turns, so that the interval is over questions.

    Args:
        grades: a row for each reply, with columns model, settings, category, question_id, turn, baseline and calibrated (float,
            from 1 to 10, NaN where a grade is missing; such replies do not count).
    """
    rows = []
    for names, replies in _replies_by_row(grades.dropna()):
        questions = replies.groupby("question_id")[_SIDES].mean()
        baseline, calibrated = (questions[side].to_numpy() for side in _SIDES)
        rows.append({**names, **paired_statistics(baseline, calibrated, _LARGEST_CHANGE)})
    return _table(rows, SINGLE_COLUMNS)


def pair_scores(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Compute `Scores.pair`, how often ACT wins.

    Args:
        verdicts: like the grades of `single_scores`; `calibrated` is 1 for a win, 0 for a tie and -1 for a loss, and `baseline`
            is 0.
    """
    rows = []
    for names, replies in _replies_by_row(verdicts.dropna()):
        counts = {name: int((replies["calibrated"] == value).sum()) for name, value in (("win", 1), ("tie", 0), ("loss", -1))}
        outcomes = replies.assign(won=replies["calibrated"] == 1, lost=replies["calibrated"] == -1)
        questions = outcomes.groupby("question_id")[["lost", "won"]].mean()
        statistics = paired_statistics(questions["lost"].to_numpy(), questions["won"].to_numpy())
        rows.append({**names, **statistics, **counts})
    return _table(rows, PAIR_COLUMNS)


def verdict(baseline_as_a: float | str | None, act_as_a: float | str | None) -> float:
    """The outcome for ACT from the verdicts of both orders: a win or a loss only where both agree, else a tie.

    Args:
        baseline_as_a: where the judge saw the baseline as A.
        act_as_a: where it saw ACT as A.

    Returns:
        1 for a win, 0 for a tie, -1 for a loss; NaN where a verdict is missing.
    """
    if baseline_as_a is None or act_as_a is None:
        return float("nan")
    return {("B", "A"): 1.0, ("A", "B"): -1.0}.get((str(baseline_as_a), str(act_as_a)), 0.0)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of rows with its columns, `p_holm` among them."""
    table = public_table(rows, columns).astype({"p_holm": float})
    of_categories = table[table["category"] != ALL]
    for _, family in of_categories.groupby(["model", "settings", "turn"]):
        table.loc[family.index, "p_holm"] = holm(family["p"].to_numpy(float))
    return table


def _values(folder: ComparisonFolder, judge: str, kind: Kind) -> pd.DataFrame:
    """A row for each turn of each question that baseline and ACT answered, as `single_scores` and `pair_scores` take them."""
    judgements = folder.judgements(judge, kind)
    baseline, *variants = folder.variants()
    answers = {variant.model_id: folder.answers(variant.model_id) for variant in (baseline, *variants)}

    def said(question: Question, turn: int, *of: Answer) -> float | str | None:
        return judgements.get(make_request(question, turn, of).prompt)

    rows = []
    for variant, question in product(variants, folder.questions()):
        of_baseline, of_act = (answers[model.model_id].get(question.question_id) for model in (baseline, variant))
        if of_baseline is None or of_act is None:
            continue
        for turn in TURNS:
            reply = (variant.model_id, variant.settings, question.category, question.question_id, turn)
            if kind == "single":
                rows.append((*reply, said(question, turn, of_baseline), said(question, turn, of_act)))
            else:
                outcome = verdict(said(question, turn, of_baseline, of_act), said(question, turn, of_act, of_baseline))
                rows.append((*reply, 0.0, outcome))
    return pd.DataFrame(rows, columns=[*_REPLY, *_SIDES]).astype(dict.fromkeys(_SIDES, float))


def _replies_by_row(replies: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The replies of each row of a table: per ACT setting, category and turn, then of all categories."""
    for (model, settings), of_model in replies.groupby(["model", "settings"], sort=False):
        by_category = [*of_model.groupby("category", sort=False), (ALL, of_model)]
        for category, of_category in by_category if len(by_category) > 2 else by_category[:1]:
            whole = of_category.groupby("question_id")["turn"].transform("size") == len(TURNS)
            by_turn = [(str(turn), of_category[of_category["turn"] == turn]) for turn in TURNS]
            for turn, of_turn in [*by_turn, (BOTH, of_category[whole])]:
                if len(of_turn):
                    yield {"model": model, "settings": settings, "category": category, "turn": turn}, of_turn


def _unanswered(folder: ComparisonFolder, replies: pd.DataFrame) -> Iterator[str]:
    """For how many questions there is something to compare, in words; nothing where it is all of them."""
    total = len(folder.questions())
    for (model, settings), of_model in replies.groupby(["model", "settings"], sort=False):
        answered = of_model["question_id"].nunique()
        if answered < total:
            yield f"{model} ({settings}): {answered} of {total} questions have answers of both baseline and ACT."


def _missing(kind: Kind, values: pd.DataFrame) -> Iterator[str]:
    """Which judgements are missing, in words; nothing where none was asked for."""
    for (model, settings), of_model in values.groupby(["model", "settings"], sort=False):
        gaps = int(of_model[_SIDES].isna().any(axis=1).sum())
        if 0 < gaps < len(of_model):
            yield f"{model} ({settings}): {gaps} of {len(of_model)} replies have no {kind} judgement and do not count."


def _the_judge(folder: ComparisonFolder, judge: str | None) -> str:
    judges = folder.judges()
    if not judges:
        raise InputError(f"{folder.path} holds no judgements: run act-eval mt-bench judge {folder.path}.")
    if judge is None and len(judges) > 1:
        raise InputError(f"{folder.path} holds judgements of {', '.join(judges)}: choose one of them as judge_model.")
    if judge is not None and judge not in judges:
        raise InputError(f"{folder.path} holds no judgements of {judge}: there are those of {', '.join(judges)}.")
    return judge or judges[0]
