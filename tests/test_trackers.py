"""Comparisons in experiment trackers: what is logged equals the files, and what is refused before anything runs."""

import json
import sys

import lm_eval.tasks
import pytest
from helpers.stand_in_trackers import stand_in_for_trackio, stand_in_for_wandb
from lm_eval import loggers
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.report import make_report
from act_eval.trackers import TrackerSettings, tracking

pytestmark = pytest.mark.tier("model")

HAS_TRACKIO = hasattr(loggers, "TrackioLogger")  # lm-eval 0.4.10 and 0.4.11 have none
ARGUMENTS = ["--tasks", "demo_topic,demo_choice", "--limit", "6", "--device", "cpu", "--batch-size", "6"]
WANDB = ["--wandb-args", "project=act,name=mine"]


def run(command, output, *extra, model_args):
    return CliRunner().invoke(cli.app, [command, *ARGUMENTS, "--model-args", model_args, "--output", str(output), *extra])


def compare(output, *extra):
    return run("compare", output, *extra, model_args="act_profile=all,act_alpha=5")


def succeeded(result):
    if result.exception:
        raise result.exception
    return result


@pytest.fixture(scope="module", autouse=True)
def nothing_beside():
    """Without lm-eval's own tasks and the files of reports, which take many seconds."""

    class Manager(TaskManager):
        def __init__(self, include_path=None, include_defaults=True, **options):
            super().__init__(include_path=include_path, include_defaults=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", Manager)
        for command in ("compare", "study"):
            patch.setattr(f"act_eval.cli.{command}.report_on", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def finished(nothing_beside, tmp_path_factory):
    """The folder of a comparison that logged nothing."""
    output = tmp_path_factory.mktemp("comparison")
    succeeded(compare(output))
    return output


def scores_of(output):
    """Accuracy by task and whether it is the baseline's, from lm-eval's files."""
    found = {}
    for file in output.rglob("results_*.json"):
        content = json.loads(file.read_text())
        (task,) = content["results"]
        found[task, content["config"]["act"]["text"] == "baseline"] = content["results"][task]["acc,none"]
    return found


@pytest.fixture(scope="module")
def comparison(finished):
    return make_report([finished]).comparison


def check_differences(logged, output, table):
    """The differences that were logged are those of the report, and the scores lm-eval's own."""
    table = table[table["metric"] == "acc"].set_index("task")
    scores = scores_of(output)
    for task in ("demo_topic", "demo_choice"):
        assert logged[f"{task}.baseline/acc"] == scores[task, True]
        assert logged[f"{task}.ACT/acc"] == scores[task, False]
        assert logged[f"{task}.ACT/acc_delta"] == pytest.approx(scores[task, False] - scores[task, True])
        for name in ("low", "high", "p", "n"):
            assert logged[f"{task}.ACT/acc_{name}"] == pytest.approx(table.loc[task, name])
    deltas = [logged[f"{task}.ACT/acc_delta"] for task in ("demo_topic", "demo_choice")]
    assert logged["all-tasks.ACT/acc_delta"] == pytest.approx(sum(deltas) / 2)
    assert not [value for value in logged.values() if isinstance(value, float) and value != value]


def test_weights_and_biases(finished, comparison, monkeypatch):
    """A finished comparison is logged without running anything again."""
    record = stand_in_for_wandb(monkeypatch)
    monkeypatch.setattr(ACTLM, "__init__", None)
    succeeded(compare(finished, *WANDB, "--wandb-config-args", "note=first"))
    assert record.init == {"project": "act", "name": "mine"}
    assert record.config["note"] == "first"
    assert set(record.config["task_configs"]) == {
        f"{task}.{variant}" for task in ("demo_topic", "demo_choice") for variant in ("ACT", "baseline")
    }
    assert set(record.config["cli_configs"]) == {"ACT", "baseline"}
    check_differences(record.logged, finished, comparison)
    table = record.logged["act/differences"]
    assert {(row[0], row[1]) for row in table.data} == {(task, "ACT") for task in ("demo_topic", "demo_choice", "all tasks")}
    assert len(record.logged["evaluation/eval_results"].data) >= 4
    assert record.exit_code == 0


@pytest.mark.skipif(not HAS_TRACKIO, reason="this lm-eval has no logger for Trackio")
def test_trackio(finished, comparison, monkeypatch):
    record = stand_in_for_trackio(monkeypatch)
    succeeded(compare(finished, "--trackio-args", '{"project": "act"}'))
    assert record.init == {"project": "act"}
    check_differences(record.logged, finished, comparison)
    assert record.is_finished


@pytest.mark.parametrize(
    ("command", "work", "model_args"),
    [
        ("compare", "act_eval.compare.run._run_all", "act_profile=all,act_alpha=5"),
        ("study", "act_eval.search.run._find_heads", "act_alpha=5"),
    ],
)
def test_a_run_of_what_fails_has_failed(tmp_path, monkeypatch, command, work, model_args):
    record = stand_in_for_wandb(monkeypatch)

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(work, fail)
    assert isinstance(run(command, tmp_path, *WANDB, model_args=model_args).exception, OSError)
    assert record.init == {"project": "act", "name": "mine"}
    assert record.exit_code == 1


@pytest.mark.tier("slow")
def test_methods_without_heads(tmp_path, monkeypatch):
    """The scores of the baseline, and what it comes to."""
    record = stand_in_for_wandb(monkeypatch)
    options = ["--methods", "act,temperature", "--layers", "2", "--search-limit", "6", "--tasks", "demo_choice"]
    result = succeeded(run("study", tmp_path, *options, *WANDB, model_args=""))
    assert "No head was chosen for any method" in result.output
    assert record.logged["demo_choice.baseline/acc"] == scores_of(tmp_path)["demo_choice", True]
    assert not [name for name in record.logged if name.endswith("_delta")]
    assert record.summary["verdict"].startswith("No head was chosen for any method")
    assert record.exit_code == 0


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("compare", ["--tasks", "demo_topics"]),
        ("compare", ["--model-args", "pretrained=no/such-model,act_profile=all"]),
        ("compare", ["--model-args", "act_profile=99:1"]),
        ("study", ["--tasks", "demo_topics"]),
        ("study", ["--layers", "99"]),
        ("study", ["--methods", "act,temperature", "--layers", "99"]),
    ],
)
def test_what_is_refused_before_the_weights_are_loaded_leaves_no_run(tmp_path, monkeypatch, command, options):
    record = stand_in_for_wandb(monkeypatch)
    monkeypatch.setattr(ACTLM, "_create_model", None)
    refused = run(command, tmp_path, *WANDB, *options, model_args="").exception
    assert isinstance(refused, InputError), refused
    assert record.init is None
    assert not record.is_finished


