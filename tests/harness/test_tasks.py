"""The paper's datasets as lm-eval tasks: prompts, gold answers, metrics, and what is said when a dataset is missing."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.models import GOLDEN
from helpers.own_tasks import leave_out_lm_evals_tasks
from helpers.processes import LM_EVAL, run_program
from lm_eval.api.samplers import get_sampler
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.harness.settings import PromptSettings
from act_eval.harness.tasks import (
    TaskError,
    check_enough_documents,
    describe_tasks,
    explained_dataset_errors,
    load_for_evaluation,
    project_tasks,
    tasks_path,
)

pytestmark = pytest.mark.tier("unit")

COPIED_ROWS = Path(__file__).parents[1] / "hub"
PUBLISHED = json.loads((GOLDEN / "prompts.json").read_text())
LETTERS = "ABCDE"
QA = ("act_squad_v1", "act_squad_v2")
TREC_WORDS = {
    "ABBR": " Expression",
    "DESC": " Description",
    "ENTY": " Entity",
    "HUM": " Person",
    "LOC": " Location",
    "NUM": " Number",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """datasets' cache does not see that a local file has changed."""
    cache = tmp_path_factory.mktemp("datasets-cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))


@pytest.fixture(params=["copied rows", "hub"])
def row_numbers(request, monkeypatch):
    """Runs a test in a folder with datasets; gives where a row of the published prompts is there."""
    if request.param == "hub":
        monkeypatch.chdir(request.getfixturevalue("test_data") / "hub")
        return lambda row, rows: row
    monkeypatch.chdir(COPIED_ROWS)
    return lambda row, rows: sorted(set(rows)).index(row)


@pytest.fixture
def copied_rows(monkeypatch):
    monkeypatch.chdir(COPIED_ROWS)


def load(name):
    return project_tasks().load([name])["tasks"][name]


def requests(task, document, num_fewshot=0):
    """(context, continuation) of each choice, as logged samples show them."""
    context = task.fewshot_context(document, num_fewshot)
    return [instance.args for instance in task.construct_requests(document, context)]


@pytest.mark.tier("slow")
class TestPublishedPrompts:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_prompts_and_gold_labels(self, name, row_numbers):
        published, task = PUBLISHED[name], load(name)
        train, evaluated = task.training_docs(), task.eval_docs
        rows = [case["row"] for case in published["cases"]]
        shots = [row for case in published["cases"] for row in case["shots"]]
        for case in published["cases"]:
            document = evaluated[row_numbers(case["row"], rows)]
            examples = [train[row_numbers(row, shots)] for row in case["shots"]]
            task.sampler = get_sampler("first_n")(examples)
            prompt, label = case["prompt"], case["label"]
            if name == "act_trec":
                prompt, label = self.trec_with_the_right_words(case, examples, document)
            choices = published.get("label_choices") or [f" {letter}" for letter in LETTERS[: len(document["options"])]]
            assert requests(task, document, len(examples)) == [(prompt, choice) for choice in choices]
            assert task.doc_to_target(document) == label

    @staticmethod
    def trec_with_the_right_words(case, examples, document):
        """The published code pairs integer labels in the dataset's order with words in another order."""
        published_words = PUBLISHED["act_trec"]["label_choices"]
        integer_labels = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
        assert integer_labels[case["label"]] == document["label_coarse_original"]
        head, *shots, question = case["prompt"].split("\n\n")
        for index, example in enumerate(examples):
            coarse = example["label_coarse_original"]
            wrong = published_words[integer_labels.index(coarse)]
            assert shots[index].endswith(f"Type: {wrong}")
            shots[index] = shots[index].removesuffix(wrong) + TREC_WORDS[coarse]
        right = published_words.index(TREC_WORDS[document["label_coarse_original"]])
        return "\n\n".join([head, *shots, question]), right

    @pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "act_trec"])
    def test_data_sources_and_splits_are_the_published_ones(self, name):
        (described,) = [task for task in describe_tasks()[0] if task.name == name]
        published = PUBLISHED[name]
        assert described.dataset == " ".join(filter(None, [published["hub_id"], published["config"]]))
        assert (described.evaluation_split, described.fewshot_split) == (published["eval_split"], published["train_split"])

    def test_every_trec_class_is_scored_against_its_own_word(self, copied_rows):
        task = load("act_trec")
        for coarse, word in TREC_WORDS.items():
            document = {"text": "Why ?", "label_coarse_original": coarse}
            assert task.doc_to_choice(document)[task.doc_to_target(document)] == word

    def test_few_shot_examples_are_sampled_from_the_train_split(self, row_numbers):
        task = load("act_cb")
        train = {row["premise"] for row in task.dataset["train"]}
        task.set_fewshot_seed(42)
        context, _ = requests(task, task.eval_docs[0], num_fewshot=2)[0]
        assert sum(f"Premise: {premise} Hypothesis" in context for premise in train) == 2
        task.set_fewshot_seed(42)
        assert requests(task, task.eval_docs[0], num_fewshot=2)[0][0] == context


