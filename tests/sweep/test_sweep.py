"""Sweeps: the grid, that every point and the baseline are run once, what is compared, the files, and bad input."""

import itertools
import json
import shutil

import pandas as pd
import pytest
from helpers.dying import run_until_killed
from helpers.processes import run_program
from helpers.runs import write_run
from helpers.thorough import thorough
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.errors import InputError
from act_eval.harness.lm import ACTLM
from act_eval.report.build import make_report
from act_eval.report.load import ReportError
from act_eval.report.statistics import ALL_TASKS
from act_eval.sweep.grid import Axis, Point, points
from act_eval.sweep.plots import plot_axis
from act_eval.sweep.results import SweepResults, read_results
from act_eval.sweep.tables import NOTE, axis_table, describe, lines, main_metric, totals, varied
from act_eval.sweep.write import write_sweep

pytestmark = pytest.mark.tier("unit")

TASKS = ("demo_sentiment", "demo_topic")
OPTIONS = ["--tasks", ",".join(TASKS), "--limit", "24", "--batch-size", "24", "--device", "cpu"]
VARY = ["--vary", "beta=0,0.5,1", "--vary", "method=act,to-first-token,remove"]
MODEL_ARGS = ["--model-args", "act_profile=all,act_alpha=3"]
RUN = 5  # points that are run: two methods at two values of beta, and remove
FILES = {f"by_{axis}.{suffix}" for axis in ("beta", "method") for suffix in ("md", "tex", "png", "svg")}
FILES |= {"planned_runs.json", "sweep.csv"}


def axes(**values):
    return [Axis(name, tuple(of_axis)) for name, of_axis in values.items()]


def sweep(output, *extra, vary=VARY, options=OPTIONS, model_args=MODEL_ARGS):
    return CliRunner().invoke(
        cli.app, ["sweep", *options, *model_args, *vary, "--output", str(output), *extra], catch_exceptions=False
    )


def cells(output):
    files = sorted(output.rglob("results_*.json"))
    return [json.loads(file.read_text())["act_eval_run"]["asked"] for file in files]