def test_a_folder_that_holds_a_study_leaves_no_run(tmp_path, monkeypatch):
    record = stand_in_for_wandb(monkeypatch)
    (tmp_path / "study.json").write_text("{}")
    assert "holds a study" in str(compare(tmp_path, *WANDB).exception)
    assert record.init is None


def test_a_dry_run_logs_nothing(finished, monkeypatch):
    record = stand_in_for_wandb(monkeypatch)
    succeeded(compare(finished, *WANDB, "--dry-run"))
    assert record.init is None


def test_of_several_processes_the_first_one_logs(monkeypatch, tmp_path):
    record = stand_in_for_wandb(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    with tracking(TrackerSettings(wandb_args={"project": "act"})) as trackers:
        trackers.log(tmp_path, lambda content: True)
    assert record.init is None


class TestRefused:
    """In a line, and before the weights are loaded."""

    @pytest.fixture(autouse=True)
    def nothing_runs(self, monkeypatch):
        monkeypatch.setattr(ACTLM, "_create_model", None)

    def refusal(self, output, *extra):
        result = compare(output, *extra)
        assert isinstance(result.exception, InputError), result.exception
        assert "\n" not in str(result.exception)
        return str(result.exception)

    @pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
    @pytest.mark.parametrize("package", ["wandb", "trackio"])
    def test_a_package_that_is_missing(self, tmp_path, monkeypatch, package, dry_run):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr("act_eval.trackers.find_spec", lambda name: None)
        words = self.refusal(tmp_path, f"--{package}-args", "project=x", *dry_run)
        assert words == f"--{package}-args needs {package}, which is not installed: pip install 'act-eval[{package}]'."

    def test_a_folder_of_that_name_is_no_package(self, tmp_path, monkeypatch):
        (tmp_path / "no_such_tracker").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        from act_eval.trackers import _is_installed

        assert not _is_installed("no_such_tracker")
        assert _is_installed("json")

    def test_a_tracker_that_says_no(self, tmp_path, monkeypatch):
        stand_in_for_wandb(monkeypatch, refusal=RuntimeError("api_key not configured.\nRun wandb login."))
        words = self.refusal(tmp_path, *WANDB)
        assert words == (
            "--wandb-args cannot be used to log (api_key not configured. Run wandb login): change it, or log without."
        )

    @pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
    @pytest.mark.parametrize("options", [[], ["--methods", "act,boost"]], ids=["one method", "several"])
    def test_a_configuration_for_no_tracker(self, tmp_path, options, dry_run):
        words = self.refusal(tmp_path, "--wandb-config-args", "a=1", *dry_run)
        of_study = run("study", tmp_path, "--wandb-config-args", "a=1", *options, *dry_run, model_args="act_alpha=5").exception
        assert isinstance(of_study, InputError)
        assert words == str(of_study)
        assert words.startswith("--wandb-config-args goes with wandb_args")

    def test_what_is_no_list_of_arguments(self, tmp_path):
        assert "--wandb-args 'words' cannot be read" in self.refusal(tmp_path, "--wandb-args", "words")
