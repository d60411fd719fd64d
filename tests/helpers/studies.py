"""Studies, and comparisons of methods, as files: their records, their plans, and the results of their runs."""

from __future__ import annotations

from act_eval.planned_runs import PlannedRun, add_planned_runs
from act_eval.study_record import (
    ALL,
    FOUND,
    STUDY_COMMAND,
    SWITCHED_OFF,
    MethodsRecord,
    Score,
    SearchedMethod,
    StudyRecord,
    write_methods,
    write_study,
)
from act_eval.study_record import BASELINE as PLAIN
from helpers.runs import write_run

NO_HASH = "0" * 16  # of the heads in results of `helpers.runs`
HEADS = {FOUND: 4, ALL: 32, SWITCHED_OFF: 4}


def asked(variant, task, shots=0):
    return {
        "task": task,
        "model_args": {"pretrained": "some/model", "act_profile": variant},
        "num_fewshot": shots,
        "seed": 1234,
    }


def options_of(variant, task, shots=0):
    """How the run of a variant is written."""
    if variant == PLAIN:
        return {"task": task, "shots": shots, "recorded": {"act_eval_run": {"asked": asked(variant, task, shots)}}}
    heads = HEADS.get(variant, 4)
    act = {
        "method": "act", "parameters": {"beta": 0.4}, "sink_share": 1.0, "changes_nothing": False, "threshold": 0.1,
        "alpha": None, "keep": "first-sink", "decode": "prefill", "profile": variant, "profile_hash": NO_HASH,
        "num_heads": heads, "heads": {}, "text": f"{variant.replace(' ', '_')}.json 1234abcd ({heads} heads), beta 0.4",
    }  # fmt: skip
    recorded = {"act_eval_run": {"asked": asked(variant, task, shots)}}
    return {"task": task, "shots": shots, "heads": heads, "config": {"act": act}, "recorded": recorded}


def plan(folder, runs, shots=0):
    """The plan of a study or of a comparison whose runs are these variants of tasks."""
    planned = [PlannedRun(variant, task, 1234, asked(variant, task, shots), STUDY_COMMAND) for variant, task in runs]
    add_planned_runs(planned, folder)


def write_record(folder, runs, shots=0, heads=4, profile_hash=NO_HASH):
    """The plan and the record of a study whose runs are these variants of tasks."""
    plan(folder, runs, shots)
    tasks = sorted({task for _, task in runs})
    search = {"heads": heads, "heads_searched": 32, "gain": None, "profile_hash": profile_hash}
    write_study(StudyRecord({}, {task: Score("acc", "none") for task in tasks}, ("a",), search=search), folder)


def write_a_study(folder, values, shots=0, missing=()):
    """A study whose runs have these values, by variant and task; `missing` ones are planned and not written."""
    write_runs(folder, values, shots, missing)
    write_record(folder, values, shots)


def write_runs(folder, values, shots=0, missing=(), **options):
    """Runs that have these values, by variant and task, but those that are `missing`; `options` are of `write_run`."""
    for (variant, task), of_run in values.items():
        if (variant, task) not in missing:
            write_run(folder, of_run, **{**options_of(variant, task, shots), **options})


def write_comparison_of_methods(folder, values, without=(), missing=(), profile_hash=NO_HASH, **options):
    """A comparison of methods whose runs have these values, by method or baseline and task; methods `without` have no heads.

    `profile_hash` is that of the heads that were searched for; `options` are of `write_run`.
    """
    write_runs(folder, values, missing=missing, **options)
    plan(folder, values)
    searched = {method: SearchedMethod(4, 13.0, method, profile_hash) for method, _ in values if method != PLAIN}
    searched |= {method: SearchedMethod(0, 13.0, "no head was chosen", NO_HASH) for method in without}
    scores = {task: Score("acc", "none") for task in sorted({task for _, task in values})}
    write_methods(MethodsRecord({}, scores, searched), folder)
