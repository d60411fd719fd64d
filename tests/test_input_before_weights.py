"""Input that only a model's config, its tokenizer or the documents show to be wrong is refused before weights are loaded."""

import pytest
from helpers.planted import write_task
from rich.console import Console

from act_eval.compare import ComparisonSettings, plan_runs, run_missing
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.search.run import run_search
from act_eval.search.settings import SearchSettings
from act_eval.sinks.run import run_sinks
from act_eval.sinks.settings import SinksSettings
from act_eval.study.methods import MethodComparison, compare_methods
from act_eval.study.run import run_study
from act_eval.study.settings import StudySettings

pytestmark = [pytest.mark.tier("model"), pytest.mark.usefixtures("without_plots")]

MODEL = ModelSettings({"act_alpha": 5}, device="cpu", batch_size=8)
PROMPTS = PromptSettings(("demo_topic",), limit=4)
NO_SUCH_LAYER = "names layer 9, but the model has layers 0 to 3"


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("weights were loaded"))


def written_task(folder, documents, choices):
    """The prompts of a task with so many training documents of so many choices."""
    numbers = iter(range(1000))

    def document():
        return {"text": f"Number {next(numbers)} is", "choices": ["small", "large"][:choices], "label": 0}

    write_task(folder, "written", document, {"train": documents, "test": 1})
    return PromptSettings(("written",), include_path=str(folder / "tasks"))


@pytest.mark.usefixtures("no_weights")
class TestRefused:
    def refused(self, output, message, command, *arguments):
        with pytest.raises(InputError, match=message):
            command(*arguments)
        assert not output.exists()

    def test_heads_of_a_later_run(self, tmp_path):
        asked = ComparisonSettings(MODEL, PROMPTS)
        variants = {heads: ACTArguments(heads) for heads in ("all", "9:1")}
        plan, output = plan_runs(asked, variants), tmp_path / "output"
        self.refused(output, NO_SUCH_LAYER, run_missing, plan, output, Console(quiet=True))

    @pytest.mark.parametrize("layers", ["9", "1-2,9"])
    def test_layers_of_a_search(self, tmp_path, layers):
        settings = SearchSettings(MODEL, PROMPTS, layers=layers)
        self.refused(tmp_path / "output", NO_SUCH_LAYER, run_search, settings, tmp_path / "output")

    def test_documents_that_have_no_entropy(self, tmp_path):
        settings = SearchSettings(MODEL, written_task(tmp_path, 4, choices=1), objective="entropy")
        self.refused(tmp_path / "output", "documents of written have none", run_search, settings, tmp_path / "output")

    def test_a_single_document(self, tmp_path):
        settings = SearchSettings(MODEL, written_task(tmp_path, 1, choices=2))
        self.refused(tmp_path / "output", "needs at least 2 documents", run_search, settings, tmp_path / "output")

    def test_more_heads_than_are_searched(self, tmp_path):
        settings = SearchSettings(MODEL, PROMPTS, layers="2", selection="top-k", k=9)
        message = "^k 9: only 8 heads are searched; ask for fewer, or for more layers"
        self.refused(tmp_path / "output", message, run_search, settings, tmp_path / "output")

    def test_layers_of_a_study(self, tmp_path):
        settings = StudySettings(MODEL, PROMPTS, layers="9")
        self.refused(tmp_path / "output", NO_SUCH_LAYER, run_study, settings, tmp_path / "output", Console(quiet=True))

    def test_layers_of_methods_side_by_side(self, tmp_path):
        def study(model):
            return StudySettings(model, PROMPTS, layers="9")

        settings = MethodComparison.of_methods(study, MODEL, ("act", "boost"))
        self.refused(tmp_path / "output", NO_SUCH_LAYER, compare_methods, settings, tmp_path / "output", Console(quiet=True))

    def test_layers_of_sinks(self, tmp_path):
        settings = SinksSettings(MODEL, PROMPTS, layers="9")
        self.refused(tmp_path / "output", NO_SUCH_LAYER, run_sinks, settings, tmp_path / "output")

    def test_sinks_with_the_search_of_another_model(self, tmp_path):
        (tmp_path / "heads.csv").write_text("layer,head,accuracy_change,margin_change\n9,0,0.1,0.1\n")
        settings = SinksSettings(MODEL, PROMPTS, search=tmp_path)
        self.refused(tmp_path / "output", "search is of another model", run_sinks, settings, tmp_path / "output")


@pytest.mark.parametrize("kind", ["search", "sinks"])
def test_what_a_model_is_is_said_once(tmp_path, caplog, kind):
    if kind == "search":
        run_search(SearchSettings(MODEL, PROMPTS, layers="2", selection="top-k", k=1), tmp_path)
    else:
        run_sinks(SinksSettings(MODEL, PROMPTS, layers="2"), tmp_path)
    assert caplog.text.count("this is the embedded demo model") == 1
    ACTLM(device="cpu")
    assert caplog.text.count("this is the embedded demo model") == 2