class TestGrid:
    def test_all_combinations(self):
        grid = points({"act_profile": "all", "pretrained": "x"}, axes(beta=(0, 0.4), alpha=(3, 5, 7)))
        assert [tuple(point.values.values()) for point in grid] == list(itertools.product((0, 0.4), (3, 5, 7)))
        assert all(point.arguments.profile == "all" for point in grid)
        assert [point.arguments.settings["alpha"] for point in grid[:3]] == [3, 5, 7]
        assert grid[1].label == "beta 0, alpha 5"

    def test_methods_get_what_they_know(self):
        grid = points(
            {"act_profile": "all", "act_alpha": 5},
            axes(beta=(0, 0.4), method=("act", "remove", "temperature"), theta=(1.1, 2), sink_share=(0.5, 1)),
        )
        known = [tuple(point.values.items()) for point in grid]
        assert len(known) == len(set(known)) == 2 * 2 + 2 + 2
        for point in grid:
            names = {
                "act": {"method", "beta", "sink_share"},
                "remove": {"method", "sink_share"},
                "temperature": {"method", "theta"},
            }
            assert set(point.values) == names[point.values["method"]]
            calibration = point.arguments.calibration
            assert calibration.alpha == (None if point.values["method"] == "temperature" else 5)
            assert calibration.sink_share == point.values.get("sink_share", 1)

    @given(
        st.lists(st.sampled_from(["act", "to-first-token", "remove", "temperature", "boost"]), min_size=1, unique=True),
        st.lists(st.sampled_from([1.25, 2, 3.5]), min_size=1, unique=True),
        st.permutations(["method", "theta", "head_share"]),
    )
    def test_points_are_different_and_the_order_of_axes_decides_their_order_alone(self, names, thetas, order):
        values = {"method": names, "theta": thetas, "head_share": (0.5, 1)}
        if "temperature" not in names:
            values.pop("theta")
        sweeps = [
            points({"act_profile": "all"}, axes(**{name: values[name] for name in some if name in values}))
            for some in (order, sorted(values))
        ]
        for grid in sweeps:
            assert len({point.label for point in grid}) == len(grid)
            assert len({json.dumps(point.arguments.model_args) for point in grid}) == len(grid)
        settings = [{json.dumps(point.arguments.model_args) for point in grid} for grid in sweeps]
        assert settings[0] == settings[1]

    def test_parse(self):
        assert Axis.parse("beta=0,0.4, 1") == Axis("beta", (0, 0.4, 1))
        assert Axis.parse("act_method=act,boost") == Axis("method", ("act", "boost"))
        assert Axis.parse("profile=2:8+13;5:1,all").values == ("2:8+13;5:1", "all")
        assert Axis("beta", (0, 0.4)).is_numeric
        assert not Axis("method", ("act", "boost")).is_numeric
        assert Axis.parse("alpha=none,3") == Axis("alpha", (None, 3)) == Axis("alpha", ("none", 3))
        assert not Axis("alpha", (None, 3)).is_numeric

    def test_none_is_a_value(self):
        grid = points({"act_profile": "all"}, axes(alpha=(None, 3), method=("act", "temperature"), theta=(2,)))
        assert [dict(point.values) for point in grid] == [
            {"alpha": "none", "method": "act"}, {"method": "temperature", "theta": 2}, {"alpha": 3, "method": "act"}
        ]  # fmt: skip
        assert [point.arguments.settings.get("alpha") for point in grid] == [None, None, 3]
        assert grid[0].label == "alpha none, act"

    @pytest.mark.parametrize(
        ("model_args", "vary", "culprit"),
        [
            ({}, {"beta": (0.4, 1.5)}, "beta is 1.5, but for the method act"),
            ({}, {"beta": (0.4, 1.5), "method": ("act", "boost")}, "beta is"),
            ({}, {"method": ("act", "louder")}, "no method 'louder'"),
            ({}, {"theta": (1, 2)}, "takes beta, not theta"),
            ({"act_theta": 2}, {"beta": (0, 1)}, "takes beta, not theta"),
            ({}, {"colour": (1, 2)}, "no argument 'act_colour'"),
            ({"act_beta": 0.4}, {"beta": (0, 1)}, "act_beta is among the model arguments and varies"),
            ({"act_alpha": 5}, {"threshold": (0.1, 0.2)}, "threshold and alpha are two ways"),
            ({}, {"threshold": (0.1, 0.2), "alpha": (3, 5)}, "threshold and alpha are two ways"),
            ({}, {"alpha": (3, "x")}, "alpha is 'x'"),
            ({}, {"sink_share": (0.5, 2)}, "sink_share is 2"),
            ({}, {"head_share": (0.5, -1)}, "head_share is -1"),
            ({}, {"beta": (1,), "method": ("act", "to-first-token")}, "every point of the sweep changes nothing"),
            ({"act_profile": "none"}, {"beta": (0, 0.4)}, "every point of the sweep changes nothing"),
            ({}, {"beta": (0.4,)}, "one point"),
            ({}, {"method": ("scale-first-token", "act")}, "needs gamma"),
            ({"act_method": "temperature"}, {"alpha": (3, 5)}, "alpha is about attention sinks"),
        ],
    )
    def test_bad_grids(self, model_args, vary, culprit):
        with pytest.raises(InputError, match=culprit) as error:
            points({"act_profile": "all", **model_args}, axes(**vary))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("texts", "culprit"),
        [
            (["beta"], "needs a name and its values"),
            (["beta="], "needs a name and its values"),
            (["=1,2"], "needs a name and its values"),
            (["beta=0,0.4,0"], "the value 0 twice"),
            (["alpha=none,3,None"], "the value none twice"),
            (["base=sdpa,eager"], "base"),
            (["beta=0,1", "beta=0.5"], "vary beta is given twice"),
        ],
    )
    def test_bad_axes(self, texts, culprit):
        with pytest.raises(InputError, match=culprit):
            points({"act_profile": "all"}, [Axis.parse(text) for text in texts])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep")
    result = sweep(output)
    assert result.exit_code == 0, result.output
    return output, result.output


