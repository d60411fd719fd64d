"""The report on what lm-eval writes: of ready Python objects, of perplexities, of predictions alone."""

import json

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from act_eval.demo import MODEL_PATH
from act_eval.harness.lm import ACTLM
from act_eval.report.build import make_report
from act_eval.report.load import ReportError
from act_eval.report.machine_readable import to_json
from act_eval.report.tables import markdown
from act_eval.report.write import write_report

pytestmark = pytest.mark.tier("slow")

TASKS = ["demo_topic", "demo_choice"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_PATH)


def evaluate(lm, folder, manager, tasks=TASKS, **arguments):
    """Evaluate as lm-eval's documentation does in Python, and return the name that lm-eval made up."""
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=lm, tasks=tasks, limit=4, evaluation_tracker=tracker, task_manager=manager, bootstrap_iters=0, **arguments
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


DATASET = """
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
metadata: {version: 1.0}
"""
OWN_TASKS = {
    "texts": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "last_word": """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' ' + text.split(' ')[-1]}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}, {metric: acc}]
""",
    "judgements": """
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_target: label
doc_to_choice: ["good", "bad"]
metric_list: [{metric: mcc}, {metric: brier_score}]
""",
    "copies": """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: bleu}, {metric: chrf}, {metric: ter}]
""",
}


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory):
    """Tasks with lm-eval's metrics that are no means of numbers."""
    folder = tmp_path_factory.mktemp("tasks")
    texts = (
        "The cook has a new soup.",
        "The ball came before the team. The league has a new drum.",
        "A choir.",
        "Nobody came.",
    )
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": text, "label": len(text) % 2}) + "\n" for text in texts))
    for name, config in OWN_TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}{config}{DATASET % documents}")
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_scores_that_are_no_means(tmp_path, own_tasks, tokenizer):
    """Every score of the report is lm-eval's own; those of log-likelihoods are paired."""
    model = small_model(tokenizer)
    lms = [
        HFLM(pretrained=model, tokenizer=tokenizer),
        ACTLM(pretrained=model, tokenizer=tokenizer, act_profile="all", act_threshold=0.01, act_beta=0),
    ]
    for lm in lms:
        evaluate(lm, tmp_path, own_tasks, list(OWN_TASKS))
    scores = {"baseline": {}, "act": {}}
    for file in tmp_path.rglob("results_*.json"):
        results = json.loads(file.read_text())
        of_side = scores["act" if "act" in results["config"] else "baseline"]
        for task, values in results["results"].items():
            of_side |= {(task, key.split(",")[0]): value for key, value in values.items() if key.endswith(",none")}
    report = make_report([tmp_path])
    rows = report.comparison.set_index(["task", "metric"])
    for side in scores:
        of_side = {key: value for key, value in scores[side].items() if not key[1].endswith("_stderr")}
        assert rows[side].to_dict() == pytest.approx(of_side, rel=1e-12)
    paired = {("texts", metric) for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")}
    paired |= {("last_word", metric) for metric in ("perplexity", "acc")}
    assert {key for key, is_paired in rows["paired"].items() if is_paired} == paired
    assert not rows.loc["texts", "higher_is_better"].any()
    assert (rows.loc["texts", "delta"] != 0).all()
    assert report.notes == ()
    assert len(report.unpaired_notes) == 2
    write_report(report, tmp_path / "report")


def test_predictions_alone(tmp_path, own_tasks, demo_tasks, tokenizer):
    lm = HFLM(pretrained=small_model(tokenizer), tokenizer=tokenizer)
    evaluate(lm, tmp_path, demo_tasks, ["demo_topic"], predict_only=True)
    evaluate(lm, tmp_path, own_tasks, ["copies"], predict_only=True)
    with pytest.raises(ReportError) as refusal:
        make_report([tmp_path])
    notes = str(refusal.value).splitlines()[1:]
    assert [note.split()[0] for note in notes] == ["demo_topic", "copies"]
    assert all("was made with --predict_only and has no scores: run it without." in note for note in notes)


def small_model(tokenizer, layers=2):
    """Random weights for the embedded model's tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    model.config._name_or_path = "some/model"
    return model
