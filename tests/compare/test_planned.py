"""Comparisons and sweeps keep what they are to run, so that a report on them says how far they are."""

import json
from unittest.mock import patch

import pytest
from lm_eval.loggers import EvaluationTracker
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.planned_runs import PLANNED_RUNS_FILE
from act_eval.report.build import make_report

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_plots")]


class StoppedError(Exception):
    pass


def stopped_after(finished, *arguments):
    """Run a command that stops while the results after so many finished runs are written."""
    written, save = [], EvaluationTracker.save_results_aggregated

    def save_or_stop(*arguments, **options):
        if len(written) == finished:
            raise StoppedError
        written.append(save(*arguments, **options))

    with patch.object(EvaluationTracker, "save_results_aggregated", save_or_stop), pytest.raises(StoppedError):
        act_eval(*arguments)


def act_eval(command, output, tasks, *extra):
    arguments = [command, "--tasks", tasks, "--limit", "4", "--device", "cpu", "--output", str(output), *extra]
    return CliRunner().invoke(cli.app, [*arguments, "--model-args", "act_profile=all,act_alpha=5"], catch_exceptions=False)


def report(output):
    result = CliRunner().invoke(cli.app, ["report", str(output)], catch_exceptions=False)
    return result.output


@pytest.mark.tier("slow")
def test_a_comparison_that_was_stopped(tmp_path):
    stopped_after(4, "compare", tmp_path, "act_demo")
    planned = (tmp_path / PLANNED_RUNS_FILE).read_bytes()
    text = report(tmp_path)
    assert "4 of 6 runs are finished; the rest is not in this report." in text
    assert "act_demo (2 of 3 tasks)" in text
    whole = act_eval("compare", tmp_path, "act_demo").output
    assert "4 of 6 runs are finished in" in whole
    assert "is not in this report" not in whole
    assert (tmp_path / PLANNED_RUNS_FILE).read_bytes() == planned
    assert make_report([tmp_path]).unfinished is None


@pytest.mark.tier("slow")
def test_other_tasks_are_added(tmp_path):
    act_eval("compare", tmp_path, "demo_topic")
    stopped_after(1, "compare", tmp_path, "demo_choice")
    assert "3 of 4 runs are finished" in report(tmp_path)
    assert [run["task"] for run in json.loads((tmp_path / PLANNED_RUNS_FILE).read_text())] == ["demo_choice", "demo_topic"] * 2


@pytest.mark.tier("slow")
def test_what_is_not_asked_for_any_more_is_not_missing(tmp_path):
    """The baseline of a task that was left out does not come any more, which the report says."""
    stopped_after(1, "sweep", tmp_path, "demo_topic", "--vary", "beta=0,0.4")
    act_eval("sweep", tmp_path, "demo_choice", "--vary", "beta=0,0.2")
    made = make_report([tmp_path])
    assert made.unfinished is None
    (note,) = made.notes
    assert note.startswith("demo_topic")


@pytest.mark.tier("slow")
def test_a_sweep_that_was_stopped(tmp_path):
    """Its points have the names that its tables have."""
    axis = ("--vary", "beta=0,0.4")
    stopped_after(2, "sweep", tmp_path, "demo_topic", *axis)
    planned = json.loads((tmp_path / PLANNED_RUNS_FILE).read_text())
    assert {run["variant"] for run in planned} == {"baseline", "beta 0", "beta 0.4"}
    act_eval("sweep", tmp_path, "demo_topic", *axis)
    assert make_report([tmp_path]).unfinished is None
