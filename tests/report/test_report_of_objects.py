"""The report on what lm-eval writes of ready Python objects, whose models no argument names."""

import json

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.report.build import make_report
from act_eval.report.load import ReportError
from act_eval.report.machine_readable import to_json
from act_eval.report.tables import markdown

pytestmark = pytest.mark.tier("slow")

TASKS = ["demo_topic", "demo_choice"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_PATH)


def evaluate(lm, folder, manager, **arguments):
    """Evaluate as lm-eval's documentation does in Python, and return the name that lm-eval made up."""
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=lm, tasks=TASKS, limit=4, evaluation_tracker=tracker, task_manager=manager, bootstrap_iters=0, **arguments
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    return tracker.general_config_tracker.model_name


def without_what_ran(folder):
    """The folder, after what act-hf recorded was taken away, as in files from before it did."""
    for file in folder.rglob("results_*.json"):
        results = json.loads(file.read_text())
        results["config"].pop("what_ran", None)
        file.write_text(json.dumps(results))
    return folder


def test_the_same_model_is_paired_under_its_own_name(tmp_path, demo_tasks, tokenizer):
    model = small_model(tokenizer)
    made_up = {
        evaluate(HFLM(pretrained=model, tokenizer=tokenizer), tmp_path, demo_tasks),
        evaluate(ACTLM(pretrained=model, tokenizer=tokenizer, act_profile="all", act_beta=0), tmp_path, demo_tasks),
    }
    for folder in (tmp_path, without_what_ran(tmp_path)):
        report = make_report([folder])
        assert sorted(report.comparison["task"]) == sorted(TASKS)
        assert report.comparison["paired"].all()
        assert set(report.comparison["model"]) == {"some/model"}
        assert not any(name in markdown(report) for name in made_up)


def test_models_of_two_names_are_not_paired(tmp_path, demo_tasks, tokenizer):
    """lm-eval seeds Python's random numbers, and may give both the same made-up name."""
    made_up = {
        evaluate(HFLM(pretrained=small_model(tokenizer), tokenizer=tokenizer), tmp_path, demo_tasks),
        evaluate(ACTLM(device="cpu", act_profile="all"), tmp_path, demo_tasks),
    }
    for folder in (tmp_path, without_what_ran(tmp_path)):
        with pytest.raises(ReportError, match="no baseline of the same model") as refusal:
            make_report([folder])
        assert "some/model" in str(refusal.value)
        assert not any(name in str(refusal.value) for name in made_up)


def test_models_of_one_name_are_not_paired(tmp_path, demo_tasks, tokenizer):
    one, other = small_model(tokenizer), small_model(tokenizer, layers=3)
    evaluate(HFLM(pretrained=one, tokenizer=tokenizer), tmp_path, demo_tasks)
    evaluate(ACTLM(pretrained=other, tokenizer=tokenizer, act_profile="all"), tmp_path, demo_tasks)
    values = f"{one.num_parameters()}; {other.num_parameters()}"
    for folder in (tmp_path, without_what_ran(tmp_path)):
        with pytest.raises(ReportError, match=rf"ran with different model_num_parameters \({values}\): run both again"):
            make_report([folder])


def test_the_embedded_model_is_called_what_it_is(tmp_path, demo_tasks):
    """`--model act-hf` without pretrained=: no argument names a model."""
    for profile in ("none", "all"):
        evaluate("act-hf", tmp_path, demo_tasks, model_args={"act_profile": profile}, device="cpu", batch_size=8)
    report = make_report([tmp_path])
    (name,) = set(report.comparison["model"])
    assert name in ("act-eval-demo", "act-hf"), "what act-hf recorded, or the kind of model"
    assert json.loads(to_json(report))["comparison"][0]["model"] == name


def small_model(tokenizer, layers=2):
    """Random weights for the embedded model's tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    model.config._name_or_path = "some/model"
    return model
