"""The report on results that lm-eval itself wrote: every number against an independent computation, and the files it makes."""

import dataclasses
import io
import json
import re
import shutil
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from helpers.runs import read_samples
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from act_eval.cli.app import main
from act_eval.errors import SettingError
from act_eval.report.build import ReportOptions, make_report
from act_eval.report.label_priors import LabelPriors
from act_eval.report.load import ReportError
from act_eval.report.machine_readable import schema, to_json
from act_eval.report.plots import PLOTS, make_plots, plot_number_of_heads, plot_subjects, report_plot, write_plots
from act_eval.report.tables import labels, latex, markdown, overview, print_tables
from act_eval.report.write import write_report
from act_eval.tables import TextTable, interval, number, p_value, with_spread

pytestmark = pytest.mark.tier("unit")

RESULTS = Path(__file__).parents[1] / "results"
ALL_HEADS = "all (32 heads), beta 0.4, alpha 5"


@pytest.fixture(scope="module")
def report():
    return make_report([RESULTS])


@pytest.fixture(scope="module")
def files(report, tmp_path_factory):
    return {path.name: path for path in write_report(report, tmp_path_factory.mktemp("report"))}


@pytest.fixture(scope="module")
def figures(report):
    before = dict(matplotlib.rcParams)
    drawn = make_plots(report)
    assert dict(matplotlib.rcParams) == before
    return drawn


def sample_values(task, metric, shots, seed, profile):
    """One value per document of a run, read from its samples without the project's code."""
    for file in sorted(RESULTS.glob("results_*.json"), reverse=True):
        results = json.loads(file.read_text())
        config = results["config"]
        if task not in results["results"] or results["n-shot"][task] != shots or config["fewshot_seed"] != seed:
            continue
        if config.get("act", {}).get("profile", "none") != profile:
            continue
        samples = read_samples(file, task)
        values = np.array([sample[metric] for sample in sorted(samples, key=lambda sample: sample["doc_id"])], dtype=float)
        assert results["results"][task][f"{metric},none"] == pytest.approx(values.mean())
        clusters = [sample["doc"].get("subject", sample["doc"].get("title")) for sample in samples]
        return values, clusters
    raise AssertionError("no such run")


def both(row):
    """Baseline and ACT of a row of the comparison, averaged over seeds, and the clusters of the documents."""
    profile = "all" if row["num_heads"] == 32 else "2:0+1+2+3+4+5+6+7;3:0+1+2+3+4+5+6+7"
    seeds = (0, 42) if row["num_fewshot"] else (1234,)
    sides = []
    for side in ("none", profile):
        runs = [sample_values(row["task"], row["metric"], row["num_fewshot"] or 0, seed, side) for seed in seeds]
        sides.append(np.mean([values for values, _ in runs], axis=0))
    return (*sides, runs[0][1])


def posterior(baseline, act, unseen, seed=1):
    """Draws of the difference by scipy, given so much of a document that was not seen and gained, and lost."""
    cells = [np.sum(act > baseline) + unseen, np.sum(act < baseline) + unseen, np.sum(act == baseline)]
    return stats.dirichlet(cells).rvs(20_000, random_state=seed) @ [1, -1, 0]


