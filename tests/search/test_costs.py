"""What a search says it will cost, and how long it takes; how its progress moves."""

import io

import pytest
from helpers.thorough import examples
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from act_eval.cli import app as cli
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.progress import Row
from act_eval.search import units
from act_eval.search.documents import CalibrationDocument
from act_eval.search.heads import SearchSpace
from act_eval.search.planned_costs import PlannedCosts
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.search.time_left import TimeLeft
from act_eval.search.validation_plan import ValidationPlan

PLANNED = PlannedCosts(documents=8, heads=24, full_pass=100.0, estimates=3.0, baseline=1.0, exact=6.0, validation=4.0)


@pytest.mark.tier("unit")
class TestTimeLeft:
    def test_is_what_the_first_batch_takes_for_all_layer_passes(self):
        seconds = [0.0]
        time_left = TimeLeft(PLANNED, clock=lambda: seconds[0])
        time_left.enter("estimates")
        time_left.count(200, computed=False)  # by an earlier run
        assert time_left.first_words() is None
        seconds[0] = 50.0
        time_left.start()
        seconds[0] = 62.0
        time_left.count(100, computed=True)
        assert time_left.seconds == pytest.approx(12 * (14 - 3))
        assert time_left.first_words() == "The first batch has run: at most about 2 minutes are left."
        assert time_left.first_words() is None

    @pytest.mark.parametrize(("part", "passes"), [("estimates", 14), ("exact", 11), ("validation", 4)])
    @pytest.mark.parametrize("processes", [1, 2])
    def test_parts_that_are_done_are_not_left(self, part, passes, processes):
        seconds = [0.0]
        time_left = TimeLeft(PLANNED, processes, clock=lambda: seconds[0])
        time_left.enter(part)
        time_left.start()
        seconds[0] = 6.0
        time_left.count(10, computed=True)
        time_left.enter(part)
        assert time_left.seconds == pytest.approx(0.6 * (100 * passes / processes - 10))

    def test_what_comes_afterwards_is_left_too(self):
        seconds = [0.0]
        time_left = TimeLeft(PLANNED, processes=2, clock=lambda: seconds[0], afterwards=600.0)
        time_left.enter("exact")
        time_left.start()
        seconds[0] = 6.0
        time_left.count(50, computed=True)
        assert time_left.seconds == pytest.approx(6 / 50 * ((1100 + 600) / 2 - 50))
        assert time_left.row() == Row("search, then evaluation", pytest.approx(1 - 800 / 1000), "about 2 min left")
        assert time_left.first_words() == "The first batch has run: at most about 2 minutes are left, evaluation included."

    def test_how_far_a_search_is(self):
        time_left = TimeLeft(PLANNED, clock=lambda: 0.0)
        time_left.enter("validation")
        assert time_left.row() == Row("search", pytest.approx(10 / 14), "time left unknown")

    @pytest.mark.parametrize(
        ("seconds", "words"), [(20, "less than a minute is"), (60, "1 minute is"), (7200, "120 minutes are")]
    )
    def test_words(self, seconds, words):
        moments = iter([0.0, seconds / 1399, seconds / 1399, seconds / 1399])
        time_left = TimeLeft(PLANNED, clock=lambda: next(moments))
        time_left.enter("estimates")
        time_left.start()
        time_left.count(1, computed=True)
        assert words in time_left.first_words()


