"""The embedded model and its tasks: what they promise, measured."""

import pytest
import torch
from helpers.thorough import THOROUGH
from lm_eval import simple_evaluate
from transformers import AutoModelForCausalLM, AutoTokenizer

from act_eval.demo import MODEL_PATH, corpus
from act_eval.demo.sinks import share_of_documents_with_sinks
from act_eval.harness.lm import ACTLM

pytestmark = pytest.mark.tier("model")

CHANCE = {"sentiment": 0.5, "topic": 0.25, "choice": 0.25}


@pytest.fixture(scope="module")
def lm():
    return ACTLM(act_profile="none", device="cpu", batch_size=32)


def evaluate(lm, tasks, manager, **options):
    return simple_evaluate(model=lm, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options)


def test_small():
    model = AutoModelForCausalLM.from_pretrained(MODEL_PATH)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000
    assert model.dtype == torch.float16
    assert sum(file.stat().st_size for file in MODEL_PATH.iterdir()) <= 6 * 2**20


@pytest.mark.parametrize("text", ["The dog is an animal.\n", "Ünïcode, 漢字 and  two spaces", "A\n\nB"])
def test_tokenizer_round_trip(text):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_PATH)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("task", corpus.TASKS)
def test_documents_are_reproducible_and_disjoint(task):
    train, test = (corpus.documents(task, split) for split in ("train", "test"))
    assert len(train) == len(test) == 500
    corpus._drawn.cache_clear()
    assert corpus.documents(task, "test") == test
    assert not {str(doc) for doc in train} & {str(doc) for doc in test}
    labels = [doc["label"] for doc in test]
    assert min(map(labels.count, range(round(1 / CHANCE[task])))) > 500 * CHANCE[task] / 2


@pytest.mark.tier("slow")
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("task", corpus.TASKS)
def test_lm_eval_renders_the_prompts_of_training(task, shots, lm, demo_tasks):
    name = f"demo_{task}"
    samples = evaluate(lm, [name], demo_tasks, limit=5, num_fewshot=shots)["samples"][name]
    train = {corpus.prompt(task, doc) + corpus.answer(task, doc) for doc in corpus.documents(task, "train")}
    for sample, doc in zip(samples, corpus.documents(task, "test"), strict=False):
        prompt = sample["arguments"][0][0]
        solved = prompt.removeprefix(corpus.INSTRUCTIONS[task]).removesuffix(corpus.prompt(task, doc))
        assert prompt == corpus.INSTRUCTIONS[task] + solved + corpus.prompt(task, doc)
        examples = solved.split(corpus.FEWSHOT_DELIMITER)[:-1] if shots else []
        assert len(examples) == shots
        assert set(examples) <= train
        assert [arguments[1] for arguments in sample["arguments"]] == [f" {choice}" for choice in corpus.choices(task, doc)]
        assert sample["target"] == doc["label"]


@pytest.fixture(scope="module")
def evaluated(lm, demo_tasks):
    """lm-eval's answers for many test documents of each task, for all of them where tests are thorough."""
    return evaluate(lm, ["act_demo"], demo_tasks, limit=None if THOROUGH else 150)


@pytest.mark.tier("slow")
def test_clearly_above_chance_and_below_perfect(evaluated):
    results = evaluated["results"]
    for task, chance in CHANCE.items():
        assert chance + 0.15 < results[f"demo_{task}"]["acc,none"] < 0.995
    assert results["act_demo"]["acc,none"] == pytest.approx(sum(results[f"demo_{task}"]["acc,none"] for task in CHANCE) / 3)


@pytest.mark.tier("slow")
def test_sinks_in_the_middle():
    """With the paper's alpha, half of the heads have a sink beyond the first token in most documents."""
    assert (share_of_documents_with_sinks(alpha=5) > 0.5).sum() >= 16


@pytest.mark.tier("slow")
def test_act_moves_answers(evaluated, demo_tasks):
    calibrated = ACTLM(act_profile="all", act_alpha=5, device="cpu", batch_size=32)
    names = [f"demo_{task}" for task in corpus.TASKS]
    before, after = evaluated["samples"], evaluate(calibrated, names, demo_tasks, limit=50)["samples"]
    flipped = 0
    for name in names:
        baseline = {sample["doc_id"]: sample["acc"] for sample in before[name]}
        flipped += sum(sample["acc"] != baseline[sample["doc_id"]] for sample in after[name])
    assert flipped > 0