@pytest.mark.tier("slow")
class TestNumbers:
    def test_every_cell_is_there(self, report):
        cells = report.comparison[["num_heads", "task", "num_fewshot", "metric"]].itertuples(index=False, name=None)
        demo = [(heads, f"demo_{task}", 0, "acc") for heads in (16, 32) for task in ("choice", "sentiment", "topic")]
        others = [(32, "act_mmlu", 0, metric) for metric in ("acc", "greedy_acc")]
        others += [(32, "act_squad_v1", 0, metric) for metric in ("exact_match", "f1")]
        assert sorted(cells) == sorted([*demo, *others, (32, "demo_choice", 2, "acc")])
        assert report.comparison["paired"].all()
        assert set(report.comparison["model"]) == {"demo-model"}

    def test_means_intervals_and_counts(self, report):
        changed = 0
        for _, row in report.comparison.iterrows():
            baseline, act, _ = both(row)
            difference = act - baseline
            numbers = row[["n", "baseline", "act", "delta"]].astype(float).to_numpy()
            assert numbers == pytest.approx([len(act), baseline.mean(), act.mean(), difference.mean()])
            assert row["standard_error"] == pytest.approx(stats.sem(difference))
            if not np.isin([baseline, act], (0, 1)).all():
                assert row["seeds"] == 2
                assert row[["both", "only_baseline", "only_act", "neither"]].isna().all()
                continue
            table = [[np.sum((baseline == b) & (act == a)) for a in (1, 0)] for b in (1, 0)]
            assert [[row["both"], row["only_baseline"]], [row["only_act"], row["neither"]]] == table
            assert row["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
            changed += bool(difference.any())
            ends = np.quantile(posterior(baseline, act, 0.8), (0.025, 0.975))
            assert (row["low"], row["high"]) == pytest.approx(tuple(ends), abs=0.04 * np.ptp(ends))
            assert row["interval"] == "posterior"
        assert changed >= 2

    def test_holm(self, report):
        for _, rows in report.comparison.groupby("settings"):
            tested = rows[rows["p"].notna()]
            assert tested["p_holm"].to_numpy(float) == pytest.approx(
                multipletests(tested["p"].to_numpy(float), method="holm")[1]
            )

    def test_clustered_standard_errors(self, report):
        rows = report.comparison[report.comparison["clusters"].notna()]
        assert dict(zip(rows["task"], rows["clusters"], strict=True)) == {"act_mmlu": 4, "act_squad_v1": 3}
        for _, row in rows.iterrows():
            baseline, act, clusters = both(row)
            residuals = (act - baseline) - (act - baseline).mean()
            sums = pd.Series(residuals).groupby(clusters).sum()
            variance = (sums**2).sum() / len(act) ** 2 * len(sums) / (len(sums) - 1)
            assert row["clustered_standard_error"] == pytest.approx(np.sqrt(variance))
        assert (rows["clustered_standard_error"] > 0).any()

    def test_noise(self, report):
        noise = report.comparison[report.comparison["noise"].notna()]
        assert set(noise["task"]) == {"demo_sentiment", "demo_topic"}
        assert (noise["noise"] == 0).all()

    def test_macro_averages(self, report):
        (row,) = report.groups[report.groups["num_heads"] == 32].to_dict("records")
        assert (row["group"], row["tasks"], row["of_tasks"], row["n"], row["num_fewshot"]) == ("act_demo", 3, 3, 48, 0)
        tasks = report.comparison[(report.comparison["num_heads"] == 32) & report.comparison["task"].str.startswith("demo_")]
        pairs = [both(task) for _, task in tasks[tasks["num_fewshot"] == 0].iterrows()]
        assert row["baseline"] == pytest.approx(np.mean([baseline.mean() for baseline, _, _ in pairs]))
        assert row["act"] == pytest.approx(np.mean([act.mean() for _, act, _ in pairs]))
        assert row["delta"] == pytest.approx(row["act"] - row["baseline"])
        draws = [posterior(baseline, act, 0.8 / 3, seed) for seed, (baseline, act, _) in enumerate(pairs)]
        ends = np.quantile(np.mean(draws, axis=0), (0.025, 0.975))
        assert (row["low"], row["high"]) == pytest.approx(tuple(ends), abs=0.04 * np.ptp(ends))
        assert row["interval"] == "posterior"

    def test_subjects(self, report):
        baseline, act, clusters = both(report.comparison[report.comparison["task"] == "act_mmlu"].iloc[0])
        subjects = report.subjects[report.subjects["metric"] == "acc"].set_index("subject")
        expected = pd.DataFrame({"baseline": baseline, "act": act}).groupby(clusters).mean()
        assert subjects["n"].to_dict() == dict.fromkeys(expected.index, 6)
        assert subjects["delta"].to_dict() == pytest.approx((expected["act"] - expected["baseline"]).to_dict())


@pytest.mark.tier("slow")
class TestFlips:
    def test_every_changed_document_once(self, report):
        counts = report.comparison.set_index(["task", "metric", "num_fewshot", "num_heads"])
        binary = counts[counts["only_act"].notna()]
        flips = report.flips.documents
        expected = binary["only_baseline"].sum() + binary["only_act"].sum()
        assert report.flips.total == len(flips)
        assert (flips["num_fewshot"] == 0).sum() == expected > 2
        assert set(flips[flips["num_fewshot"] == 2]["seed"]) <= {0, 42}

    def test_contents(self, report):
        for _, flip in report.flips.documents.iterrows():
            right, wrong = ("act", "baseline") if flip["change"] == "gained" else ("baseline", "act")
            assert flip[f"answer_{right}"] == flip["gold"] != flip[f"answer_{wrong}"]
            assert flip[f"margin_{right}"] >= 0 >= flip[f"margin_{wrong}"]
            assert flip["prompt"].endswith((":", "the"))

    def test_margins_are_those_of_the_samples(self, report):
        flip = report.flips.documents[report.flips.documents["task"] == "demo_topic"].iloc[0]
        (file,) = set(RESULTS.glob("samples_demo_topic_2026-11-24T08-46-03*"))
        sample = next(
            json.loads(line) for line in file.read_text().splitlines() if json.loads(line)["doc_id"] == flip["doc_id"]
        )
        scores = [float(score) for score, _ in sample["filtered_resps"]]
        gold = int(sample["target"])
        assert flip["margin_act"] == pytest.approx(scores[gold] - max(scores[:gold] + scores[gold + 1 :]))
        assert flip["prompt"] == sample["arguments"]["gen_args_0"]["arg_0"]

    def test_few_are_kept_evenly(self):
        flips = make_report([RESULTS], ReportOptions(most_flips=3)).flips
        assert len(flips.documents) == 3 < flips.total
        assert flips.documents["task"].nunique() == 3


@pytest.mark.tier("slow")
class TestTables:
    def test_overview(self, report):
        table = overview(report)
        texts, bold = table.texts.set_index("settings"), table.bold.set_index(table.texts["settings"])
        columns = ["act_mmlu, acc", "act_mmlu, greedy_acc", "act_squad_v1, exact_match", "act_squad_v1, f1"]
        columns += ["demo_choice, 0 shots", "demo_choice, 2 shots", "demo_sentiment", "demo_topic", "act_demo"]
        assert sorted(texts.columns) == sorted(["model", *columns])
        assert texts["demo_choice, 2 shots"].to_dict()["baseline"] == "0.750"
        assert texts.loc["n", "act_demo"] == "48"
        assert bold["demo_topic"].to_dict() == {"baseline": True, ALL_HEADS: False, "n": False} | {
            settings: True for settings in texts.index if "16 heads" in settings
        }
        assert texts.loc[[settings for settings in texts.index if "16 heads" in settings], "act_mmlu, acc"].tolist() == [""]

    def test_stars_and_best_of_what_is_better_low(self, tmp_path, report):
        rows = report.comparison[report.comparison["task"] == "demo_topic"].assign(
            higher_is_better=False, baseline=0.5, act=[0.25, 0.75], low=[-0.3, 0.1], high=[-0.2, 0.4], p_holm=[0.01, 0.2]
        )
        groups = report.groups.iloc[:0]
        table = overview(type(report)(report.runs, rows, groups, report.subjects, report.flips, ()))
        assert table.texts["demo_topic"].tolist() == ["0.500", "0.250*", "0.750", "16"]
        assert table.bold["demo_topic"].tolist() == [False, True, False, False]

    @pytest.mark.parametrize(
        ("scores", "bold"),
        [
            ((0.5, 0.5, 0.5), (False, False, False)),
            ((0.5, 0.5001, 0.4999), (False, False, False)),
            ((0.5, 0.6, 0.6), (False, True, True)),
            ((1234567.1, 1234567.2, 1234567.3), (False, False, False)),
        ],
    )
    def test_nothing_is_best_where_all_are_the_same(self, report, scores, bold):
        """As far as the table shows it."""
        baseline, *act = scores
        rows = report.comparison[report.comparison["task"] == "demo_topic"].assign(baseline=baseline, act=act)
        table = overview(dataclasses.replace(report, comparison=rows, groups=report.groups.iloc[:0]))
        assert table.bold["demo_topic"].tolist() == [*bold, False]

    def test_markdown(self, report):
        text = markdown(report)
        assert text.startswith("### Models x tasks")
        rows = [line for line in text.splitlines() if line.startswith("| act_mmlu ") and "| acc " in line]
        cells = [cell.strip() for cell in rows[0].split("|")]
        assert cells[1:8] == ["act_mmlu", "acc", "0", "24", "0.250", "0.333", "+0.083"]
        assert "clustered SE" in text
        assert text.count("left out") == 2

    def test_latex(self, report):
        text = latex(report)
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 11
        assert r"act\_mmlu & acc & 0 & 24 & 0.250 & 0.333 & $+$0.083 &" in text
        assert r"\textbf{" in text
        assert not [line for line in text.splitlines() if not line.startswith("%") and re.search(r"(?<!\\)[_%#]", line)]
        widths = {line.count("&") for line in text.split(r"\bottomrule")[0].splitlines() if "&" in line}
        assert len(widths) == 1

    def test_names_and_signs_are_escaped(self, report):
        rows = report.comparison.iloc[:1].assign(task="a|b*c_d", p=1e-9)
        hostile = dataclasses.replace(report, comparison=rows, groups=report.groups.iloc[:0], subjects=report.subjects.iloc[:0])
        assert "| a\\|b\\*c_d |" in " ".join(markdown(hostile).split())
        assert r"a|b*c\_d & acc &" in latex(hostile)
        assert r"& $<$0.001 &" in latex(hostile)

    def test_terminal(self, report):
        console = Console(width=100, record=True, force_terminal=True)
        print_tables(report, console)
        text = console.export_text()
        assert "act_demo" in text
        assert re.search(r"act_mmlu +acc +0 +24 +0.250 +0.333 +\+0.083", text)
        assert "…" not in text

    def test_terminal_of_80_and_of_120_columns(self, report):
        texts = {}
        for width in (80, 120):
            console = Console(width=width, record=True, file=io.StringIO())
            print_tables(report, console)
            texts[width] = console.export_text()
            assert max(map(len, texts[width].splitlines())) <= width
            for task in report.comparison["task"]:
                assert re.search(rf"^{task} ", texts[width], re.MULTILINE)
        assert "\nn, detectable: in comparison.csv, or in a wider terminal\n" in texts[80]
        assert re.search(r"^act_squad_v1   exact_match     0    0.000   0.000", texts[80], re.MULTILINE)
        assert "wider" not in texts[120]
        assert re.search(r"^act_squad_v1   exact_match     0  9    0.000   0.000", texts[120], re.MULTILINE)

    def test_labels_say_what_tells_apart(self):
        rows = pd.DataFrame({"task": list("aab"), "metric": ["acc", "f1", "acc"], "num_fewshot": [0, 0, 4]})
        assert labels(rows, "task", ("metric", "num_fewshot")).tolist() == ["a, acc", "a, f1", "b"]
        rows["metric"] = "acc"
        rows["num_fewshot"] = [0.0, 4.0, 4.0]
        assert labels(rows, "task", ("metric", "num_fewshot")).tolist() == ["a, 0 shots", "a, 4 shots", "b"]


class TestTextTable:
    TABLE = TextTable(
        "A|title\nof two lines",
        pd.DataFrame({"name": ["a|b*c_d", "e"], "p": ["<0.001", "-1 ± 2"]}),
        ["name"],
        pd.DataFrame({"name": [False, False], "p": [True, False]}),
    )

    def test_markdown(self):
        heading, empty, *lines = self.TABLE.to_markdown().split("\n", 4)[1:]
        assert (heading, empty) == ("of two lines", "")
        assert lines[1].replace(" ", "").split("\n")[-3:-1] == ["|a\\|b\\*c_d|**<0.001**|", "|e|-1±2|"]

    def test_latex(self):
        text = self.TABLE.to_latex("a note", "another")
        assert text.startswith("% A|title of two lines\n% a note\n% another\n\\begin{tabular}{lr}\n")
        assert r"a|b*c\_d & \textbf{$<$0.001} \\" in text
        assert r"e & $-$1 $\pm$ 2 \\" in text

    def test_terminal(self):
        console = Console(width=60, record=True, force_terminal=True)
        console.print(self.TABLE.to_terminal(styles=["green", None], ends_of_sections=[0]))
        lines = [line.rstrip() for line in console.export_text(styles=True).splitlines()]
        ((first, second),) = [(lines[place], lines[place + 2]) for place in range(len(lines)) if "a|b*c_d" in lines[place]]
        assert "\x1b[32m<0.001" in first
        assert second == "e        -1 ± 2"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (p_value(0.0009), "<0.001"),
            (p_value(0.001), "0.001"),
            (p_value(1), "1.000"),
            (p_value(float("nan")), ""),
            (interval(-0.5, 0.25), "-0.500 to +0.250"),
            (interval(-0.5, 0.25, digits=2), "-0.50 to +0.25"),
            (interval(float("nan"), float("nan")), "unpaired"),
            (number(None, ".3f"), ""),
            (number(3.0, ".0f"), "3"),
            (with_spread(0.5, 0.1, "+.3f"), "+0.500 ± 0.100"),
            (with_spread(0.5, float("nan"), "+.3f"), "+0.500"),
        ],
    )
    def test_numbers(self, text, expected):
        assert text == expected


