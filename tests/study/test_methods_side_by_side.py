"""Several methods against one baseline: what is asked for, what is refused, and the whole of it on the embedded model."""

import json
from functools import partial

import pandas as pd
import pytest
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.harness.arguments import arguments_of_method
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.methods.registry import built_in_methods
from act_eval.study.methods import MethodComparison
from act_eval.study.settings import StudySettings

pytestmark = pytest.mark.tier("unit")


def test_each_method_gets_the_arguments_that_it_takes():
    given = {"pretrained": "x", "act_alpha": 5, "act_beta": 0.2, "act_theta": 1.3, "act_base": "eager"}
    methods = ("act", "temperature", "zerotuning")
    assert arguments_of_method(given, "act", methods) == {
        "pretrained": "x", "act_alpha": 5, "act_beta": 0.2, "act_base": "eager", "act_method": "act"
    }  # fmt: skip
    assert arguments_of_method(given, "temperature", methods) == {
        "pretrained": "x", "act_theta": 1.3, "act_base": "eager", "act_method": "temperature"
    }  # fmt: skip
    assert arguments_of_method(given, "zerotuning", methods) == {
        "pretrained": "x", "act_base": "eager", "act_method": "zerotuning"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "model_args", "study", "culprit"),
    [
        (("act",), {}, {}, "names act: name two methods or more"),
        (("act", "remove", "act"), {}, {}, "names act twice"),
        (("act", "louder"), {}, {}, "there is no method 'louder'"),
        (("act", "remove"), {"act_method": "boost"}, {}, "act_method does not go with it"),
        (("act", "remove"), {"act_theta": 2}, {}, "takes beta, not theta"),
        (("act", "remove"), {"act_beta": 1}, {}, "act_beta=1 changes nothing"),
        (("act", "scale-first-token"), {}, {}, "needs gamma"),
        (("act", "pasta"), {}, {}, "name it with act_span"),
        (("act", "remove"), {}, {"also": ("demo_choice",)}, "evaluates the heads of one method beside"),
    ],
)
def test_bad_input(methods, model_args, study, culprit):
    of_method = partial(StudySettings, prompts=PromptSettings(("demo_topic",)), **study)
    with pytest.raises(InputError, match=culprit) as error:
        MethodComparison.of_methods(of_method, ModelSettings(model_args, "cpu", 8), methods)
    assert "\n" not in str(error.value)


def test_all_methods_can_be_compared():
    """Those too that take parameters of their own, which no other method knows."""
    given = {"act_gamma": 1.5, "act_bias": 1, "act_psi": 0.3, "act_span": "question", "act_alpha": 5}
    of_method = partial(StudySettings, prompts=PromptSettings(("demo_topic",)))
    comparison = MethodComparison.of_methods(of_method, ModelSettings(given, "cpu", 8), tuple(built_in_methods()))
    acts = {name: study.search(("demo_topic",)).act for name, study in comparison.studies.items()}
    assert {name: act.method.name for name, act in acts.items()} == {name: name for name in built_in_methods()}
    assert acts["scale-first-token"].method.gamma == 1.5
    assert acts["target-span"].span == acts["pasta"].span == "question"


TOP_HEADS = ("--selection", "top-k", "--k", "2")


def run(*options, output, methods="act,temperature", tasks="demo_topic,demo_choice", selection=TOP_HEADS):
    """Compare methods on few documents of the embedded model; options at the end go before others."""
    arguments = ["study", "--tasks", tasks, "--methods", methods, "--layers", "2", "--limit", "8", "--search-limit", "6"]
    arguments += [*selection, "--device", "cpu", "--output", str(output), *options]
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "methods"
    assert run(output=folder, methods="act,zerotuning").exit_code == 0
    return folder


