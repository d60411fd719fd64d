"""The settings that all features share: what is refused, what files record, and what a model is asked."""

import pytest
from lm_eval import simple_evaluate

from act_eval.errors import SettingError
from act_eval.harness.documents import draw_evaluation_documents, render
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings, check_evaluation_batch_size
from act_eval.harness.tasks import load_tasks

pytestmark = pytest.mark.tier("model")


@pytest.mark.parametrize("batch_size", [0, -1, "0", "auto", "auto:4", "two"])
def test_a_batch_size_that_is_no_number_of_rows(batch_size):
    with pytest.raises(SettingError, match="batch_size"):
        ModelSettings(batch_size=batch_size).whole_batch_size()


@pytest.mark.parametrize("limit", [0, 0.5, -3, 1.5, float("inf"), float("nan")])
def test_a_limit_that_is_no_number_of_documents(limit):
    with pytest.raises(SettingError, match=f"limit must be at least 1 document, and a whole number, not {limit}"):
        PromptSettings(("demo_topic",), limit=limit).with_whole_limit()


def test_whole_numbers_stay():
    assert ModelSettings(batch_size="8").whole_batch_size() == 8
    assert type(PromptSettings((), limit=3.0).with_whole_limit().limit) is int
    assert PromptSettings(()).with_whole_limit().limit is None


def test_what_files_record():
    """Always the same entries, so that files of earlier versions stay as they are; later settings where they are given."""
    always = {"limit": None, "seed": 1234, "num_fewshot": None, "apply_chat_template": False}
    assert PromptSettings(("a",), include_path="x").recorded == always
    assert PromptSettings(("a",), system_instruction="Hi.").recorded == {**always, "system_instruction": "Hi."}


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        ({"gen_kwargs": {"temperature": 0}}, {"gen_kwargs": {"temperature": 0}}),
        ({"samples": {"a": [2, 0, 2]}}, {"samples": {"a": [0, 2]}}),
        ({"metadata": {"x": 1}}, {"metadata": {"x": 1}}),
        ({"num_fewshot": {"a": 2}}, {"num_fewshot": {"a": 2}}),
        ({"apply_chat_template": True}, {"apply_chat_template": True}),
        ({"apply_chat_template": True, "fewshot_as_multiturn": True}, {"apply_chat_template": True}),
        (
            {"apply_chat_template": "tool", "fewshot_as_multiturn": False},
            {"apply_chat_template": "tool", "fewshot_as_multiturn": False},
        ),
        ({"fewshot_as_multiturn": False}, {}),
        ({"cache_requests": "true", "check_integrity": True, "confirm_run_unsafe_code": True, "include_path": "x"}, {}),
    ],
    ids=str,
)
def test_what_shapes_prompts_or_answers_is_recorded_and_nothing_else(settings, recorded):
    always = {"limit": None, "seed": 1234, "num_fewshot": None, "apply_chat_template": False}
    assert PromptSettings(("a",), **settings).recorded == {**always, **recorded}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": {"a": [1]}, "limit": 2}, "samples already says which documents are asked"),
        ({"samples": {"a": []}}, "samples .* is neither a mapping"),
        ({"samples": {"a": "12"}}, "samples .* is neither a mapping"),
        ({"samples": {"a": [0.5]}}, "samples .* is neither a mapping"),
        ({"samples": [1]}, "samples .* is neither a mapping"),
        ({"num_fewshot": {"a": -1}}, "num_fewshot must be at least 0, and a whole number, not -1"),
        ({"num_fewshot": {"a": "2"}}, "num_fewshot must be at least 0, and a whole number, not '2'"),
        ({"num_fewshot": 1.5}, "num_fewshot must be at least 0, and a whole number, not 1.5"),
        ({"fewshot_as_multiturn": True}, "fewshot_as_multiturn needs a chat template"),
        ({"cache_requests": "yes"}, "cache_requests is 'yes': choose one of true, refresh, delete"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(SettingError, match=words):
        PromptSettings(("a",), **settings)


def test_settings_of_a_task():
    prompts = PromptSettings(("a", "b"), num_fewshot={"a": 2}, samples={"b": [1]})
    assert prompts.of_task("a") == PromptSettings(("a",), num_fewshot=2)
    assert prompts.of_task("b") == PromptSettings(("b",), samples={"b": [1]})
    assert PromptSettings(("a",), num_fewshot=3).of_task("a").num_fewshot == 3


def test_baseline_and_act_share_what_is_not_about_act():
    model = ModelSettings({"pretrained": "m", "act_beta": 0.1}, device="cpu")
    assert model.without_act == {"pretrained": "m"}
    assert model.lm_arguments(act_beta=0.2) == {"pretrained": "m", "device": "cpu", "act_beta": 0.2}


@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_fewshot": 2, "seed": 7}, {"system_instruction": "Think first."}],
    ids=["as the task says", "few-shot", "system instruction"],
)
def test_documents_are_rendered_as_lm_eval_asks_them(demo_tasks, settings):
    lm = ACTLM(act_profile="none", device="cpu")
    prompts = PromptSettings(("demo_topic",), limit=3, **settings)
    (task,) = load_tasks("demo_topic", demo_tasks).values()
    results = simple_evaluate(
        model=lm, tasks=["demo_topic"], task_manager=demo_tasks, log_samples=True, **prompts.evaluation_arguments()
    )
    asked = [sample["arguments"][0][0] for sample in results["samples"]["demo_topic"]]
    draw_evaluation_documents("demo_topic", task, prompts)
    rendered = [instances[0].args[0] for instances in render(lm, task, range(3), prompts)]
    assert rendered == asked
    instruction = settings.get("system_instruction")
    assert instruction is None or all(prompt.startswith(instruction) for prompt in rendered)


@pytest.mark.parametrize("limit", [0, -3, 1.5, -0.5, float("inf"), float("nan")])
def test_a_limit_that_is_neither_a_number_nor_a_share(limit):
    with pytest.raises(SettingError, match=f"limit must be a number of documents, or a share of them above 0, not {limit}"):
        PromptSettings(("demo_topic",), limit=limit).check_limit()


@pytest.mark.parametrize("limit", [None, 1, 2.0, 0.5])
def test_a_limit_that_lm_eval_takes(limit):
    PromptSettings(("demo_topic",), limit=limit).check_limit()


@pytest.mark.parametrize("batch_size", [0, -1, "0", "-1", "abc", "auto:x", "auto:0", "auto:", "8:2", "", "1.5", None])
def test_a_batch_size_that_lm_eval_cannot_use(batch_size):
    with pytest.raises(SettingError, match=r"batch_size is .*: give a number, at least 1, or auto, or such as auto:4"):
        check_evaluation_batch_size(batch_size)


@pytest.mark.parametrize("batch_size", [1, "8", "auto", "auto:4"])
def test_a_batch_size_that_lm_eval_takes(batch_size):
    check_evaluation_batch_size(batch_size)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 2**32), ("num_fewshot", -1)])
def test_other_settings_out_of_range(name, value):
    with pytest.raises(SettingError, match=f"{name} must be at least 0"):
        PromptSettings(("demo_topic",), **{name: value})