@pytest.mark.tier("slow")
class TestPlots:
    def test_all_of_them_as_png_and_svg(self, figures, files):
        names = ["improvement", "label_priors", "scatter", "heat_map", "number_of_heads", "subjects"]
        assert list(figures) == names
        for name in names:
            image = matplotlib.image.imread(files[f"{name}.png"])
            assert min(image.shape[:2]) > 200
            assert image[..., :3].std() > 0.01
            texts = [text.text for text in ElementTree.parse(files[f"{name}.svg"]).iter("{http://www.w3.org/2000/svg}text")]
            assert any(text and "ACT" in text for text in texts), name

    def test_a_plot_says_all_that_is_said_of_it(self, figures, files):
        """Its name, its title on the page, and one place in it: a new one needs nothing else."""
        drawn = [plot for plot in PLOTS if plot.name in figures]
        assert [plot.name for plot in PLOTS if plot not in drawn] == ["study", "methods"], "of which there is none"
        assert len({plot.name for plot in PLOTS}) == len({plot.title for plot in PLOTS}) == len(PLOTS)
        assert {file.stem for file in files.values() if file.suffix == ".svg"} == {plot.name for plot in drawn}
        titles = re.findall("<figcaption>(.*?)</figcaption>", files["report.html"].read_text())
        assert titles == [plot.title for plot in drawn]

    def test_a_new_plot_is_written_and_on_the_page(self, report, tmp_path, monkeypatch):
        monkeypatch.setattr("act_eval.report.plots.PLOTS", plots_of_a_report := PLOTS[:2])
        monkeypatch.setattr("act_eval.report.page.PLOTS", plots_of_a_report)

        @report_plot("rows", "How many rows there are")
        def plot_rows(report):
            figure = Figure()
            figure.text(0.5, 0.5, f"{len(report.comparison)} rows")
            return figure

        assert plot_rows.__name__ == "plot_rows"
        written = {path.name for path in write_report(report, tmp_path)}
        assert written >= {"rows.png", "rows.svg"}
        assert "<figcaption>How many rows there are</figcaption>" in (tmp_path / "report.html").read_text()

    def test_texts_stay_inside(self, figures):
        for name, figure in figures.items():
            figure.draw_without_rendering()
            drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(drawn.x0, drawn.y0) >= -0.02, name
            assert (drawn.x1 <= width + 0.02, drawn.y1 <= height + 0.02) == (True, True), name

    def test_long_names_fit(self, report):
        rows = report.comparison[report.comparison["task"] == "demo_topic"]
        rows = rows.assign(settings=rows["settings"].map(lambda name: "long_folder_" * 5 + name))
        figures = make_plots(dataclasses.replace(report, comparison=rows))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for figure in figures.values():
                figure.draw_without_rendering()

    def test_bars_are_the_differences(self, report, figures):
        panels = [[round(bar.get_width(), 6) for bar in axes.patches] for axes in figures["improvement"].axes]
        deltas = [round(delta * 100, 6) for delta in report.comparison["delta"]]
        assert sorted(width for widths in panels for width in widths) == sorted(deltas)
        assert all(widths == sorted(widths) for widths in panels)

    def test_points_are_the_differences_before_and_after(self, report, figures):
        settings = {axes.get_title(loc="left"): axes for axes in figures["label_priors"].axes}
        for name, rows in report.label_priors.groupby("settings"):
            axes = settings[name]
            assert [text.get_text() for text in axes.get_yticklabels()] == rows.sort_values("delta")["task"].tolist()
            for container, column in zip(axes.containers, ("delta_before", "delta"), strict=True):
                points = container.lines[0].get_xdata()
                assert points == pytest.approx(rows.sort_values("delta")[column].to_numpy(float) * 100)

    def test_line_of_heads(self, report, figures):
        (axes,) = figures["number_of_heads"].axes
        x, y = axes.lines[0].get_data()
        groups = report.groups.sort_values("num_heads")
        assert list(x) == [16, 32]
        assert y == pytest.approx(groups["delta"].to_numpy(float) * 100)

    def test_nothing_to_show(self, report):
        assert plot_subjects(dataclasses.replace(report, subjects=report.subjects.iloc[:0])) is None
        one = report.comparison[report.comparison["num_heads"] == 32]
        assert plot_number_of_heads(dataclasses.replace(report, comparison=one, groups=report.groups.iloc[:0])) is None
        worse = report.comparison.assign(baseline=12.0)
        empty = {"groups": report.groups.iloc[:0], "subjects": report.subjects.iloc[:0]}
        assert make_plots(dataclasses.replace(report, comparison=worse, priors=LabelPriors(), **empty)) == {}

    def test_style(self, report, tmp_path, monkeypatch):
        monkeypatch.setattr("act_eval.report.plots.PLOTS", [plot for plot in PLOTS if plot.name in ("improvement", "scatter")])
        sheet = tmp_path / "own.mplstyle"
        sheet.write_text("figure.facecolor: 00ff00\nsavefig.facecolor: 00ff00\n")
        paths = write_plots(report, tmp_path, str(sheet))
        assert matplotlib.image.imread(paths[0])[0, 0, :3].tolist() == [0, 1, 0]
        before = dict(matplotlib.rcParams)
        write_plots(report, tmp_path, "ggplot")
        assert dict(matplotlib.rcParams) == before
        with pytest.raises(SettingError, match=r"^style nothing: .* choose one of .*ggplot"):
            write_plots(report, tmp_path, "nothing")

    def test_points_that_are_not_joined_are_beside_each_other_and_named(self, report):
        """Here results files name no heads, so that nothing is known to be a ranking."""
        runs = report.runs.iloc[:0]
        groups = pd.concat(
            [report.groups.assign(settings=name, num_heads=heads) for name, heads in (("a", 4), ("b", 4), ("c", 9))]
        )
        groups = groups[groups["group"] == "act_demo"].drop_duplicates("settings")
        axes = plot_number_of_heads(dataclasses.replace(report, runs=runs, groups=groups)).axes[0]
        lines = {container.get_label(): container.lines[0] for container in axes.containers}
        assert set(lines) == {"a", "b", "c"}
        places = {name: line.get_xdata()[0] for name, line in lines.items()}
        assert places["a"] < 4 < places["b"] < 4.5
        assert places["c"] == 9