@pytest.mark.tier("slow")
class TestRun:
    def test_every_point_and_the_baseline_are_run_once(self, finished):
        output, _ = finished
        ran = cells(output)
        assert len(ran) == (RUN + 1) * len(TASKS)
        baselines = [cell for cell in ran if cell["model_args"]["act_profile"] == "none"]
        assert sorted(cell["task"] for cell in baselines) == sorted(TASKS)

    def test_numbers_are_those_of_the_report(self, finished):
        output, _ = finished
        table, report = pd.read_csv(output / "sweep.csv"), make_report([output])
        assert len(table) == (RUN + 2) * (len(TASKS) + 1)
        compared = 0
        for row in table[table["settings"] != "baseline"].to_dict("records"):
            rows, name = (report.groups, "group") if row["task"] == ALL_TASKS else (report.comparison, "task")
            (same,) = rows[(rows["settings"] == row["settings"]) & (rows[name] == row["task"])].to_dict("records")
            for column in ("n", "baseline", "act", "delta", "low", "high"):
                assert row[column] == pytest.approx(same[column], abs=1e-12), (row["settings"], column)
            assert row["interval"] == same["interval"] == "posterior"
            beta = "" if pd.isna(row["beta"]) else f", beta {row['beta']:g}"
            name = "" if row["method"] == "act" else f", {row['method']}"
            assert row["settings"] == f"all (32 heads){name}{beta}, alpha 3"
            compared += 1
        assert compared == RUN * (len(TASKS) + 1)
        assert table["delta"].nunique() > 3

    def test_a_point_that_changes_nothing_is_the_baseline(self, finished):
        table = pd.read_csv(finished[0] / "sweep.csv")
        nothing = table[table["beta"] == 1]
        assert set(nothing["method"]) == {"act", "to-first-token"}
        assert len(nothing) == 2 * (len(TASKS) + 1)
        assert (nothing["delta"] == 0).all()
        assert (nothing["act"] == nothing["baseline"]).all()
        assert nothing["low"].isna().all()
        assert "= baseline" in (finished[0] / "by_beta.md").read_text()

    def test_files_and_what_is_shown(self, finished):
        output, shown = finished
        assert {path.name for path in output.glob("[!.]*") if path.is_file()} == FILES
        assert "By beta: acc, average over 2 tasks" in shown
        assert "By method" in shown
        assert "demo_topic, method" not in shown
        for axis in ("beta", "method"):
            assert f">{axis}</text>" in (output / f"by_{axis}.svg").read_text()
        rows = [line.split("|") for line in (output / "by_method.md").read_text().splitlines() if line.startswith("|")][2:]
        assert [(row[1].strip(), row[2].strip()) for row in rows] == [
            ("0", "act"), ("0", "to-first-token"), ("0.5", "act"), ("0.5", "to-first-token"), ("1", "act"),
            ("1", "to-first-token"), ("", "remove"),
        ]  # fmt: skip

    def test_the_same_again_runs_nothing_and_writes_the_same(self, finished, monkeypatch):
        output, _ = finished
        before = {name: (output / name).read_bytes() for name in FILES}
        monkeypatch.setattr(ACTLM, "__init__", lambda *_, **__: pytest.fail("the model was loaded"))
        assert sweep(output).exit_code == 0
        assert {name: (output / name).read_bytes() for name in FILES} == before

    @pytest.mark.usefixtures("without_plots")
    def test_more_values_run_what_is_missing(self, finished, tmp_path, monkeypatch):
        output = tmp_path / "sweep"
        shutil.copytree(finished[0], output)
        done, loaded = cells(output), []
        original = ACTLM.set_act
        monkeypatch.setattr(ACTLM, "set_act", lambda lm, arguments: loaded.append(arguments) or original(lm, arguments))
        result = sweep(output, vary=["--vary", "beta=0,0.25,0.5", "--vary", "method=act,temperature"])
        assert result.exit_code == 0
        new = cells(output)
        assert len(new) == len(done) + 2 * len(TASKS)
        assert sum(cell["model_args"]["act_profile"] == "none" for cell in new) == len(TASKS)
        assert f"{3 * len(TASKS)} of {5 * len(TASKS)} runs are finished" in result.output
        assert all(f"{task}, beta 0.25, act" in result.output for task in TASKS)
        table = pd.read_csv(output / "sweep.csv")
        assert set(table["method"]) == {"act", "temperature"}
        assert len(table) == 4 * (len(TASKS) + 1)
        assert sum("temperature" in settings for settings in make_report([output]).comparison["settings"]) == len(TASKS)

    @pytest.mark.usefixtures("without_plots")
    def test_other_results_beside_it_are_left_out(self, finished, tmp_path):
        """Runs of the same settings, on other documents."""
        output = tmp_path / "sweep"
        shutil.copytree(finished[0], output)
        vary = ["--vary", "beta=0,0.5", "--vary", "method=act"]
        fewer = ["--tasks", "demo_topic", "--limit", "8", "--batch-size", "8", "--device", "cpu"]
        assert sweep(output, vary=vary, options=fewer).exit_code == 0
        table = pd.read_csv(output / "sweep.csv")
        assert set(table["n"]) == {8}
        assert set(table["task"]) == {"demo_topic"}
        assert "acc, demo_topic" in (output / "by_beta.md").read_text()

    @pytest.mark.usefixtures("without_plots")
    def test_seeds(self, tmp_path):
        output = tmp_path / "sweep"
        options = [*OPTIONS, "--limit", "8", "--num-fewshot", "1", "--seeds", "1,2"]
        assert sweep(output, vary=["--vary", "sink_share=0,0.5,1"], options=options).exit_code == 0
        assert len(cells(output)) == 3 * 2 * len(TASKS)
        table = pd.read_csv(output / "sweep.csv")
        assert set(table["num_fewshot"]) == {1}
        settings = "all (32 heads), beta 0.4, alpha 3"
        assert set(table["settings"]) == {"baseline", settings, f"{settings}, 50% of sinks"}

    @pytest.mark.usefixtures("without_plots")
    def test_none_among_the_values(self, tmp_path):
        """As the baseline itself, like a share of 0, and as a setting of its own."""
        options = ["--tasks", "demo_topic", "--limit", "8", "--batch-size", "8", "--device", "cpu"]
        vary = ["--vary", "profile=none,all,2:1", "--vary", "alpha=none,3"]
        result = sweep(tmp_path, vary=vary, options=options, model_args=[])
        assert result.exit_code == 0
        assert len(cells(tmp_path)) == 2 * 2 + 1
        table = pd.read_csv(tmp_path / "sweep.csv").set_index(["profile", "alpha"])
        assert set(table.index) == {(profile, alpha) for profile in ("none", "all", "2:1") for alpha in ("none", "3")}
        assert set(table.loc["none", "settings"]) == {"baseline"}
        assert table.loc[("all", "none"), "settings"] == "all (32 heads), beta 0.4, threshold 0.1"
        for name in ("profile", "alpha"):
            lines_of_table = (tmp_path / f"by_{name}.md").read_text().splitlines()
            assert sum(line.startswith("|") for line in lines_of_table) == 2 + 6
            assert sum("= baseline" in line and " none " in line for line in lines_of_table) == 2
        assert result.output.count("= baseline") == 4

    @pytest.mark.usefixtures("without_plots")
    def test_shares_of_heads(self, tmp_path):
        assert sweep(tmp_path, vary=["--vary", "head_share=0,0.25,0.26,1"], options=[*OPTIONS, "--limit", "8"]).exit_code == 0
        table = pd.read_csv(tmp_path / "sweep.csv")
        assert table.groupby("head_share")["num_heads"].first().to_dict() == {0: 0, 0.25: 8, 0.26: 8, 1: 32}
        averages = table[table["task"] == ALL_TASKS].set_index("head_share")["delta"]
        assert averages[0.25] == averages[0.26]

    def test_a_share_that_is_no_head_is_refused_before_the_first_point(self, tmp_path):
        with pytest.raises(InputError, match=r"head_share is 0\.001, which is no head of a profile that has 32"):
            sweep(tmp_path / "none", vary=["--vary", "head_share=1,0.001"], options=[*OPTIONS, "--limit", "8"])
        assert not list(tmp_path.rglob("results_*.json"))

    @pytest.mark.tier("process")
    def test_killed_it_goes_on(self, finished, tmp_path):
        output = tmp_path / "sweep"
        # The plan is a file, and each run puts two in place, samples and results: the fourth run is killed between them.
        run_until_killed(output, 2 + 4 * 3 + 2, "sweep", *OPTIONS, *MODEL_ARGS, *VARY, "--output", str(output))
        before = {file: file.stat().st_mtime_ns for file in output.glob("[!.]*/results_*.json")}
        assert len(before) == 3
        assert sweep(output).exit_code == 0
        assert {file: file.stat().st_mtime_ns for file in before} == before
        for name in FILES:
            assert (output / name).read_bytes() == (finished[0] / name).read_bytes(), name

    @pytest.mark.tier("unit")
    @pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
    @pytest.mark.parametrize(
        ("arguments", "culprit"),
        [
            (["--vary", "beta=0,3"], "beta is 3"),
            (["--vary", "method=act,louder"], "no method 'louder'"),
            (["--vary", "beta"], "needs a name and its values"),
            (["--vary", "beta=0,0.4", "--seeds", "x"], "--seeds"),
            (["--vary", "beta=0,0.4", "--metric", "f1"], "--metric f1: no task of the sweep has it; there are acc"),
        ],
    )
    def test_bad_input_before_the_model_is_loaded(self, tmp_path, monkeypatch, arguments, culprit, dry_run):
        monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
        with pytest.raises(InputError, match=culprit):
            sweep(tmp_path / "x", *arguments, *dry_run, vary=[])

    @pytest.mark.tier("process")
    def test_a_profile_that_does_not_fit_ends_before_anything_runs(self, tmp_path):
        result = run_program("sweep", *OPTIONS, "--vary", "profile=all,9:1", "--output", tmp_path / "x")
        assert result.returncode == 2
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("act-eval: ")]
        assert "names layer 9" in line
        assert "Traceback" not in result.stderr
        assert not list(tmp_path.rglob("results_*.json"))

    def test_a_metric_that_is_not_there_loses_nothing(self, finished, tmp_path):
        output = tmp_path / "sweep"
        shutil.copytree(finished[0], output)
        with pytest.raises(InputError, match="--metric f1: no task of the sweep has it; there are acc"):
            sweep(output, "--metric", "f1")
        assert len(cells(output)) == (RUN + 1) * len(TASKS)


