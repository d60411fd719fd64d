"""A comparison runs the tasks of groups one by one, and averages them as lm-eval does."""

import json

import pandas as pd
import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.harness.lm import ACTLM
from act_eval.harness.tasks import load_for_evaluation, task_manager
from act_eval.report.load import load
from act_eval.task_groups import GROUPS_FILE, TaskGroup, add_groups, read_groups

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_plots")]

MODEL_ARGS = {"act_profile": "all", "act_alpha": 5, "dtype": "float32"}
SIZES = {"pets_small": 3, "pets_middle": 5, "pets_large": 9, "pets_alone": 4}
WORDS = ["old", "young", "big", "small", "red", "black", "quick", "slow", "good", "bad"]
TASK = """
task: {name}
{tag}dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "The {{{{word}}}} animal is a"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: ["cat", "dog"]
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1}}
"""
GROUPS = {
    "pets_inner": """
group: pets_inner
task: [pets_small, pets_middle]
aggregate_metric_list: [{metric: acc, weight_by_size: false}]
""",
    "pets_outer": """
group: pets_outer
task: [pets_inner, pets_large]
aggregate_metric_list: [{metric: acc, weight_by_size: true}, {metric: acc_norm, weight_by_size: false}]
""",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Configs of four tasks of different sizes, two of which have a tag, and of nested groups."""
    for name, size in SIZES.items():
        tag = "tag: pets_tagged\n" if name in ("pets_small", "pets_alone") else ""
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, folder=tmp_path, tag=tag))
        rows = [json.dumps({"word": word, "gold": number % 2}) for number, word in enumerate(WORDS[:size])]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    for name, text in GROUPS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def compare(output, tasks, *extra):
    model_args = ",".join(f"{name}={value}" for name, value in MODEL_ARGS.items())
    arguments = ["compare", "--tasks", tasks, "--device", "cpu", "--batch-size", "16", "--model-args", model_args]
    return CliRunner().invoke(cli.app, [*arguments, "--output", str(output), *extra], catch_exceptions=False).output


def results_of(output):
    """(task, whether heads are calibrated) of every results file, and its content."""
    contents = [json.loads(file.read_text()) for file in output.rglob("results_*.json")]
    return {(*content["configs"], content["config"]["act"]["num_heads"] > 0): content for content in contents}


def averages(output):
    """Baseline and ACT by group and metric, as the report has them."""
    table = pd.read_csv(output / "groups.csv")
    return {(row["group"], row["metric"]): (row["baseline"], row["act"]) for row in table.to_dict("records")}


def evaluate(tasks, manager, **options):
    """What lm-eval gives for tasks and groups: baseline and ACT."""
    sides = [ACTLM(**{**MODEL_ARGS, "act_profile": profile}, batch_size=16) for profile in ("none", "all")]
    return [simple_evaluate(model=lm, tasks=[tasks], task_manager=manager, bootstrap_iters=0, **options) for lm in sides]


def assert_equal_to_lm_evals(output, sides, groups):
    """Scores of all groups and metrics that lm-eval gives.

    A report averages the same tasks once, under the first group's name, and does not repeat the score of a single task.
    """
    found, compared = averages(output), 0
    results = [side["results"] for side in sides]
    for group in groups:
        for key, score in results[0][group].items():
            metric, comma, _ = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            tasks = {name: {task for task in groups[name].tasks if key in results[0][task]} for name in groups}
            names = [name for name in groups if tasks[name] == tasks[group] and (name, metric) in found]
            if len(tasks[group]) > 1:
                assert found[names[0], metric] == pytest.approx((score, results[1][group][key]), abs=1e-12)
                compared += 1
    assert compared


@pytest.mark.tier("slow")
def test_nested_groups_and_tags(folder, tmp_path):
    output = tmp_path / "output"
    text = compare(output, "pets_outer,pets_tagged", "--include-path", str(folder))
    assert "[8/8] pets_alone, baseline" in text
    assert set(results_of(output)) == {(task, side) for task in SIZES for side in (True, False)}
    manager = task_manager(["pets_outer"], str(folder))
    sides = evaluate("pets_outer", manager)
    assert_equal_to_lm_evals(output, sides, load_for_evaluation(["pets_outer"], manager).groups)
    for task in ("pets_small", "pets_middle", "pets_large"):
        for side, calibrated in zip(sides, (False, True), strict=True):
            ours, lm_evals = results_of(output)[task, calibrated]["results"][task], side["results"][task]
            assert ours["acc,none"] == lm_evals["acc,none"]
    table = pd.read_csv(output / "groups.csv").set_index(["group", "metric"])
    assert table["weighted_by_size"].to_dict() == {
        ("all tasks", "acc"): False,
        ("all tasks", "acc_norm"): False,
        ("pets_inner", "acc"): False,
        ("pets_inner", "acc_norm"): False,
        ("pets_outer", "acc"): True,
        ("pets_outer", "acc_norm"): False,
    }
    assert "8 of 8 runs are finished" in compare(output, "pets_small,pets_outer,pets_alone", "--include-path", str(folder))


@pytest.mark.tier("slow")
def test_weights_of_results_that_lm_eval_wrote(folder, tmp_path):
    """Its files do not say how it averages, but hold the averages."""
    (results, _) = evaluate("pets_outer", task_manager(["pets_outer"], str(folder)), log_samples=True)
    tracker = EvaluationTracker(output_path=str(tmp_path / "output"))
    tracker.general_config_tracker.model_name_sanitized = "model"
    tracker.save_results_aggregated(results=results, samples=results.pop("samples"))
    groups = load([tmp_path / "output"]).groups
    assert groups["pets_outer"].weighted_by_size == ("acc",)
    assert groups["pets_inner"].weighted_by_size == ()
    assert set(groups["pets_outer"].tasks) == {"pets_small", "pets_middle", "pets_large"}


@pytest.mark.tier("slow")
@pytest.mark.parametrize("group", ["mmlu", "act_17"])
def test_groups_of_real_rows(group, test_data, tmp_path, monkeypatch):
    monkeypatch.chdir(test_data / "hub")
    limit = 1 if group == "mmlu" else 2
    compare(tmp_path, group, "--limit", str(limit))
    manager = task_manager([group])
    names = load_for_evaluation([group], manager).groups
    assert len(names) > 2
    assert_equal_to_lm_evals(tmp_path, evaluate(group, manager, limit=limit), names)


@pytest.mark.tier("unit")
def test_groups_are_kept_beside_each_other(tmp_path):
    first, second = {"a": TaskGroup(("x", "y"), ("acc",))}, {"b": TaskGroup(("z",)), "a": TaskGroup(("x",))}
    add_groups({}, tmp_path)
    assert not list(tmp_path.iterdir())
    add_groups(first, tmp_path)
    assert read_groups(tmp_path / GROUPS_FILE) == first
    add_groups(second, tmp_path)
    assert read_groups(tmp_path / GROUPS_FILE) == second