class TestMultipleChoice:
    @pytest.mark.parametrize("name", ["act_arc_easy", "act_arc_challenge"])
    def test_arc_with_other_numbers_and_labels_of_options(self, name, copied_rows):
        task = load(name)
        special = [task.eval_docs[index] for index in range(4, 7)]
        assert {(len(doc["choices"]["label"]), doc["choices"]["label"][0]) for doc in special} == {(4, "1"), (3, "A"), (5, "A")}
        for document in special:
            texts = document["choices"]["text"]
            context, _ = requests(task, document)[0]
            listed = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
            assert context.endswith("\n".join([document["question"], *listed, "Answer:"]))
            assert [continuation for _, continuation in requests(task, document)] == [f" {x}" for x in LETTERS[: len(texts)]]
            right = texts[document["choices"]["label"].index(document["answerKey"])]
            assert texts[task.doc_to_target(document)] == right

    @pytest.mark.parametrize(
        ("results", "expected"),
        [
            ([(-2.0, False), (-1.0, True)], {"acc": 1.0, "greedy_acc": 1.0}),
            ([(-2.0, False), (-1.0, False)], {"acc": 1.0, "greedy_acc": 0.0}),
            ([(-1.0, True), (-2.0, False)], {"acc": 0.0, "greedy_acc": 0.0}),
        ],
    )
    def test_acc_and_greedy_acc(self, results, expected, copied_rows):
        task = load("act_copa")
        document = next(document for document in task.eval_docs if document["label"] == 1)
        assert task.process_results(document, results) == expected

    def test_mmlu_counts_as_one_dataset_and_draws_examples_of_the_subject(self, copied_rows):
        task = load("act_mmlu")
        for document in task.eval_docs:
            subject = document["subject"].replace("_", " ")
            context, _ = requests(task, document, num_fewshot=2)[0]
            assert context.startswith(f"The following are multiple choice questions (with answers) about {subject}.\n\n")
            examples = [example for example in task.dataset["dev"] if example["subject"] == document["subject"]][:2]
            positions = [context.index(example["question"].strip()) for example in examples]
            assert positions == sorted(positions)
            assert context.count("Answer: ") == 2
        with pytest.raises(ValueError, match="MMLU has 5 examples of anatomy: --num_fewshot 6 is too many"):
            requests(task, task.eval_docs[0], num_fewshot=6)

    @pytest.mark.tier("slow")
    @pytest.mark.parametrize("num_fewshot", [0, 5])
    def test_mmlu_prompts_are_lm_evals(self, num_fewshot, test_data, lm_eval_tasks, monkeypatch):
        monkeypatch.chdir(test_data / "hub")
        ours, theirs = load("act_mmlu"), lm_eval_tasks.load(["mmlu_anatomy"])["tasks"]["mmlu_anatomy"]
        documents = [document for document in ours.eval_docs if document["subject"] == "anatomy"]
        assert len(documents) == len(theirs.eval_docs) == 20
        for our_document, their_document in zip(documents, theirs.eval_docs, strict=True):
            assert requests(ours, our_document, num_fewshot) == requests(theirs, their_document, num_fewshot)
            assert ours.doc_to_target(our_document) == theirs.doc_to_target(their_document)


class TestGroups:
    def test_members(self, copied_rows):
        groups = project_tasks().load(["act_17", "act_qa"])["groups"]
        sizes = {name: len(group.get_all_tasks()) for name, group in groups.items()}
        assert sizes == {"act_17": 17, "act_classification": 9, "act_multiple_choice": 8, "act_qa": 2}

    def test_macro_averages_weigh_datasets_equally(self, copied_rows):
        loaded = project_tasks().load(["act_17"])
        metrics = {
            name: {"acc,none": index / 20, "greedy_acc,none": 0.5, "sample_len": 10**index}
            for index, name in enumerate(sorted(loaded["tasks"]))
        }
        for group in loaded["groups"].values():
            members = [metrics[task.task_name]["acc,none"] for task in group.get_all_tasks()]
            assert group.aggregate(metrics)["acc,none"] == pytest.approx(np.mean(members))

    def test_training_documents_are_there_for_the_head_search(self, copied_rows):
        for name, task in project_tasks().load(["act_17", "act_qa"])["tasks"].items():
            assert task.config.training_split not in (task.config.validation_split if task.config.test_split is None else None,)
            assert task.config.training_split != task.config.test_split
            document = task.training_docs()[0]
            assert task.doc_to_text(document), name
            assert task.doc_to_target(document) is not None