# --- tables and plots, of made-up results


def made_up(vary, tasks=TASKS, metrics=("acc",)):
    """Results with a different score for every point, task and metric."""
    grid = points({} if "profile" in {axis.name for axis in vary} else {"act_profile": "all"}, vary)
    rows = []
    for number, point in enumerate(grid):
        for place, (task, metric) in enumerate(itertools.product([*tasks, ALL_TASKS] if len(tasks) > 1 else tasks, metrics)):
            delta = 0.0 if point.arguments.changes_nothing else (number + 1) / 100 + place / 1000
            interval = (None, None) if point.arguments.changes_nothing else (delta - 0.02, delta + 0.03)
            row = {"point": number, **{axis.name: point.values.get(axis.name) for axis in vary}}
            row |= {"settings": "baseline" if point.arguments.changes_nothing else point.label, "task": task}
            row |= {"filter": "none", "metric": metric, "higher_is_better": True, "n": 100, "baseline": 0.5, "act": 0.5 + delta}
            rows.append({**row, "delta": delta, "low": interval[0], "high": interval[1], "p": None, "p_holm": None})
    return SweepResults(tuple(vary), tuple(grid), pd.DataFrame(rows))


GRIDS = {
    "one axis": axes(alpha=(3, 5, 7)),
    "one axis of names": axes(method=("act", "remove", "boost", "temperature")),
    "beta and method": axes(beta=(0, 0.2, 0.4, 0.6, 0.8, 1), method=("act", "to-first-token", "remove", "temperature")),
    "four axes": axes(threshold=(0.05, 0.2), sink_share=(0, 1), method=("act", "remove"), keep=("first-sink", "first-token")),
    "none among the values": axes(alpha=(None, 3, 5), profile=(None, "all"), min_queries=(1, 2)),
    "long names": axes(profile=("2:8+13;5:1;7:1+2+3+4+5+6+7+8+9", "1:1+2+3+4+5+6+7+8", "all"), beta=(0.1, 0.3)),
}
MANY_PANELS = {
    "more of four axes": axes(
        threshold=(0.05, 0.1, 0.2), sink_share=(0, 0.4, 1), method=("act", "remove"), keep=("first-sink", "first-token")
    )
}
GRIDS |= dict(thorough(*MANY_PANELS.items()))


