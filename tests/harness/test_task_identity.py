"""What a task asks: documents that are asked count, and no others."""

import hashlib
import runpy
from pathlib import Path

import pytest

from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.harness.task_identity import describe_task
from act_eval.harness.tasks import evaluated_documents, load_tasks

pytestmark = pytest.mark.tier("unit")

TASK = "demo_topic"


def described(demo_tasks, changed=None, **prompts):
    """The description of a task of which one document may be another one."""
    task = load_tasks(TASK, demo_tasks)[TASK]
    if changed is not None:
        split = task.dataset["test"]
        others = split.map(lambda row, number: {"article": "Rain." if number == changed else row["article"]}, with_indices=True)
        task.dataset["test"] = others
    return describe_task(task, PromptSettings((TASK,), **prompts), ModelSettings())


@pytest.mark.parametrize(
    ("prompts", "asked"),
    [({"limit": 3}, (0, 1, 2)), ({"limit": 0.01}, (0, 1, 2, 3, 4)), ({"samples": {TASK: [2, 7]}}, (2, 7))],
    ids=["limit", "share", "samples"],
)
def test_only_documents_that_are_asked_count(demo_tasks, prompts, asked):
    task = load_tasks(TASK, demo_tasks)[TASK]
    assert tuple(evaluated_documents(task, PromptSettings((TASK,), **prompts))) == asked
    as_it_is = described(demo_tasks, **prompts)
    assert as_it_is == described(demo_tasks, **prompts)
    for number in (*asked, 400):
        assert (described(demo_tasks, number, **prompts) == as_it_is) == (number not in asked)


def test_without_a_limit_all_count(demo_tasks):
    assert described(demo_tasks) != described(demo_tasks, 499)
    assert described(demo_tasks) == described(demo_tasks, limit=500) == described(demo_tasks, limit=1000)


def code_with(demo_tasks, folder, process, aggregate):
    """The digests of code of a task with functions of two files that are both called utils.py, in a folder and below it."""
    task = load_tasks(TASK, demo_tasks)[TASK]
    for name, place, text in (("doc_to_choice", folder, process), ("process_results", folder / "sub", aggregate)):
        place.mkdir(parents=True, exist_ok=True)
        (place / "utils.py").write_text(f"def {name}(*documents):\n    return documents\n# {text}\n")
        setattr(task.config, name, runpy.run_path(str(place / "utils.py"))[name])
    return describe_task(task, PromptSettings((TASK,)), ModelSettings())["code"]


def test_all_files_of_the_same_name_count_wherever_they_lie(demo_tasks, tmp_path):
    code = code_with(demo_tasks, tmp_path / "here", "one", "another")
    assert code == code_with(demo_tasks, tmp_path / "moved", "one", "another")
    assert code != code_with(demo_tasks, tmp_path / "changed", "one", "changed")
    assert code != code_with(demo_tasks, tmp_path / "changed too", "changed", "another")


def test_a_file_alone_has_its_own_digest(demo_tasks):
    """As results of finished runs have it."""
    task = load_tasks(TASK, demo_tasks)[TASK]
    task.config.process_results = described
    file = Path(__file__)
    code = describe_task(task, PromptSettings((TASK,)), ModelSettings())["code"]
    assert code[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