@pytest.mark.tier("slow")
class TestSquad:
    @pytest.mark.parametrize(
        ("prediction", "golds", "exact_match", "f1"),
        [
            ("Denver Broncos", ["Denver Broncos", "Broncos"], 1, 1),
            ("the denver broncos.", ["Denver Broncos"], 1, 1),
            ("a  Broncos", ["The Broncos!"], 1, 1),
            ("Broncos", ["Denver Broncos", "The team"], 0, 2 / 3),
            ("Carolina Panthers", ["Denver Broncos"], 0, 0),
            ("1930", ["1930s", "in 1930"], 0, 2 / 3),
            ("the the Denver Denver", ["Denver Denver Broncos"], 0, 4 / 5),
            ("U.S.A.", ["USA"], 1, 1),
            ("theatre", ["the atre"], 0, 0),
            ("", ["Denver"], 0, 0),
            ("unanswerable", ["Denver"], 0, 0),
            ("unanswerable", [], 1, 1),
            ("Unanswerable.", [], 1, 1),
            ("", [], 1, 1),
            ("Denver", [], 0, 0),
            ("the", ["The", "Denver"], 0, 0),
            ("Caf\u00e9  Paris", ["caf\u00e9 paris"], 1, 1),
        ],
    )
    def test_metrics(self, prediction, golds, exact_match, f1, copied_rows):
        document = {"answers": {"text": golds, "answer_start": [0] * len(golds)}}
        scores = load("act_squad_v2").process_results(document, [prediction])
        assert scores == {"exact_match": exact_match, "f1": pytest.approx(f1)}

    @pytest.mark.parametrize("name", QA)
    def test_prompts(self, name, copied_rows):
        task = load(name)
        document = task.eval_docs[0]
        task.set_fewshot_seed(0)
        instance = task.construct_requests(document, task.fewshot_context(document, 1))
        context, generation = instance.args
        assert context.endswith(f"\n\nBackground: {document['context']}\n\nQuestion: {document['question']}\n\nAnswer:")
        assert context.count("Background: ") == 2
        assert generation == {"until": ["\n"], "do_sample": False, "max_gen_toks": 64}
        assert ("unanswerable" in context) == (name == "act_squad_v2")

    def test_unanswerable_questions_have_a_target(self, copied_rows):
        task = load("act_squad_v2")
        targets = [task.doc_to_target(document) for document in task.eval_docs]
        assert targets[0] == task.eval_docs[0]["answers"]["text"][0]
        assert targets[1] == "unanswerable"