@pytest.mark.tier("slow")
@pytest.mark.parametrize("name", GRIDS)
class TestShown:
    def test_tables_hold_every_point(self, name):
        results = made_up(GRIDS[name])
        for axis in varied(results):
            texts = axis_table(results, axis, ("acc", "none")).texts
            there = [point for point in results.points if axis.name in point.values]
            assert len(texts) == len(there)
            for point in there:
                cells = {other.name: str(point.values.get(other.name, "")) for other in results.axes}
                (row,) = texts[(texts[list(cells)] == pd.Series(cells)).all(axis=1)].to_dict("records")
                number = results.points.index(point)
                (average,) = results.table[(results.table["point"] == number) & (results.table["task"] == ALL_TASKS)]["delta"]
                assert row["delta"] == f"{average:+.3f}"
                assert row["demo_sentiment"].rstrip("*") != row["demo_topic"].rstrip("*") or average == 0

    def test_plots_show_every_point_with_its_interval(self, name):
        results = made_up(GRIDS[name])
        for axis in varied(results):
            figure = plot_axis(results, axis, ("acc", "none"))
            FigureCanvasAgg(figure).draw()
            heights, errors = [], []
            for axes_of_panel in figure.axes:
                for container in axes_of_panel.containers:
                    heights += container[0].get_ydata().tolist()
                    for segment in container[2][0].get_segments():
                        errors.append(segment[1][1] - segment[0][1])
            shown = results.table[(results.table["task"] == ALL_TASKS) & results.table[axis.name].notna()]
            assert sorted(heights) == pytest.approx(sorted(shown["delta"] * 100))
            assert sorted(errors) == pytest.approx(sorted((shown["high"] - shown["low"]).fillna(0) * 100))

    def test_plots_are_legible(self, name):
        """Nothing is cut off, the legend touches no panel, and neither titles nor names of values meet."""
        results = made_up(GRIDS[name])
        for axis in varied(results):
            figure = plot_axis(results, axis, ("acc", "none"))
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            renderer, inside = canvas.get_renderer(), figure.bbox.padded(1)
            titles = [panel._left_title.get_window_extent(renderer) for panel in figure.axes if panel._left_title.get_text()]
            panels = [panel.get_tightbbox(renderer) for panel in figure.axes]
            legends = [legend.get_window_extent(renderer) for legend in figure.legends]
            assert len(legends) == (len(results.axes) > 1)
            for box in [*titles, *panels, *legends]:
                assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
                assert inside.y0 <= box.y0 <= box.y1 <= inside.y1
            assert not any(one.overlaps(other) for one, other in itertools.combinations([*legends, *panels], 2))
            assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))

    @pytest.mark.tier("slow")
    def test_files_are_the_same_each_time(self, name, tmp_path):
        results = made_up(GRIDS[name])
        for folder in ("one", "other"):
            (tmp_path / folder).mkdir()
            write_sweep(results, ("acc", "none"), tmp_path / folder)
        one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
        assert one == other
        assert len(one) == 1 + 4 * len(varied(results))