@pytest.mark.tier("slow")
class TestOptions:
    def test_metrics(self):
        report = make_report([RESULTS], ReportOptions(metrics=("f1", "greedy_acc")))
        assert set(report.comparison["metric"]) == {"f1", "greedy_acc"}
        with pytest.raises(SettingError, match=r"^metric nothing: no run has it; there are acc, exact_match, f1, greedy_acc"):
            make_report([RESULTS], ReportOptions(metrics=("nothing",)))

    def test_patterns(self):
        report = make_report([RESULTS], ReportOptions(patterns={"task": "demo_*", "num_fewshot": "0", "settings": "all*"}))
        assert report.comparison["task"].tolist() == ["demo_choice", "demo_sentiment", "demo_topic"]
        assert report.comparison["p_holm"].tolist() == [1, 1, 1]
        assert report.comparison["noise"].notna().sum() == 2
        several = make_report([RESULTS], ReportOptions(patterns={"task": ("demo_t*", "demo_choice"), "settings": "all*"}))
        assert several.comparison["task"].drop_duplicates().tolist() == ["demo_choice", "demo_topic"]
        with pytest.raises(SettingError, match=r"^filter colour=...: there is no such column"):
            make_report([RESULTS], ReportOptions(patterns={"colour": "red"}))
        with pytest.raises(ReportError, match=r"^no result is left by task=x\*, task=y: .* tasks are act_mmlu, .*demo_topic"):
            make_report([RESULTS], ReportOptions(patterns={"task": ("x*", "y")}))

    def test_a_copy_of_a_run_is_no_newer_one(self, tmp_path):
        for name in ("one", "other"):
            shutil.copytree(RESULTS, tmp_path / name)
        notes = make_report([tmp_path]).notes
        assert any(note.endswith("was left out, for it is there twice.") for note in notes)
        assert not any("newer one" in note for note in notes if note not in make_report([RESULTS]).notes)

    def test_group_by(self):
        groups = {
            by: set(make_report([RESULTS], ReportOptions(group_by=by)).groups["group"])
            for by in ("group", "tag", "all", "none")
        }
        assert groups == {"group": {"act_demo"}, "tag": {"all tasks"}, "all": {"all tasks"}, "none": set()}
        with pytest.raises(SettingError, match=r"^group_by colour: choose one of group, tag, all, none"):
            ReportOptions(group_by="colour")