@pytest.mark.tier("slow")
class TestFoldersWithResults:
    @pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
    def test_gammas_that_are_given_are_not_those_that_were_searched_for(self, finished, dry_run):
        before = (finished / "methods.csv").read_bytes()
        given = ("--model-args", "act_gamma_up=2,act_gamma_down=0.5")
        other = run(*given, *dry_run, output=finished, methods="act,zerotuning")
        assert isinstance(other.exception, InputError)
        assert "asked for otherwise (methods.zerotuning.tuned" in str(other.exception)
        assert (finished / "methods.csv").read_bytes() == before

    def test_numbers_are_those_of_the_report(self, finished):
        methods = pd.read_csv(finished / "methods.csv")
        report, groups = pd.read_csv(finished / "comparison.csv"), pd.read_csv(finished / "groups.csv")
        of_report = pd.concat([report, groups.rename(columns={"group": "task"})])
        columns = ["task", "n", "baseline", "delta", "low", "high"]
        told = [frame[columns].round(9).sort_values(columns).to_numpy().tolist() for frame in (methods, of_report)]
        assert told[0] == told[1]
        assert len(told[0]) == 6

    def test_what_runs_anew_is_foreseen(self, finished):
        """Searches depend on the size of batches, to the last digit."""
        same = run("--dry-run", output=finished, methods="act,zerotuning")
        assert same.output.count("the search is finished") == 2
        other = run("--dry-run", "--batch-size", "5", output=finished, methods="act,zerotuning")
        assert other.output.count("The search costs at most") == 2

    def test_a_study_of_one_method_is_refused(self, finished):
        arguments = ["study", "--tasks", "demo_topic", "--limit", "4", "--device", "cpu", "--output", str(finished)]
        refused = CliRunner().invoke(cli.app, arguments)
        assert isinstance(refused.exception, InputError)
        assert "holds a comparison of methods: choose another folder" in str(refused.exception)

    def test_another_comparison_is_refused(self, finished):
        arguments = ["compare", "--tasks", "demo_topic", "--limit", "4", "--device", "cpu", "--output", str(finished)]
        refused = CliRunner().invoke(cli.app, arguments)
        assert isinstance(refused.exception, InputError)
        assert "holds a study (methods.json)" in str(refused.exception)

    def test_a_report_on_the_folder_has_it_too(self, finished, tmp_path):
        again = CliRunner().invoke(cli.app, ["report", str(finished), "--output", str(tmp_path)], catch_exceptions=False)
        assert again.exit_code == 0
        for name in ("methods.csv", "methods.svg", "comparison.md"):
            assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
        assert "Methods against one baseline" in (tmp_path / "comparison.md").read_text()


@pytest.mark.tier("slow")
def test_where_no_method_has_heads_the_baseline_is_told(tmp_path):
    done = run(output=tmp_path, tasks="demo_choice", selection=())
    assert done.exit_code == 0
    table = pd.read_csv(tmp_path / "methods.csv")
    assert table["heads"].tolist() == [0, 0]
    assert table["score"].tolist() == table["baseline"].tolist()
    assert table["delta"].tolist() == [0, 0]
    assert table["n"].tolist() == [8, 8]
    scores = json.loads(next(tmp_path.glob("**/results_*.json")).read_text())["results"]["demo_choice"]
    assert table["baseline"].iloc[0] == pytest.approx(scores["acc,none"])
    assert "No head was chosen for any method, so there is nothing to compare" in done.output


@pytest.mark.tier("slow")
def test_prompts_of_all_methods_are_looked_at_before_the_first_search(tmp_path):
    refused = run("--model-args", "act_span=examples", output=tmp_path / "none", methods="act,pasta")
    assert isinstance(refused.exception, InputError)
    assert "has nothing that act_span=examples names" in str(refused.exception)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--random-draws", "3"), "--random-draws is about a study of one method"),
        (("--also-limit", "3"), "--also-limit is about tasks that are evaluated beside"),
        (("--pilot", "x"), "--pilot is about a study of one method"),
    ],
)
def test_options_that_would_change_nothing(tmp_path, options, culprit):
    refused = run(*options, output=tmp_path / "none")
    assert isinstance(refused.exception, InputError)
    assert culprit in str(refused.exception)


@pytest.mark.tier("slow")
def test_on_the_embedded_model(tmp_path):
    """Searches on the same documents, one baseline, one table; once more nothing runs, and another comparison is refused."""
    arguments = ["study", "--tasks", "demo_topic", "--methods", "act, zerotuning, bias-span", "--layers", "2", "--limit", "12"]
    arguments += ["--search-limit", "8", "--selection", "top-k", "--k", "2", "--device", "cpu"]
    arguments += ["--model-args", "act_alpha=5,dtype=float32,act_bias=1,act_span=question"]
    arguments += ["--output", str(tmp_path / "methods")]
    foreseen = CliRunner().invoke(cli.app, [*arguments, "--dry-run"], catch_exceptions=False)
    assert foreseen.output.count("The search costs at most") == 3
    assert not (tmp_path / "methods").exists()
    first = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert first.exit_code == 0
    folder = tmp_path / "methods"
    table = pd.read_csv(folder / "methods.csv")
    assert table["method"].tolist() == ["act", "zerotuning", "bias-span"]
    assert (table["heads"] == 2).all()
    assert table["baseline"].nunique() == 1
    searches = [json.loads((folder / "search" / name / "profile.json").read_text()) for name in table["method"]]
    assert len({profile["provenance"]["documents_hash"] for profile in searches}) == 1
    assert json.loads((folder / "methods.json").read_text())["searched"]["act"]["heads"] == 2
    before = (folder / "methods.csv").read_bytes()
    again = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert again.exit_code == 0
    assert (folder / "methods.csv").read_bytes() == before
    assert len(list(folder.glob("**/results_*.json"))) == 4
    other = CliRunner().invoke(cli.app, [*arguments, "--search-limit", "6"])
    assert isinstance(other.exception, InputError)
    assert "asked for otherwise" in str(other.exception)