def test_points_without_the_axis_are_left_out_of_its_lines():
    results = made_up(GRIDS["beta and method"])
    beta, method = results.axes
    assert [line for line, _ in lines(results, beta, ("acc", "none"))] == [("act",), ("to-first-token",)]
    by_method = {line: set(rows["method"]) for line, rows in lines(results, method, ("acc", "none"))}
    assert by_method[(None,)] == {"remove", "temperature"}
    assert by_method[(0.4,)] == {"act", "to-first-token"}
    assert list(by_method)[-1] == (None,)


def test_values_stand_in_the_order_they_were_given():
    results = made_up(axes(alpha=(7, 3, 5)))
    ((_, rows),) = lines(results, results.axes[0], ("acc", "none"))
    assert list(dict.fromkeys(rows["alpha"])) == [7, 3, 5]


def test_the_metric_that_most_tasks_have():
    results = made_up(axes(alpha=(3, 5)), metrics=("acc_norm", "acc"))
    assert main_metric(results) == ("acc", "none")
    assert main_metric(results, "acc_norm") == ("acc_norm", "none")
    some = results.table[(results.table["metric"] == "acc_norm") | (results.table["task"] == "demo_topic")]
    assert main_metric(SweepResults(results.axes, results.points, some)) == ("acc_norm", "none")


