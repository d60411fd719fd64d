"""A study of the embedded model: what runs, what its table says, and what is refused."""

import json
import re
import shutil
from dataclasses import replace
from io import StringIO

import jsonschema
import numpy as np
import pandas as pd
import pytest
from helpers.runs import read_samples
from helpers.stand_in_trackers import stand_in_for_wandb
from rich.console import Console
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.profiles import HeadProfile
from act_eval.report.build import ReportOptions, make_report
from act_eval.report.machine_readable import schema, to_json
from act_eval.report.plots import plot_improvement, plot_number_of_heads, plot_studies
from act_eval.report.study_tables import study_table
from act_eval.report.tables import report_notes
from act_eval.study import StudySettings, foresee_study, run_study
from act_eval.study import run as run_module
from act_eval.study.plan import plan_study
from act_eval.study_record import STUDY_FILE, read_study
from act_eval.trackers import TrackerSettings, tracking

pytestmark = pytest.mark.tier("model")

SETTINGS = StudySettings(
    ModelSettings({"act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=12),
    PromptSettings(("demo_topic", "demo_choice"), limit=12),
    also=("demo_sentiment",),
    also_limit=5,
    search_tasks=("demo_choice",),
    search_limit=6,
    layers="2",
    selection="top-k",
    k=2,
    random_draws=2,
)
VARIANTS = ["all heads", "baseline", "heads found", "heads found, switched off", "random heads 1", "random heads 2"]


def study(output, settings=SETTINGS):
    run_study(settings, output, Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    study(output)
    return output


@pytest.fixture(scope="module")
def report(finished):
    return make_report([finished])


@pytest.fixture(scope="module")
def findings(report):
    (found,) = report.studies
    return found


def planned(output):
    return json.loads((output / "planned_runs.json").read_text())


@pytest.fixture(scope="module")
def scores(finished):
    """Accuracy by document, from lm-eval's own files: by variant and task."""
    variants = {json.dumps(run["asked"], sort_keys=True): run["variant"] for run in planned(finished)}
    found = {}
    for file in finished.rglob("results_*.json"):
        results = json.loads(file.read_text())
        variant, task = variants[json.dumps(results["act_eval_run"]["asked"], sort_keys=True)], next(iter(results["configs"]))
        samples = sorted(read_samples(file, task), key=lambda sample: sample["doc_id"])
        found[variant, task] = np.array([sample["acc"] for sample in samples])
    return found


def test_what_is_evaluated(finished, scores):
    of_tasks = [(variant, task, 12) for variant in VARIANTS for task in ("demo_choice", "demo_topic")]
    beside = [(variant, "demo_sentiment", 5) for variant in ("baseline", "heads found")]
    assert sorted((*key, len(values)) for key, values in scores.items()) == sorted(of_tasks + beside)
    assert {run["variant"] for run in planned(finished)} == set(VARIANTS)
    found = HeadProfile.load(finished / "search" / "profile.json")
    assert found.size == 2
    for number in (1, 2):
        control = HeadProfile.load(finished / "controls" / f"random-{number}.json")
        assert {layer: len(heads) for layer, heads in control.heads.items()} == {2: 2}
    methods = {run["variant"]: run["asked"]["model_args"]["act_method"] for run in planned(finished)}
    assert methods["heads found, switched off"] == "mask-head"
    assert set(methods.values()) == {"act", "mask-head"}


def test_the_search_sees_training_documents_of_its_tasks_alone(finished):
    source = HeadProfile.load(finished / "search" / "profile.json").provenance
    assert source["tasks"] == {"demo_choice": "train"}
    assert source["documents"]["search"] == 6


def test_the_table_is_that_of_the_documents(findings, scores):
    table = findings.table.set_index("task")
    assert list(table.index) == ["demo_topic", "demo_choice", "average", "average, not searched on"]
    assert table["searched"].to_dict() == {
        "demo_topic": "none", "demo_choice": "all", "average": "some", "average, not searched on": "none"
    }  # fmt: skip
    assert table["tasks"].tolist() == [1, 1, 2, 1]
    rows = {"demo_topic": ["demo_topic"], "demo_choice": ["demo_choice"], "average": ["demo_topic", "demo_choice"]}
    rows["average, not searched on"] = ["demo_topic"]
    for name, tasks in rows.items():
        row = table.loc[name]
        means = {variant: np.mean([scores[variant, task].mean() for task in tasks]) for variant in VARIANTS}
        deltas = {variant: mean - means["baseline"] for variant, mean in means.items()}
        random = [deltas["random heads 1"], deltas["random heads 2"]]
        expected = {
            "n": 12 * len(tasks), "baseline": means["baseline"], "found": means["heads found"], "delta": deltas["heads found"],
            "all_heads_delta": deltas["all heads"], "switched_off_delta": deltas["heads found, switched off"],
            "random_sets": 2, "random_delta": np.mean(random), "random_least": min(random), "random_most": max(random),
            "beyond_random_delta": deltas["heads found"] - np.mean(random),
        }  # fmt: skip
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, abs=1e-12), (name, column)
        for prefix in ("", "all_heads_", "beyond_random_", "switched_off_"):
            assert row[f"{prefix}low"] <= row[f"{prefix}delta"] <= row[f"{prefix}high"]


def test_intervals_are_those_of_the_comparison(report, findings):
    comparison = report.comparison
    of_found = comparison[comparison["settings"] == "heads found (2 heads), beta 0.4, alpha 5"].set_index("task")
    for task in ("demo_topic", "demo_choice"):
        row = findings.table.set_index("task").loc[task]
        assert [row["delta"], row["low"], row["high"]] == of_found.loc[task, ["delta", "low", "high"]].tolist()


def test_the_record(finished):
    record = read_study(finished / STUDY_FILE)
    assert record.tasks == ("demo_topic", "demo_choice")
    assert record.searched == ("demo_choice",)
    assert record.unseen == ("demo_topic",)
    assert record.also == ("demo_sentiment",)
    assert (record.search["heads"], record.search["heads_searched"]) == (2, 8)
    content = json.loads((finished / STUDY_FILE).read_text())
    assert content["primary_comparison"] == "heads found against baseline, average over the tasks of scores"
    assert content["scores"]["demo_topic"] == {"metric": "acc", "filter": "none"}


def test_the_primary_comparison_is_fixed_before_anything_runs(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run_search", stopped)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path)
    record = read_study(tmp_path / STUDY_FILE)
    assert record.tasks == ("demo_topic", "demo_choice")
    assert record.search is None


def test_a_finished_study_runs_nothing_again(finished, monkeypatch):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    monkeypatch.setattr(ACTLM, "_answering", lambda *_: pytest.fail("the model was asked again"))
    study(finished)
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"prompts": replace(SETTINGS.prompts, limit=13)}, ["limit", "12", "13"]),
        ({"also": ()}, ["also"]),
        ({"search_tasks": ()}, ["search.search_tasks"]),
        ({"model": replace(SETTINGS.model, model_args={"act_alpha": 3, "dtype": "float32"})}, ["act_alpha", "5", "3"]),
        ({"prompts": replace(SETTINGS.prompts, tasks=("demo_topic", "demo_choice", "demo_sentiment")), "also": ()}, ["tasks"]),
    ],
)
def test_another_study_in_the_same_folder_is_refused(finished, changes, names, monkeypatch):
    monkeypatch.setattr(run_module, "run_search", lambda *_: pytest.fail("the search began"))
    with pytest.raises(InputError, match="holds a study that was asked for otherwise") as raised:
        study(finished, replace(SETTINGS, **changes))
    assert all(name in str(raised.value) for name in names)
    assert "choose another folder" in str(raised.value)


