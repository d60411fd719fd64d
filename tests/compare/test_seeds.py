"""Several seeds: each is run where it draws few-shot examples or replies, and the first one alone elsewhere."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.compare import ComparisonSettings, plan_comparison, run_comparison
from act_eval.errors import InputError
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.report.build import make_report
from act_eval.study import StudySettings
from act_eval.study.plan import plan_study

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_lm_evals_tasks")]

TASKS = Path(__file__).parent / "scored_and_generated"
MODEL = ModelSettings({"act_profile": "all", "act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=4)
SEVERAL = "several seeds give the same prompts without few-shot examples"


def settings(*tasks, seeds=(3, 4), **prompts):
    return ComparisonSettings(MODEL, PromptSettings(tasks, include_path=str(TASKS), **{"limit": 5, **prompts}), seeds)


def planned(*tasks, **options):
    """By task, the seeds that it is run with."""
    runs = plan_comparison(settings(*tasks, **options)).runs
    assert len({(run.task, run.variant, run.prompts.seed) for run in runs}) == len(runs)
    return {task: sorted({run.prompts.seed for run in runs if run.task == task}) for task in tasks}


GREEDY = {"do_sample": False}


@pytest.mark.parametrize(
    ("prompts", "seeds"),
    [
        ({}, {"demo_topic": [3], "demo_words": [3, 4], "demo_texts": [3]}),
        (
            {"num_fewshot": {"demo_topic": 1}, "gen_kwargs": GREEDY},
            {"demo_topic": [3, 4], "demo_words": [3], "demo_texts": [3]},
        ),
        # whose examples are the first ones of their split:
        ({"num_fewshot": {"demo_topic": 1, "demo_words": 1}, "gen_kwargs": GREEDY}, {"demo_topic": [3, 4], "demo_words": [3]}),
        ({"num_fewshot": {"demo_topic": 0, "demo_words": 1}}, {"demo_topic": [3], "demo_words": [3, 4]}),
    ],
)
def test_a_task_is_run_with_the_seeds_that_draw_something(prompts, seeds, caplog):
    with caplog.at_level(logging.WARNING):
        assert planned(*seeds, **prompts) == seeds
    once = ", ".join(task for task, of_task in seeds.items() if of_task == [3])
    line = f"Neither few-shot examples nor replies are drawn, so seed 3 alone is run: {once}."
    assert [record.getMessage() for record in caplog.records if record.name == "act_eval.compare.plan"] == [line]


def test_one_seed_is_run_without_a_word(caplog):
    assert planned("demo_topic", "demo_words", seeds=(3,)) == {"demo_topic": [3], "demo_words": [3]}
    assert "alone is run" not in caplog.text


@pytest.mark.parametrize(
    ("tasks", "prompts"),
    [
        (("demo_topic", "demo_texts"), {}),
        (("demo_topic",), {"num_fewshot": 0}),
        (("demo_topic", "demo_words"), {"gen_kwargs": GREEDY}),
    ],
)
def test_seeds_that_change_nothing_anywhere_are_refused(tasks, prompts):
    with pytest.raises(InputError, match=SEVERAL):
        planned(*tasks, **prompts)


def test_equal_seeds_are_refused():
    with pytest.raises(InputError, match="seeds names 3 twice: give each seed once"):
        settings("demo_words", seeds=(3, 4, 3))


def test_a_study_is_refused_before_its_search():
    study = StudySettings(replace(MODEL, model_args={"act_alpha": 5}), PromptSettings(("demo_topic",), limit=4), seeds=(3, 4))
    with pytest.raises(InputError, match=SEVERAL):
        plan_study(study)
    assert plan_study(replace(study, prompts=replace(study.prompts, num_fewshot=1))).record.tasks == ("demo_topic",)


@pytest.mark.usefixtures("without_plots")
def test_seeds_of_sampled_replies_are_averaged(tmp_path):
    """Beside a task in which they change nothing; what is planned is what the report looks for."""
    asked = settings("demo_words", "demo_topic")
    run_comparison(asked, tmp_path, Console(quiet=True))
    report = make_report([tmp_path])
    assert report.comparison.set_index("task")["seeds"].to_dict() == {"demo_words": 2, "demo_topic": 1}
    assert report.notes == ()
    assert report.unfinished is None
    assert len(report.runs) == 2 * 2 + 2


@pytest.mark.usefixtures("without_plots")
def test_the_command(tmp_path):
    options = ["--tasks", "demo_words", "--include-path", str(TASKS), "--limit", "5", "--batch-size", "5", "--device", "cpu"]
    arguments = ["compare", *options, "--model-args", "act_profile=all", "--seeds", "1,2", "--num-fewshot", "0"]
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path), "--dry-run"], catch_exceptions=False)
    assert "0 of 4 runs are finished" in result.output
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "left out" not in result.output
