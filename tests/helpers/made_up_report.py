"""Reports of made-up numbers on many tasks, models and settings."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from act_eval.report.build import Report
from act_eval.report.flips import FLIP_COLUMNS, Flips
from act_eval.report.label_priors import LabelPriors
from act_eval.report.load import RUN_COLUMNS
from act_eval.report.statistics import COMPARISON_COLUMNS, GROUP_COLUMNS, SUBJECT_COLUMNS

ACT_17 = [
    "act_sst2",
    "act_sst5",
    "act_mr",
    "act_subj",
    "act_agnews",
    "act_trec",
    "act_cb",
    "act_boolq",
    "act_dbpedia",
    "act_hellaswag",
    "act_arc_easy",
    "act_arc_challenge",
    "act_piqa",
    "act_openbookqa",
    "act_copa",
    "act_commonsense_qa",
    "act_mmlu",
]
MMLU_SUBJECTS = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
]
MMLU = [f"mmlu_{subject}" for subject in MMLU_SUBJECTS]
LONG_PATHS = [f"/data/someone/checkpoints/of/many/models/smollm2-135m-instruct-seed-{seed}/checkpoint-500" for seed in range(8)]
ALL_HEADS = "all (32 heads), beta 0.4, alpha 5"
LONG_SETTINGS = "2:0+1+2+3+4+5+6+7... 4e3c7bfc (16 heads), beta 0.4, alpha 5, decode every-step, 50% of sinks"


def made_up_report(
    models=("model",), settings=(ALL_HEADS,), tasks=("task",), group=None, of_tasks=None, subjects=(), priors=False
):
    """A report with a row for each model, setting and task, some of which differ significantly.

    Args:
        models, settings, tasks, subjects: their names.
        group: the name of an average over the tasks, or None for none.
        of_tasks: how many tasks the group has; those that there are by default.
        priors: whether the tasks have labels, whose priors are corrected.
    """
    generator = np.random.default_rng(0)
    same = {"num_fewshot": 0, "limit": np.nan, "filter": "none", "metric": "acc", "higher_is_better": True, "n": 500}

    def rows(names, column):
        for model, setting, name in itertools.product(models, settings, names):
            baseline, delta = generator.uniform(0.2, 0.8), generator.normal(0, 0.05)
            numbers = {"baseline": baseline, "act": baseline + delta, "delta": delta, "low": delta - 0.03, "high": delta + 0.03}
            heads = {"num_heads": 10 * (1 + settings.index(setting))}
            yield {"model": model, "settings": setting, column: name, **heads, **same, **numbers}

    of_documents = {"seeds": 1, "paired": True, "p": 0.5}
    comparison = [{**row, **of_documents, "p_holm": 0.01 if abs(row["delta"]) > 0.05 else 1.0} for row in rows(tasks, "task")]
    counts = {"tasks": len(tasks), "of_tasks": of_tasks or len(tasks), "weighted_by_size": False}
    groups = [{**row, **counts} for row in rows([group] if group else [], "group")]
    comparison = pd.DataFrame(comparison, columns=list(COMPARISON_COLUMNS))
    before = {f"{name}_before": comparison[name] + 0.02 for name in ("baseline", "act", "delta", "low", "high")}
    return Report(
        pd.DataFrame(columns=list(RUN_COLUMNS)),
        comparison,
        pd.DataFrame(groups, columns=list(GROUP_COLUMNS)),
        pd.DataFrame(list(rows(subjects, "subject")), columns=list(SUBJECT_COLUMNS)),
        Flips(pd.DataFrame(columns=list(FLIP_COLUMNS)), 0),
        (),
        priors=LabelPriors(tasks=comparison.assign(labels=4, **before)) if priors else LabelPriors(),
    )