@pytest.mark.parametrize("command", [("compare",), ("sweep", "--vary", "beta=0.2,0.4")])
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_other_comparisons_in_its_folder_are_refused(finished, command, dry_run):
    """Their reports would take the place of the study's."""
    before = {file: file.read_bytes() for file in finished.glob("*.*") if file.is_file()}
    arguments = [*command, "--tasks", "demo_topic", "--limit", "4", "--device", "cpu", *dry_run, "--output", str(finished)]
    refused = CliRunner().invoke(cli.app, arguments)
    assert isinstance(refused.exception, InputError)
    assert "holds a study (study.json), whose report would be replaced: choose another folder" in str(refused.exception)
    assert {file: file.read_bytes() for file in finished.glob("*.*") if file.is_file()} == before


def test_where_it_runs_does_not_make_another_study(finished, monkeypatch):
    """The search is made again, since its last digits depend on the size of batches; the one before is set aside meanwhile."""
    monkeypatch.setattr(ACTLM, "_answering", lambda *_: pytest.fail("the model was asked again"))
    study(finished, replace(SETTINGS, model=replace(SETTINGS.model, batch_size=6)))
    assert not foresee_study(SETTINGS, finished).heads_are_found
    study(finished)
    assert foresee_study(SETTINGS, finished).heads_are_found


