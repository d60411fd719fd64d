"""The public names of each package: the whole list, what they are, and that users need no others."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import act_eval
from act_eval import methods

pytestmark = pytest.mark.tier("unit")

ROOT = Path(__file__).parents[1]
NAMES = {
    "act_eval": [
        "ACT",
        "ACTLM",
        "HeadGroup",
        "HeadProfile",
        "InputError",
        "Method",
        "calibrate",
        "column_means",
        "find_sinks",
        "make_method",
        "methods",
        "span_tokens",
    ],
    "act_eval.attention": [
        "ACT",
        "CalibrationSettings",
        "UnsupportedModelError",
        "attention_layers",
        "calibrate",
        "calibrate_decode_rows",
        "column_means",
        "find_sinks",
        "model_shape",
    ],
    "act_eval.cli": [
        "main",
    ],
    "act_eval.compare": [
        "ComparisonSettings",
        "FinishedRuns",
        "ForeseenRun",
        "Run",
        "RunPlan",
        "foresee_runs",
        "plan_comparison",
        "plan_runs",
        "run_comparison",
        "run_missing",
    ],
    "act_eval.demo": [
        "DEMO_MODEL_NAME",
        "MODEL_PATH",
        "corpus",
    ],
    "act_eval.harness": [
        "ACTArguments",
        "ACTLM",
        "Context",
        "ModelSettings",
        "NonFiniteLogitsError",
        "PromptSettings",
        "RequestError",
        "Scorer",
        "TaskError",
        "project_tasks",
        "tasks_path",
    ],
    "act_eval.methods": [
        "Method",
        "PerHeadGroup",
        "SelectiveMethod",
        "available_methods",
        "check_range",
        "make_method",
        "tiny",
    ],
    "act_eval.mt_bench": [
        "AnswerSettings",
        "ComparisonFolder",
        "JudgeError",
        "JudgeSettings",
        "Question",
        "Scores",
        "judge_answers",
        "load_questions",
        "make_scores",
        "plot_differences",
        "plot_radar",
        "print_scores",
        "write_answers",
        "write_scores",
    ],
    "act_eval.report": [
        "MethodFindings",
        "Pairing",
        "Report",
        "ReportError",
        "ReportOptions",
        "Results",
        "StudyFindings",
        "Verdict",
        "compare",
        "load",
        "macro_averages",
        "make_plots",
        "make_report",
        "pair",
        "print_tables",
        "schema",
        "to_json",
        "write_report",
    ],
    "act_eval.search": [
        "CalibrationDocument",
        "HeadEvaluator",
        "SearchResult",
        "SearchSettings",
        "load_documents",
        "run_search",
    ],
    "act_eval.sinks": [
        "SinkStatistics",
        "SinksSettings",
        "collect",
        "plots",
        "run_sinks",
        "tables",
    ],
    "act_eval.study": [
        "Expectation",
        "ForeseenStudy",
        "MethodComparison",
        "StudySettings",
        "compare_methods",
        "expect",
        "foresee_study",
        "random_profiles",
        "run_study",
    ],
    "act_eval.sweep": [
        "Axis",
        "SweepResults",
        "axis_table",
        "main_metric",
        "plot_axis",
        "print_tables",
        "run_sweep",
        "write_sweep",
    ],
}
MODULES = {"act_eval.methods", "act_eval.demo.corpus", "act_eval.sinks.plots", "act_eval.sinks.tables"}
HEAVY = {"torch", "transformers", "lm_eval", "numpy", "pandas", "scipy", "matplotlib", "typer", "rich"}


def test_the_list_is_whole():
    packages = {module.name for module in pkgutil.walk_packages(act_eval.__path__, "act_eval.") if module.ispkg}
    assert set(NAMES) == {"act_eval", *packages}
    assert {package: sorted(import_module(package).__all__) for package in NAMES} == {
        package: sorted(names) for package, names in NAMES.items()
    }


@pytest.mark.parametrize("package", NAMES)
def test_names_are_there(package):
    """Also where a module has the name of a function that it holds, and was imported before."""
    face = import_module(package)
    for name in {module.name for module in pkgutil.iter_modules(getattr(face, "__path__", []))} & set(NAMES[package]):
        import_module(f"{package}.{name}")
    for name in NAMES[package]:
        assert isinstance(getattr(face, name), ModuleType) is (f"{package}.{name}" in MODULES), name


@pytest.mark.tier("process")
@pytest.mark.parametrize(
    ("modules", "light"),
    [(list(NAMES), set()), (["act_eval.cli.app"], {"typer", "rich"})],
    ids=["packages", "command line"],
)
def test_importing_them_imports_nothing_heavy(modules, light):
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "act_eval" in imported.split()
    assert HEAVY & set(imported.split()) <= light


def code_for_users():
    """(where it stands, Python code) of each notebook's code cells and each Python block of the documentation."""
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                yield path.name, "".join(line for line in cell["source"] if not line.startswith("%"))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for code in re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE):
            yield path.name, code


def test_users_import_public_names_alone():
    classes = {cls.__name__ for cls in methods.available_methods().values()}  # which `act_eval.methods` has without a list
    known = {**NAMES, "act_eval.methods": {*NAMES["act_eval.methods"], *classes}}
    imported = [
        (where, node.module, alias.name)
        for where, code in code_for_users()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module.partition(".")[0] == "act_eval"
    ]
    assert len({where for where, _, _ in imported}) > 3
    for where, package, name in imported:
        assert name in known.get(package, ()), f"{where} imports {name} from {package}"