def test_one_value_of_an_axis_has_no_table():
    results = made_up(axes(alpha=(3, 5), beta=(0.4,)))
    assert [axis.name for axis in varied(results)] == ["alpha"]


def test_one_task_is_named():
    results = made_up(axes(alpha=(3, 5)), tasks=("demo_topic",))
    table = axis_table(results, results.axes[0], ("acc", "none"))
    assert table.title == "By alpha: acc, demo_topic (baseline 0.500)"
    assert list(table.texts) == ["alpha", "ACT", "delta", "95% interval"]


class EveryRun:
    has = staticmethod(lambda content: True)


def results_of(folder, *runs):
    """Results of a sweep over two values of beta: `runs` are the options of a task's, of its baseline and of each point."""
    vary = axes(beta=(0.2, 0.4))
    grid = points({"act_profile": "all"}, vary)
    for options, baseline, *of_points in runs:
        write_run(folder, baseline, **options, model_args={"pretrained": "some/model"})
        for point, values in zip(grid, of_points, strict=True):
            arguments = {"pretrained": "some/model", **point.arguments.model_args}
            write_run(folder, values, **options, heads=32, beta=point.values["beta"], model_args=arguments)
    return read_results(vary, grid, EveryRun(), folder)


def right(number):
    return [1.0] * number + [0.0] * (100 - number)