class TestDatasetErrors:
    def test_missing_dataset(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with (
            pytest.raises(
                TaskError, match=r"dataset aps/super_glue copa of task act_copa cannot be loaded .* folder that holds"
            ),
            explained_dataset_errors(),
        ):
            load("act_copa")

    def test_in_a_group_the_dataset_is_named(self, tmp_path, monkeypatch):
        shutil.copytree(COPIED_ROWS, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "SetFit" / "TREC-QC")
        monkeypatch.chdir(tmp_path)
        named = "dataset SetFit/TREC-QC of task act_trec cannot be loaded"
        with pytest.raises(TaskError, match=named), explained_dataset_errors():
            project_tasks().load(["act_17"])

    @pytest.mark.parametrize(
        ("name", "folder", "column"),
        [
            ("act_sst2", "nyu-mll/glue/sst2", "sentence"),
            ("act_piqa", "baber/piqa", "goal"),
            ("act_cb", "aps/super_glue/cb", "label"),
        ],
    )
    def test_missing_column(self, name, folder, column, tmp_path, monkeypatch):
        shutil.copytree(COPIED_ROWS, tmp_path, dirs_exist_ok=True)
        for file in (tmp_path / folder).glob("*.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            renamed = [{f"{key}_old" if key == column else key: value for key, value in row.items()} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in renamed))
        monkeypatch.chdir(tmp_path)
        named = rf"what task {name} needs \(.*{column}.*\): it has .*{column}_old"
        with pytest.raises(TaskError, match=named) as caught, explained_dataset_errors():
            load(name)
        assert "\n" not in str(caught.value)

    def test_missing_split(self, tmp_path, monkeypatch):
        shutil.copytree(COPIED_ROWS, tmp_path, dirs_exist_ok=True)
        readme = tmp_path / "baber" / "piqa" / "README.md"
        readme.write_text(readme.read_text().replace("validation\n", "dev\n"))
        monkeypatch.chdir(tmp_path)
        with (
            pytest.raises(
                TaskError, match=r"baber/piqa does not have what task act_piqa needs .*validation.*splits and columns dev"
            ),
            explained_dataset_errors(),
        ):
            load("act_piqa")

    def test_other_errors_pass_unchanged(self):
        with pytest.raises(ZeroDivisionError), explained_dataset_errors():
            print(1 / 0)

    @pytest.mark.parametrize(
        "command",
        [
            ["tasks", "act_copa"],
            ["compare", "--tasks", "act_copa", "--output", "x", "--model-args", "act_profile=all"],
        ],
    )
    def test_on_the_command_line_before_the_model_is_loaded(self, command, tmp_path, monkeypatch):
        from act_eval.harness.lm import ACTLM

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
        result = CliRunner().invoke(cli.app, command)
        assert isinstance(result.exception, TaskError)

    @pytest.mark.tier("process")
    def test_in_lm_eval_itself(self, tmp_path):
        command = ["run", "--tasks", "act_copa", "--limit", "2"]
        result = run_program(*command, cwd=tmp_path, prepare=leave_out_lm_evals_tasks)
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith("act-eval: the dataset aps/super_glue copa of task act_copa")
        assert "Traceback" not in result.stderr


class TestCommandLine:
    def test_list_names_every_task_and_group(self):
        output = CliRunner().invoke(cli.app, ["tasks"]).output
        manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
        assert len(manager.all_subtasks) == 22
        for name in (*manager.all_subtasks, *(f"group {group}:" for group in manager.all_groups)):
            assert name in output
        assert "7,600 test" in " ".join(output.split())

    def test_one_task_shows_its_prompt(self, copied_rows):
        result = CliRunner().invoke(cli.app, ["tasks", "act_trec"])
        assert result.stdout.startswith(PUBLISHED["act_trec"]["instruction"])
        assert result.stdout.endswith("answer:  ' Number'\n")

    def test_unknown_task(self):
        result = CliRunner().invoke(cli.app, ["tasks", "act_coap"])
        assert isinstance(result.exception, TaskError)
        assert "act_copa" in str(result.exception)

    @pytest.mark.tier("process")
    def test_lm_eval_validates_every_task(self):
        names = ",".join([*project_tasks().all_subtasks, *project_tasks().all_groups])
        command = ["validate", "--tasks", names, "--include_path", str(tasks_path())]
        result = run_program(*command, prepare=leave_out_lm_evals_tasks, program=LM_EVAL)
        assert result.returncode == 0, result.stderr
        assert "All tasks found and valid" in result.stdout

    @pytest.mark.tier("process")
    def test_every_task_runs_on_a_real_model(self, test_data, tmp_path):
        arguments = [
            *("--model", "act-hf", "--model_args", f"pretrained={test_data / 'models' / 'stories260K'},act_profile=all"),
            *("--tasks", "act_17,act_qa", "--include_path", str(tasks_path()), "--limit", "20", "--batch_size", "20"),
            *("--device", "cpu", "--output_path", str(tmp_path)),
        ]
        command = [sys.executable, "-m", "lm_eval", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=test_data / "hub")
        assert result.returncode == 0, result.stderr[-3000:]
        (file,) = tmp_path.rglob("results_*.json")
        scores = json.loads(file.read_text())["results"]
        expected = {*PUBLISHED, *QA, "act_mmlu", "act_17", "act_classification", "act_multiple_choice", "act_qa"}
        assert set(scores) == expected
        for name, metrics in scores.items():
            values = [value for key, value in metrics.items() if key.endswith(",none") and isinstance(value, float)]
            assert values, name
            assert all(math.isfinite(value) for value in values), name


TOPIC = {"demo_topic": [7, 3, 3]}


@pytest.mark.parametrize("name", ["demo_topic", "act_demo"])
@pytest.mark.parametrize(
    ("limit", "samples", "processes", "number"),
    [
        (1, None, 2, 1),
        (0.001, None, 2, 1),
        (None, None, 501, 500),
        (None, TOPIC, 3, 2),
        (None, TOPIC, 2, None),
        (2, None, 2, None),
        (None, None, 2, None),
        (1, None, 1, None),
    ],
)
def test_every_process_needs_a_document(demo_tasks, name, limit, samples, processes, number):
    prompts = PromptSettings((name,), limit=limit, samples=samples)
    asked = [(task, prompts) for task in load_for_evaluation([name], demo_tasks).tasks.values()]
    if number is None:
        check_enough_documents(asked, processes)
    else:
        with pytest.raises(TaskError, match=f"{processes} processes cannot share .* of which {number} are asked for"):
            check_enough_documents(asked, processes)