@pytest.mark.tier("slow")
class TestJson:
    def test_follows_its_schema(self, report, files):
        content = json.loads(files["report.json"].read_text())
        jsonschema.Draft202012Validator.check_schema(schema())
        jsonschema.validate(content, schema())
        assert content["schema_version"] == schema()["properties"]["schema_version"]["const"]
        assert len(content["comparison"]) == len(report.comparison)

    def test_schema_names_every_field(self, report):
        content, described = json.loads(to_json(report)), schema()["properties"]
        for part in ("comparison", "groups", "subjects", "runs", "labels", "replies"):
            assert set(content[part][0]) == set(described[part]["items"]["properties"]), part
        for part, same in {"label_priors": "comparison", "label_prior_groups": "groups"}.items():
            fields = (described[name]["items"]["properties"] for name in (part, same))
            assert set(content[part][0]) == set().union(*fields), part
        assert set(content["flips"]["documents"][0]) == set(
            described["flips"]["properties"]["documents"]["items"]["properties"]
        )
        assert set(content) == set(described)

    def test_numbers_survive(self, report):
        content = json.loads(to_json(report))
        table = pd.DataFrame(content["comparison"], columns=report.comparison.columns)
        pd.testing.assert_frame_equal(table, report.comparison, check_dtype=False)

    def test_command(self, capsys, monkeypatch):
        monkeypatch.setattr(
            "sys.argv", ["act-eval", "report", str(RESULTS), "--json", "--metric", "acc", "--filter", "task=demo_*"]
        )
        before = sorted(RESULTS.iterdir())
        main()
        content = json.loads(capsys.readouterr().out)
        assert {row["task"] for row in content["comparison"]} == {"demo_choice", "demo_sentiment", "demo_topic"}
        assert sorted(RESULTS.iterdir()) == before

    def test_several_filters_of_a_column(self, capsys, monkeypatch):
        filters = ["--filter", "task=demo_t*", "--filter", "metric=acc", "--filter", "task=demo_choice"]
        monkeypatch.setattr("sys.argv", ["act-eval", "report", str(RESULTS), "--json", *filters])
        main()
        comparison = json.loads(capsys.readouterr().out)["comparison"]
        assert {(row["task"], row["metric"]) for row in comparison} == {("demo_choice", "acc"), ("demo_topic", "acc")}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--filter", "task"], "is not COLUMN=PATTERN"),
            (["--filter", "colour=red"], "no such column"),
            (["--metric", "x"], "no run has it"),
            (["--group-by", "x"], "choose one of"),
            (["--style", "x"], "no such style"),
        ],
    )
    def test_bad_options(self, arguments, message, capsys, monkeypatch, tmp_path):
        monkeypatch.setattr("sys.argv", ["act-eval", "report", str(RESULTS), "-o", str(tmp_path / "report"), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert re.fullmatch(f"act-eval: .*{message}.*\n", capsys.readouterr().err)


@pytest.mark.tier("slow")
def test_swapping_negates(tmp_path, report):
    """Calibrated runs renamed to baselines and the other way round: differences change sign, p stays."""
    for file in RESULTS.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    for file in tmp_path.glob("results_*.json"):
        results = json.loads(file.read_text())
        act = results["config"].get("act")
        heads = act["num_heads"] if act else 0
        if heads == 16 or file.name.startswith("results_2026-11-24T08-44-01"):
            file.unlink()
            continue
        settings = {"beta": 0.4, "threshold": None, "alpha": 5, "keep": "first-sink", "decode": "prefill", "profile": "all"}
        results["config"]["act"] = {**settings, "profile_hash": "0" * 16, "num_heads": 32 - heads}
        results["config"]["model_args"] = {"pretrained": "demo-model"}
        file.write_text(json.dumps(results))
    swapped = make_report([tmp_path]).comparison
    original = report.comparison[report.comparison["num_heads"] == 32].reset_index(drop=True)
    names = ["task", "metric", "num_fewshot"]
    assert swapped[names].to_numpy().tolist() == original[names].to_numpy().tolist()
    for name, other in {"baseline": "act", "both": "both", "only_act": "only_baseline"}.items():
        assert swapped[name].to_numpy(float) == pytest.approx(original[other].to_numpy(float), nan_ok=True)
    assert swapped["p"].to_numpy(float) == pytest.approx(original["p"].to_numpy(float), abs=0.03)  # of other draws
    assert swapped["delta"].to_numpy(float) == pytest.approx(-original["delta"].to_numpy(float))


@pytest.mark.tier("slow")
def test_truncated_samples_are_never_a_wrong_table(tmp_path):
    """A samples file cut anywhere is an error, or an unpaired row with a note."""
    for file in RESULTS.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    (file,) = tmp_path.glob("samples_demo_topic_2026-11-24T08-46-03*")
    whole = file.read_text()
    end_of_line = whole.index("\n", 20_000) + 1
    for length in (1, 20_000, len(whole) - 2):
        file.write_text(whole[:length])
        with pytest.raises(ReportError, match=r"^line \d+ of .*samples_demo_topic.* is not a sample of lm-eval .*$"):
            make_report([tmp_path])
    for length in (0, end_of_line):
        file.write_text(whole[:length])
        report = make_report([tmp_path])
        rows = report.comparison[(report.comparison["task"] == "demo_topic") & (report.comparison["num_heads"] == 32)]
        assert rows["paired"].tolist() == [False]
        assert any("demo_topic" in note and "samples" in note for note in report.unpaired_notes)