@pytest.mark.parametrize(
    ("k", "said"),
    [(8, "There are no sets of random heads, not 2: no other has as many in each layer."), (7, None)],
)
def test_random_heads_that_there_are_none_of(tmp_path, k, said):
    """All heads of the layer are found, so that no others are as many."""
    shown = StringIO()
    settings = replace(SETTINGS, prompts=replace(SETTINGS.prompts, tasks=("demo_choice",), limit=4), also=(), also_limit=None)
    settings = replace(settings, search_limit=2, k=k)
    run_study(settings, tmp_path, Console(file=shown, width=200))
    assert ("sets of random heads" in shown.getvalue()) == (said is not None)
    assert said is None or said in shown.getvalue()
    assert len(list(tmp_path.glob("controls/*.json"))) == (2 if said is None else 0)


def test_no_head_found(tmp_path, monkeypatch):
    """All heads are compared with the baseline, nothing is evaluated beside, and the verdict says that there is none."""
    search = run_module.run_search

    def finds_nothing(*arguments):
        result = search(*arguments)
        empty = replace(result.profile, heads={})
        empty.save(tmp_path / "search" / "profile.json")
        return replace(result, profile=empty)

    monkeypatch.setattr(run_module, "run_search", finds_nothing)
    study(tmp_path)
    assert {(run["variant"], run["task"]) for run in planned(tmp_path)} == {
        (variant, task) for variant in ("baseline", "all heads") for task in ("demo_topic", "demo_choice")
    }
    (found,) = make_report([tmp_path]).studies
    assert found.verdict.outcome == "no head chosen"
    assert "All heads together change the score by" in found.verdict.sentences[1]
    assert found.table["found"].isna().all()
    assert found.table["all_heads_delta"].notna().all()