def test_the_average_is_over_all_tasks_whatever_their_few_shot_counts(tmp_path):
    gains = {"a": (0, 30), "b": (0, 30), "c": (5, -30), "e": (5, -26)}
    runs = [
        ({"task": task, "shots": shots}, right(50), right(50 + gain), right(50 + gain)) for task, (shots, gain) in gains.items()
    ]
    results = results_of(tmp_path, *runs)
    (average,) = results.table[(results.table["task"] == ALL_TASKS) & (results.table["point"] == 0)].to_dict("records")
    assert average["delta"] == pytest.approx(0.01)
    assert average["low"] < 0 < average["high"]
    assert average["n"] == 400
    assert pd.isna(average["num_fewshot"])
    table = axis_table(results, results.axes[0], ("acc", "none"))
    assert table.title == "By beta: acc, average over 4 tasks (baseline 0.500)"
    assert table.texts["delta"].tolist() == ["+0.010", "+0.010"]
    figure = plot_axis(results, results.axes[0], ("acc", "none"))
    assert figure.axes[0].containers[0][0].get_ydata().tolist() == pytest.approx([1.0, 1.0])
    assert "average over 4 tasks" in figure.get_suptitle().replace("\n", " ")


def test_a_task_with_several_few_shot_counts_is_not_averaged(tmp_path):
    with pytest.raises(ReportError, match="a has results with 2 few-shot counts"):
        results_of(tmp_path, *(({"task": "a", "shots": shots}, right(50), right(60), right(60)) for shots in (0, 5)))


def test_tasks_without_paired_differences_are_not_said_to_be_averaged(tmp_path):
    all_at_once = {"task": "c", "score": 0.5, "task_config": {"metric_list": [{"metric": "acc", "aggregation": "f1"}]}}
    unpaired = (all_at_once, *([[1, 0]] * 100,) * 3)
    some = results_of(tmp_path / "some", *(({"task": task}, right(50), right(60), right(60)) for task in "ab"), unpaired)
    assert describe(some, ("acc", "none")) == "acc, average over 2 of 3 tasks (a, b)"
    one = results_of(tmp_path / "one", ({"task": "d"}, right(50), right(60), right(60)), unpaired)
    assert describe(one, ("acc", "none")) == "acc, d"
    assert set(totals(one.table)["task"]) == {"d"}
    assert axis_table(one, one.axes[0], ("acc", "none")).texts["delta"].tolist() == ["+0.100", "+0.100"]


def test_the_note_says_over_which_rows_stars_are_corrected(tmp_path):
    two_metrics = [{"metrics": ["acc", "f1"], "f1": number % 2} for number in range(100)]
    results = results_of(tmp_path, ({"task": "a", "contents": two_metrics}, right(50), right(60), right(65)))
    rows = results.table[results.table["metric"] == "acc"]
    assert (rows["p_holm"] == 2 * rows["p"]).all(), "one task, two metrics"
    assert "Holm p below 0.05 over all paired rows of a point, whatever their metric" in NOTE


def test_long_numbers_have_exponents():
    made = made_up(axes(alpha=(3, 5)), tasks=("a",), metrics=("word_perplexity",))
    long = SweepResults(made.axes, made.points, made.table.assign(baseline=1e9, act=2e9, delta=1e9))
    table = axis_table(long, long.axes[0], ("word_perplexity", "none"))
    assert "1.000e+09" in table.title
    assert set(table.texts["ACT"]) == {"2.000e+09"}
    assert set(table.texts["delta"]) == {"+1.000e+09"}


@pytest.mark.tier("slow")
def test_tables_and_plots_of_an_earlier_sweep_are_removed(tmp_path):
    def write(**vary):
        write_sweep(made_up(axes(**vary), tasks=("a",)), ("acc", "none"), tmp_path)
        return {path.name for path in tmp_path.iterdir()}

    write(alpha=(3, 5), beta=(0.2, 0.4))
    others = {"by_hand.md": "### My notes", "by_hand.png": "", "by_layer.csv": ""}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    expected = {"sweep.csv", *others, *(f"by_beta.{suffix}" for suffix in ("md", "tex", "png", "svg"))}
    assert write(beta=(0.2, 0.4)) == expected


def test_label_of_a_point():
    assert Point({"method": "act", "beta": 0.4}, None).label == "act, beta 0.4"
