"""Which score of a task a study is about, and which tasks have none."""

import statistics
from dataclasses import replace
from functools import partial

import pytest
import yaml
from helpers.pets import write_pets
from lm_eval.api.metrics import f1_score, matthews_corrcoef, mean, median, nanmean

from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.study import StudySettings, foresee_study
from act_eval.study.methods import MethodComparison, foresee_methods
from act_eval.study.scores import primary_score
from act_eval.study_record import Score

pytestmark = pytest.mark.tier("unit")


def of_all_documents(key, items):
    """As lm-eval's squadv2 does."""
    predictions, references = zip(*items, strict=True)
    return {key: len(predictions) + len(references)}[key]


class Task:
    def __init__(self, functions, lower=()):
        self.functions, self.lower = functions, lower

    def aggregation(self):
        return self.functions

    def higher_is_better(self):
        return {metric: metric not in self.lower for metric in self.functions}


@pytest.mark.parametrize(
    ("functions", "metric"),
    [
        ({"f1": mean, "acc": mean}, "acc"),
        ({"f1": mean, "exact": mean}, "f1"),
        ({"mcc": matthews_corrcoef, "exact": statistics.fmean}, "exact"),
        ({"acc": median, "f1": f1_score, "exact": nanmean}, "exact"),
    ],
)
def test_the_score_is_a_mean_over_documents(functions, metric):
    assert primary_score("some", Task(functions)) == Score(metric, "none")


@pytest.mark.parametrize(
    "functions",
    [
        {"mcc": matthews_corrcoef},
        {"exact": partial(of_all_documents, "exact"), "f1": partial(of_all_documents, "f1")},
        {"acc": median},
    ],
)
def test_tasks_that_cannot_be_paired_are_refused(functions):
    with pytest.raises(InputError, match="tasks names cola, which has no metric that is a mean over documents") as error:
        primary_score("cola", Task(functions))
    assert all(metric in str(error.value) for metric in functions)
    assert "\n" not in str(error.value)


def test_a_task_with_nothing_but_loss_is_refused():
    with pytest.raises(InputError, match="no metric of which more is better"):
        primary_score("some", Task({"loss": mean}, lower=("loss",)))


@pytest.mark.parametrize("with_methods", [False, True])
def test_they_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch, with_methods):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    folder = write_pets(tmp_path / "pets")
    config = yaml.safe_load((folder / "pets.yaml").read_text())
    (folder / "pets.yaml").write_text(yaml.safe_dump({**config, "metric_list": [{"metric": "mcc"}]}))
    prompts = PromptSettings(("pets_zero", "pets"), include_path=str(folder))
    settings = StudySettings(ModelSettings({}, device="cpu"), prompts, layers="all")
    studies = {method: replace(settings, random_draws=0) for method in ("act", "remove")}
    foreseen = partial(foresee_methods, MethodComparison(studies)) if with_methods else partial(foresee_study, settings)
    with pytest.raises(InputError, match=r"names pets, .* \(only mcc\)"):
        foreseen(tmp_path / "output")
    assert not (tmp_path / "output").exists()