@pytest.mark.parametrize(
    ("tasks", "also", "search_tasks", "expected"),
    [
        (("act_demo",), ("demo_sent*",), (), (["demo_topic", "demo_choice"], ["demo_sentiment"])),
        (("demo_*",), (), ("demo_t*",), (["demo_topic"], [])),
        (("act_demo",), (), ("act_demo",), (["demo_sentiment", "demo_topic", "demo_choice"], [])),
    ],
)
def test_groups_and_patterns_stand_for_their_tasks(tasks, also, search_tasks, expected):
    settings = replace(SETTINGS, prompts=PromptSettings(tasks, limit=12), also=also, search_tasks=search_tasks)
    record = plan_study(settings).record
    assert (sorted(record.searched), list(record.also)) == (sorted(expected[0]), expected[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_tasks": ("demo_sentiment",)}, "search_tasks names demo_sentiment, which is none of the study's tasks"),
        ({"search_tasks": ("nowhere",)}, "search_tasks names nowhere, which is none of the study's tasks"),
        ({"also": ("demo_topic", "demo_choice")}, "also holds all tasks"),
        ({"random_draws": -1}, "random_draws must be at least 0"),
        ({"also_limit": 0}, "also_limit must be a number of documents"),
        ({"search_limit": 0}, "search_limit must be at least 1 document"),
        ({"model": ModelSettings({"act_profile": "all"})}, "act_profile"),
        ({"model": ModelSettings({"act_head_share": 0.5})}, "act_head_share does not go with a search"),
        ({"k": None}, "k goes together"),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_loaded(tmp_path, changes, message, monkeypatch):
    monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match=re.escape(message)):
        study(tmp_path, replace(SETTINGS, **changes))


def test_an_unfinished_study_has_a_table_and_no_verdict(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    for file in copy.rglob("results_*.json"):
        results = json.loads(file.read_text())
        if "demo_choice" in results["configs"] and results["config"]["act"]["method"] == "mask-head":
            file.unlink()
    report = make_report([copy])
    (found,) = report.studies
    assert found.verdict is None
    assert pd.isna(found.table.set_index("task").loc["demo_choice", "switched_off_delta"])
    assert pd.isna(found.table.set_index("task").loc["average", "switched_off_delta"])
    assert found.table.set_index("task").loc["average", "delta"] is not None
    assert report.unfinished is not None


def test_a_report_on_some_of_the_tasks_has_no_verdict(finished):
    """The average that the study is about is not in it."""
    (found,) = make_report([finished], ReportOptions(patterns={"task": "demo_topic"})).studies
    assert found.verdict is None
    assert found.table["task"].tolist() == ["demo_topic", "average, not searched on"]


def test_the_average_after_label_priors_are_corrected_says_over_how_many_tasks_it_is(report, findings):
    """Choices of demo_choice differ from document to document, so that it has no label priors."""
    table = findings.table.set_index("task")
    assert table["corrected_tasks"].fillna(0).to_dict() == {
        "demo_topic": 1, "demo_choice": 0, "average": 1, "average, not searched on": 0
    }  # fmt: skip
    corrected = ["corrected_baseline", "corrected_delta", "corrected_low", "corrected_high"]
    assert table.loc["average", corrected].tolist() == table.loc["demo_topic", corrected].tolist()
    names = [text.get_text() for text in plot_studies(report).axes[0].get_yticklabels()]
    assert "heads found, label priors corrected (1 of 2 tasks)" in names
    cells = study_table(findings).texts.set_index("task")["priors corrected"]
    assert cells["average"].endswith(" (1 of 2 tasks)")
    assert "tasks" not in cells["demo_topic †"]
    whole = findings.table.assign(corrected_tasks=findings.table["tasks"])
    assert "tasks)" not in "".join(study_table(replace(findings, table=whole)).texts["priors corrected"])


NAMES = {
    "all heads (32 heads), beta 0.4, alpha 5",
    "heads found (2 heads), beta 0.4, alpha 5",
    "heads found, switched off (2 heads), mask-head",
    "random heads 1 (2 heads), beta 0.4, alpha 5",
    "random heads 2 (2 heads), beta 0.4, alpha 5",
}


def test_settings_are_named_by_what_they_stand_for(report, finished):
    """In all tables and plots, and where rows are chosen."""
    for table in (report.comparison, report.groups, report.label_priors, report.labels):
        assert set(table["settings"]) == NAMES
    assert set(report.flips.documents["settings"]) <= NAMES
    titles = {axes.get_title(loc="left").replace("\n", " ") for axes in plot_improvement(report).axes}
    assert titles == NAMES
    chosen = make_report([finished], ReportOptions(patterns={"settings": "random heads 1 *"})).comparison
    assert set(chosen["settings"]) == {"random heads 1 (2 heads), beta 0.4, alpha 5"}


def test_which_profile_a_variant_stands_for_can_be_read(report, findings, finished):
    assert set(findings.with_profiles) == set(VARIANTS)
    note = next(note for note in report_notes(report) if note.startswith("Profiles in the study of act-eval-demo: "))
    for variant, profile in (("heads found", "search/profile.json"), ("random heads 2", "controls/random-2.json")):
        digest = HeadProfile.load(finished / profile).content_hash[:8]
        assert findings.with_profiles[variant] == f"{profile} {digest} (2 heads), beta 0.4, alpha 5"
        assert f"{variant}, {profile} {digest}" in note
    (study,) = json.loads(to_json(report))["studies"]
    assert study["variants"] == dict(findings.with_profiles)


def test_two_studies_of_one_model_are_not_mixed_up(finished, tmp_path):
    """Each has its own heads found, and all heads in common."""
    copy = shutil.copytree(finished, tmp_path / "other")
    for file in copy.rglob("results_*.json"):
        text = file.read_text().replace("search/profile.json ", "search/profile.json 0")
        file.write_text(text)
    settings = set(make_report([finished, copy]).comparison["settings"])
    assert len(settings) == len(NAMES) + 2
    assert "all heads (32 heads), beta 0.4, alpha 5" in settings
    assert len([text for text in settings if text.startswith("heads found: search/profile.json ")]) == 2
    assert len([text for text in settings if text.startswith("heads found, switched off: search/profile.json ")]) == 2


def test_settings_that_are_no_ranking_are_not_joined(report):
    """Heads found, random heads and heads switched off are as many, and none of them is a part of another."""
    axes = plot_number_of_heads(report).axes[0]
    drawn = [container.lines[0] for container in axes.containers]
    assert {container.get_label() for container in axes.containers} == NAMES
    assert [len(line.get_xdata()) for line in drawn] == [1] * len(NAMES)
    *of_two_heads, of_all = sorted(float(line.get_xdata()[0]) for line in drawn)
    assert of_all == 32
    assert np.mean(of_two_heads) == pytest.approx(2)
    assert min(np.diff(of_two_heads)) > 0.3
    assert "side by side" in axes.get_xlabel()
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == len(NAMES)


def test_the_command(finished, tmp_path):
    """The verdict comes first, everywhere, and the table of the study stands for those of its settings on the terminal."""
    result = CliRunner().invoke(cli.app, ["report", str(finished), "--output", str(tmp_path)], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Verdict: ")
    assert result.output.count("Study of act-eval-demo") == 1
    assert "McNemar" not in result.output
    markdown = (tmp_path / "comparison.md").read_text()
    assert markdown.startswith("**Verdict: ")
    assert "| demo_topic †" in markdown
    assert "† The search did not see these tasks." in markdown
    page = (tmp_path / "report.html").read_text()
    assert page.index("Verdict: ") < page.index("<h2")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["studies"][0]["verdict"]["outcome"] in result.output
    assert len(content["studies"][0]["table"]) == 4
    table = pd.read_csv(tmp_path / "study.csv")
    for column in ("task", "searched", "tasks"):
        assert table[column].tolist() == [row[column] for row in content["studies"][0]["table"]]
    for name in ("comparison", "groups", "label_priors", "labels"):
        assert set(pd.read_csv(tmp_path / f"{name}.csv")["settings"]) == NAMES
    notes = report_notes(make_report([finished]))
    (profiles,) = (note for note in notes if "profile.json" in note)
    tables = page[page.index('<h2 id="tables">') : page.index('<h2 id="plots">')]
    for text in (markdown, (tmp_path / "comparison.tex").read_text(), tables):
        assert ".json" not in text.replace(profiles, "")
        assert "random heads 2 (2 heads)" in text
    drawn = (tmp_path / "study.svg").read_text()
    shown = ("heads found", "heads found, label priors corrected (1 of 2 tasks)", "random heads, mean and range", "all heads")
    assert all(f">{name}<" in drawn for name in shown)
    assert (tmp_path / "comparison.tex").read_text().splitlines()[1].startswith("% Verdict: ")


def test_json_follows_its_schema(report):
    jsonschema.validate(json.loads(to_json(report)), schema())


# --- dry runs


def test_a_dry_run_says_what_the_study_then_does(tmp_path, finished, monkeypatch):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("weights were loaded"))
    foreseen = foresee_study(SETTINGS, tmp_path / "output")
    assert not (tmp_path / "output").exists()
    assert "6 documents" in foreseen.search
    assert sorted(foreseen.variants) == VARIANTS
    assert not foreseen.heads_are_found
    sizes = {(run.run.variant, run.run.task): run.documents for run in foreseen.runs}
    of_both = {(variant, task): 12 for variant in ("baseline", "all heads") for task in ("demo_topic", "demo_choice")}
    assert sizes == of_both
    assert {run.state for run in foreseen.runs} == {"to run"}


def test_a_dry_run_of_a_finished_study(finished, monkeypatch):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("weights were loaded"))
    foreseen = foresee_study(SETTINGS, finished)
    assert foreseen.heads_are_found
    assert foreseen.search == ""
    assert sorted(foreseen.variants) == VARIANTS
    assert [run.state for run in foreseen.runs] == ["finished"] * 14
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


COMMAND = [
    *("study", "--tasks", "demo_topic,demo_choice", "--limit", "12", "--also", "demo_sentiment", "--also-limit", "5"),
    *("--search-tasks", "demo_choice", "--search-limit", "6", "--layers", "2", "--selection", "top-k", "--k", "2"),
    *("--random-draws", "2", "--batch-size", "12", "--device", "cpu", "--model-args", "act_alpha=5,dtype=float32"),
]


def test_the_command_of_a_dry_run(finished):
    """Its options make the same study; the finished comparison is its own pilot."""
    asked = [*COMMAND, "--output", str(finished), "--dry-run", "--expect", "2", "--pilot", str(finished)]
    result = CliRunner().invoke(cli.app, asked, env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    assert "The search is finished" in result.output
    assert "14 of 14 runs are finished" in result.output
    assert len(re.findall(r"With \d+% of answers changed, 24 documents show a difference of 2.0 points", result.output)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--expect", "2"], "--expect goes with --dry-run"),
        (["--pilot", "somewhere"], "--pilot goes with --dry-run"),
        (["--dry-run", "--expect", "0"], "--expect is a difference in percentage points"),
        (["--dry-run", "--pilot", "somewhere"], "--pilot goes with --expect"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, message):
    result = CliRunner().invoke(cli.app, [*COMMAND, "--output", str(tmp_path), *options])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_trackers_get_the_verdict_and_every_variant(finished, findings, monkeypatch):
    record = stand_in_for_wandb(monkeypatch)
    with tracking(TrackerSettings({"project": "act"})) as trackers:
        trackers.log(finished, lambda content: True)
    assert record.summary["verdict"] == findings.verdict.headline
    assert record.summary["verdict_text"] == " ".join(findings.verdict.sentences)
    table = findings.table.set_index("task")
    for task in ("demo_topic", "demo_choice"):
        assert record.logged[f"{task}.heads-found/acc_delta"] == pytest.approx(table.loc[task, "delta"])
        assert record.logged[f"{task}.all-heads/acc_delta"] == pytest.approx(table.loc[task, "all_heads_delta"])
        assert record.logged[f"{task}.heads-found-switched-off/acc_delta"] == pytest.approx(
            table.loc[task, "switched_off_delta"]
        )
        assert {f"{task}.{variant}/acc" for variant in ("baseline", "random-heads-1", "random-heads-2")} < set(record.logged)
    assert "demo_sentiment.heads-found/acc_delta" in record.logged