@pytest.mark.tier("unit")
class TestSearchesByEstimates:
    @pytest.mark.parametrize("has_priors", [False, True])
    @examples(25)
    @given(
        layers=st.integers(4, 200),
        heads=st.integers(1, 256),
        lengths=st.lists(st.integers(20, 300), min_size=16, max_size=60),
        batch_size=st.sampled_from([1, 4, 32]),
    )
    def test_cost_13_passes_at_most_for_any_number_of_heads(self, has_priors, layers, heads, lengths, batch_size):
        """Documents of both halves are alike."""
        documents = [
            CalibrationDocument("a", tuple((tuple(range(length)), (choice,)) for choice in range(2)), (0,))
            for length in lengths
        ]
        searched = SearchSettings(ModelSettings({"act_alpha": 5}, batch_size=batch_size), PromptSettings(("demo_topic",)))
        space = SearchSpace(tuple(range(layers)), layers, heads)
        planned = PlannedCosts.of_search(searched, space, documents, documents, "estimated", has_priors)
        assert planned.estimates == (8 if has_priors else 6)
        assert planned.total <= 13
        assert planned.exact == planned.baseline == 0
        budget = (13 - planned.estimates) * planned.full_pass
        for candidates in {0, 1, min(7, layers * heads), layers * heads}:
            plan = ValidationPlan.of_candidates(candidates, documents, batch_size, layers, budget)
            assert plan.cost <= planned.validation * planned.full_pass + 1e-6
            assert plan.sizes[0] == 0
            assert plan.sizes[-1] == candidates
            assert len(plan.sizes) == 1 or plan.kept >= 2

    def test_without_a_budget_all_sets_are_scored_on_all_documents(self):
        documents = [CalibrationDocument("a", (((1, 2), (3,)), ((1, 2), (4,))), (0,))] * 10
        plan = ValidationPlan.of_candidates(100, documents, 4, 3)
        assert (plan.first, plan.kept, plan.sizes) == (10, 9, (0, 1, 2, 4, 8, 16, 32, 64, 100))
        assert plan.cost == 9 * 10 * 2 * 3


class Lines(io.StringIO):
    """A file that keeps the lines that are written to it."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def write(self, text):
        self.kept.extend(text.splitlines())
        return len(text)


class Watched:
    """A stage's progress."""

    def __init__(self, text, total):
        self.text, self.total, self.steps, self.skipped = text, total, [], []

    def advance(self, amount):
        self.steps.append(amount)

    def skip(self, amount):
        self.skipped.append(amount)


def watched_search(output, mode, monkeypatch):
    """A search with its stages' progress and its lines, in the order in which they came."""
    events = []

    def show(display, text, total, unit, whole):
        assert unit == "layer passes"
        assert whole().name == "search"
        events.append(Watched(text, total))
        return events[-1]

    model = ModelSettings({"act_alpha": 5, "dtype": "float32"}, device="cpu", batch_size=8)
    settings = SearchSettings(model, PromptSettings(("demo_choice",), limit=16), layers="1-2", mode=mode, budget=0.3)
    monkeypatch.setattr(units, "StageProgress", show)
    return run_search(settings, output, Console(file=Lines(events))), events


@pytest.mark.tier("model")
@pytest.mark.parametrize("mode", ["exact", "screened", "estimated"])
def test_progress_and_lines(tmp_path, mode, monkeypatch):
    result, events = watched_search(tmp_path, mode, monkeypatch)
    stages = [event for event in events if isinstance(event, Watched)]
    lines = [event for event in events if isinstance(event, str)]
    assert isinstance(events[0], str), "it is said before the search starts"
    assert lines[0].startswith("The search costs at most ")
    at_most = float(lines[0].split()[5])
    assert sum(result.full_passes.values()) / 2 <= at_most  # the parts, and their total
    assert ("estimates 3.0" in lines[0]) == (mode == "screened")
    assert ("estimates 6.0" in lines[0]) == (mode == "estimated")
    assert mode != "estimated" or at_most <= 13
    assert lines[0].endswith("one for each head would cost 16.")
    assert events.index(lines[1]) == 2, "in the first stage"
    assert len(lines) == 2
    for stage in stages:
        assert sum(stage.steps) == stage.total
        assert not stage.skipped
    if mode == "exact":
        (exact,) = (stage for stage in stages if stage.text == "scoring all heads")
        assert len(exact.steps) >= 3, "it moves in the middle of its only batch: after the baseline, and with each layer"
    if mode != "exact":
        estimates, validation = stages[0], stages[-1]
        assert min(len(estimates.steps), len(validation.steps)) >= 4, "they move with each layer of a pass"
    _, again = watched_search(tmp_path, mode, monkeypatch)
    assert [event for event in again if isinstance(event, str)] == [f"{lines[0]} What is there already is not computed again."]
    for stage in (event for event in again if isinstance(event, Watched)):
        assert sum(stage.skipped) == stage.total
        assert not stage.steps


@pytest.mark.tier("model")
def test_the_command_says_it(tmp_path):
    arguments = ["--tasks", "demo_topic", "--limit", "4", "--layers", "1", "--device", "cpu", "--model-args", "act_alpha=5"]
    result = CliRunner().invoke(cli.app, ["search", *arguments, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "The search costs at most " in result.output
    assert "The first batch has run: less than a minute is left." in result.output
