"""Which documents may be drawn: none that the evaluation split has too, whatever their labels and ids."""

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.task import ConfigurableTask

from act_eval.harness.documents import asked_columns, draw_training_documents
from act_eval.harness.settings import PromptSettings

pytestmark = pytest.mark.tier("unit")

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}} It is:",
    "doc_to_choice": ["old", "new"],
    "doc_to_target": "label",
}
OPTIONS = {**CHOICE, "doc_to_choice": "{{options}}"}
ENDINGS = {**CHOICE, "doc_to_text": "label", "doc_to_choice": "{{[text, other]}}", "doc_to_target": "other"}
REPLY = {"output_type": "generate_until", "doc_to_text": "{{text}} Who?", "doc_to_target": "{{label}}"}
SENTENCE = {"output_type": "loglikelihood", "doc_to_text": "", "doc_to_target": "{{text}}"}
CODE = {**CHOICE, "doc_to_text": lambda doc: doc["text"][: len(doc["parts"][1])]}


def task_of(config, train, test):
    splits = DatasetDict({"train": Dataset.from_list(train), "test": Dataset.from_list(test)})
    return ConfigurableTask(
        config={
            "task": "made_up",
            "custom_dataset": lambda **_: splits,
            "training_split": "train",
            "test_split": "test",
            **config,
        }
    )


def drawn(config, train, test, **prompts):
    return draw_training_documents("made_up", task_of(config, train, test), PromptSettings(("made_up",), **prompts))


def row(number, text, label=0, **more):
    return {"idx": number, "split_of_origin": f"part {number}", "text": text, "label": label, **more}


TEST = [
    row(number, f"text {number}", number % 2, other=f"other {number}", options=["a", f"b {number}"], parts=["", "x" * 9])
    for number in range(8)
]


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        (CHOICE, {"text"}),
        (OPTIONS, {"text", "options"}),
        (ENDINGS, {"label", "text", "other"}),
        (REPLY, {"text"}),
        (SENTENCE, set()),
        ({**CHOICE, "doc_to_text": lambda doc: doc["text"]}, {"text"}),
    ],
    ids=["choice", "options", "endings", "reply", "sentence", "code"],
)
def test_labels_and_ids_are_not_asked_about(config, columns):
    assert asked_columns(task_of(config, TEST, TEST)) == columns


def test_a_column_without_which_no_prompt_can_be_made_is_asked_about():
    test = [{**doc, "parts": doc["parts"] if doc["idx"] else [""]} for doc in TEST]
    asked = {**CHOICE, "doc_to_text": lambda doc: doc["text"] + (doc["parts"][1] if doc["idx"] else "")}
    assert asked_columns(task_of(asked, TEST, test)) == {"text", "parts", "idx"}


@given(st.sets(st.integers(0, 7)), st.integers(0, 1))
def test_documents_that_are_evaluated_are_left_out(leaked, label):
    train = [row(100 + number, f"text {number}" if number in leaked else f"new text {number}", label) for number in range(9)]
    assert drawn(CHOICE, train, TEST) == [number for number in range(9) if number not in leaked]


def test_the_same_question_with_other_options_is_another_document():
    train = [row(100, "text 3", options=["a", "b 3"]), row(101, "text 3", options=["a", "c"])]
    assert drawn(OPTIONS, train, TEST) == [1]


def test_where_nothing_is_asked_about_whole_documents_are_compared():
    """As where all of a document is what is to be said."""
    train = [
        row(100, "text 3"),
        {name: value for name, value in TEST[3].items() if name in ("idx", "split_of_origin", "text", "label")},
    ]
    test = [{name: doc[name] for name in ("idx", "split_of_origin", "text", "label")} for doc in TEST]
    assert drawn(SENTENCE, train, test) == [0]


def test_a_split_of_one_document_tells_no_column_from_another():
    """So that whole documents are compared."""
    assert drawn(CHOICE, [row(100, "text 0"), row(0, "text 0")], [row(0, "text 0")]) == [0]
