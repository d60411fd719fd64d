"""Reports of many tasks and models: long names are whole on terminals, on the page and in plots, those of models shortened."""

import dataclasses
import io
import json
import re
import warnings
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from helpers.figures import overlapping
from helpers.made_up_report import ACT_17, ALL_HEADS, LONG_PATHS, LONG_SETTINGS, MMLU, MMLU_SUBJECTS, made_up_report
from helpers.thorough import thorough
from rich.console import Console

from act_eval import plotting
from act_eval.plotting import colour_and_marker, text_width, wrapped
from act_eval.report.machine_readable import to_json
from act_eval.report.page import page
from act_eval.report.plots import make_plots, plot_heat_map, plot_improvement, write_plots
from act_eval.report.tables import latex, markdown, overview, print_tables

pytestmark = pytest.mark.tier("unit")

DEMO = Path(__file__).parents[2] / "results" / "demo"
SHORT = [f"smollm2-135m-instruct-seed-{seed}/checkpoint-500" for seed in range(8)]
REPORTS = {
    "60 tasks": made_up_report(tasks=[*MMLU, "a", "b", "c"], group="mmlu", subjects=MMLU_SUBJECTS, priors=True),
    "8 models": made_up_report(LONG_PATHS, tasks=MMLU[:6], group="mmlu", subjects=MMLU_SUBJECTS[:20], priors=True),
    "1 task": made_up_report(LONG_PATHS[:1], (ALL_HEADS, LONG_SETTINGS), [max(MMLU, key=len)], priors=True),
    "8 settings": made_up_report(settings=[f"{LONG_SETTINGS}, {number}" for number in range(8)], tasks=MMLU[:5], group="g"),
}
REPORTS |= {name: made_up_report(LONG_PATHS, tasks=[*MMLU, "a", "b", "c"]) for name in thorough("8 models, 60 tasks")}


def demo_report():
    """The report of the demo, as far as it is in its files."""
    tables = {name: pd.read_csv(DEMO / f"{name}.csv").assign(baseline_id="") for name in ("comparison", "groups")}
    return dataclasses.replace(made_up_report(), **tables)


def printed(report, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    print_tables(report, console)
    return console.export_text()


@pytest.mark.parametrize(
    ("report", "at_80", "at_120"),
    [
        (
            demo_report(),
            "demo_sentiment 200    0.995 0.935 -0.060 -0.097 to -0.028 <0.001      0.052\n",
            "demo_sentiment acc        0 200    0.995 0.935 -0.060 -0.097 to -0.028 <0.001      0.052\n",
        ),
        (
            made_up_report(LONG_PATHS[:1], tasks=ACT_17, group="act_17", of_tasks=18),
            "act_commonsense_qa          0    0.613 0.603 -0.010 -0.040 to +0.020 0.500\n",
            "act_commonsense_qa      acc        0 500    0.613 0.603 -0.010 -0.040 to +0.020 0.500\n",
        ),
        (
            made_up_report(tasks=MMLU, group="mmlu"),
            "mmlu_high_school_government_and_politics    0.336 0.434 +0.098 +0.068 to +0.128\n",
            "mmlu_high_school_government_and_politics acc        0 500    0.336 0.434 +0.098 +0.068 to +0.128 0.500\n",
        ),
    ],
    ids=["demo", "act_17", "mmlu"],
)
def test_terminals_of_80_and_of_120_columns(report, at_80, at_120):
    for width, line in ((80, at_80), (120, at_120)):
        text = printed(report, width)
        assert max(map(len, text.splitlines())) <= width
        assert line in text
        for name in (*report.comparison["task"], *report.groups["group"]):
            assert re.search(rf"^{re.escape(name)} ", text, re.MULTILINE)
    assert len(printed(report, 120)) >= len(printed(report, 80))
    assert "wider terminal" not in printed(report, 120)


def test_what_has_no_room_is_said():
    text = printed(made_up_report(tasks=MMLU, group="mmlu"), 80)
    assert "\nin all rows: metric acc, shots 0, n 500\np: in comparison.csv, or in a wider terminal\n" in text


def test_an_average_that_lacks_tasks_says_so():
    report = made_up_report(tasks=ACT_17[:6], group="act_17", of_tasks=17)
    assert "\nact_17 (6 of 17 tasks) " in printed(report, 80)
    assert "act_17 (6 of 17 tasks)" in overview(report).texts
    assert "| act_17  | 6 of 17 |" in markdown(report)


class TestModels:
    def test_on_a_terminal_by_what_tells_them_apart(self):
        text = printed(REPORTS["8 models"], 80)
        assert [line for line in text.splitlines() if line.startswith("smoll")] == [f"{name}: {ALL_HEADS}" for name in SHORT]
        assert text.count("whole in comparison.csv") == 8

    def test_whole_where_there_is_room(self):
        report = REPORTS["8 models"]
        assert {row["model"] for row in json.loads(to_json(report))["comparison"]} == set(LONG_PATHS)
        for text in (markdown(report), latex(report)):
            assert all(path.replace("_", r"\_") in text or path in text for path in LONG_PATHS)

    def test_on_the_page_with_their_whole_names(self):
        text = page(REPORTS["8 models"], {})
        for short, path in zip(SHORT, LONG_PATHS, strict=True):
            assert f'<td class="left" title="{path}">{short}</td>' in text
            assert f"<dt>{short}</dt><dd>{path}</dd>" in text

    def test_names_that_are_short_have_no_list(self):
        assert "<h3>Models</h3>" not in page(made_up_report(["org/name"]), {})


@pytest.mark.tier("slow")
class TestPlots:
    @pytest.mark.parametrize("name", REPORTS)
    def test_labels_are_whole_and_apart(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for plot, figure in make_plots(REPORTS[name]).items():
                assert overlapping(figure) == ([], []), plot

    def test_models_have_short_names(self):
        axes = plot_improvement(REPORTS["8 models"].with_short_names()).axes[0]
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert sorted(labels) == sorted(f"{task}, {model}" for task in MMLU[:6] for model in SHORT)

    def test_all_tasks_of_the_heat_map(self):
        axes = plot_heat_map(REPORTS["60 tasks"]).axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == sorted([*MMLU, "a", "b", "c"])
        assert [label.get_text() for label in axes.get_xticklabels()] == [ALL_HEADS]

    def test_more_than_a_picture_can_hold_is_drawn_smaller(self, tmp_path, monkeypatch):
        monkeypatch.setattr(plotting, "_MOST_PIXELS", 500)
        report = made_up_report(["a", "b"], ["settings"], MMLU[:8])
        assert plot_improvement(report).get_figheight() * 200 > 600
        plot_improvement.write_figure(tmp_path, report)
        assert max(matplotlib.image.imread(tmp_path / "improvement.png").shape) == pytest.approx(500, abs=3)

    def test_the_same_bytes_each_time(self, tmp_path):
        for folder in ("one", "other"):
            (tmp_path / folder).mkdir()
            write_plots(REPORTS["1 task"], tmp_path / folder)
        one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
        assert one == other


def test_lines_end_between_words():
    text = "several words\nand others_that_are_long"
    lines = wrapped(text, text_width(["several words"])).split("\n")
    assert lines == ["several words", "and", "others_that_are_long"]


def test_many_lines_look_different():
    assert len({colour_and_marker(number) for number in range(49)}) == 49
