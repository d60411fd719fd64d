"""The documentation holds: commands and snippets run, from top to bottom of each page, and print what pages show.

Where a page does not show what a command prints, the command asks few documents here (`helpers.pages.FEW`). That links and
anchors lead somewhere is for the build of the site to say (`make docs`).
"""

import ast
import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import typer
import yaml
from helpers.judge_server import JudgeServer
from helpers.pages import Reader, blocks, marked
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks import TaskManager
from matplotlib.figure import Figure

from act_eval.attention.act import ACT
from act_eval.cli.app import app, main
from act_eval.cli.options import SHARED
from act_eval.tables import number

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
STUDY = ROOT / "results" / "smollm2-135m-instruct" / "study"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("**/*.md")), *sorted(ROOT.glob("tasks/*/README.md"))]
WHAT_THEY_NEED = ("a package index", "two processes", "a cluster", "a GPU", "the Hugging Face hub", "weights")
MOST_MARKED = 14
MT_BENCH = "--questions tests/mt_bench/question.jsonl --chat-template tests/mt_bench/chat.jinja"
INSTEAD = {
    "--num-fewshot 4 --seeds 0,42,84,126,168": "--num-fewshot 1 --seeds 0,42",  # tests/hub has few rows to draw from
    "answer --model-args pretrained=M,": f"answer {MT_BENCH} --limit 1 --max-new-tokens 8 --model-args ",  # no conversations
}
LONGEST_README = 150


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def judge():
    with JudgeServer() as server:
        yield server


@pytest.fixture
def reader(judge, tmp_path, monkeypatch):
    """In a folder that has what a checkout has, and a few rows of the datasets of the hub.

    lm-eval's own tasks are left out: pages that are run use none, and indexing them takes many seconds. Figures are left empty:
    they have tests of their own, and take more time than all else.
    """
    for place in (ROOT / "tests", ROOT / "tasks", *(ROOT / "tests" / "hub").iterdir()):
        (tmp_path / place.name).symlink_to(place)
    index = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **kwargs: index(self, **{**kwargs, "include_defaults": False}))
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **kwargs: file.write(b"") if hasattr(file, "write") else None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Reader({"act-eval": main, "lm_eval": cli_evaluate}, {**INSTEAD, "http://localhost:8000/v1": judge.url})


@pytest.mark.tier("slow")
@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path)], ids=name)
def test_a_page_holds(path, reader):
    reader.read(path)


@pytest.mark.tier("slow")
def test_examples_of_the_help_run(reader):
    """The page of the command line is generated from the help."""
    helps = [command.help or "" for command in typer.main.get_command(app).commands.values()]
    examples = [example for text in helps for example in re.findall(r"Example: (act-eval .*)", text)]
    assert len(examples) > 5
    for example in examples:
        reader.run(example)


@pytest.mark.tier("unit")
class TestPages:
    def test_few_blocks_are_not_run_and_each_says_why(self):
        reasons = [f"{name(path)}: {reason}" for path in PAGES for _, reason in marked(path)]
        assert 0 < len(reasons) <= MOST_MARKED
        for reason in reasons:
            assert re.search(rf": needs ({'|'.join(WHAT_THEY_NEED)})\b", reason), reason

    def test_the_readme_is_short_and_its_links_lead_somewhere(self):
        text = (ROOT / "README.md").read_text()
        assert len(text.splitlines()) <= LONGEST_README
        links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
        assert len(links) > 10
        for link in links:
            assert (ROOT / link).exists(), link

    def test_the_readme_lists_every_command_in_the_words_of_its_help(self):
        text = (ROOT / "README.md").read_text()
        table = re.search(r"^\| command \| \|\n\|---\|---\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)[1]
        listed = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", table, flags=re.MULTILINE)
        commands = typer.main.get_command(app).commands
        assert sorted(name for name, _ in listed) == sorted(commands)
        for name, words in listed:
            assert words == commands[name].help.strip().splitlines()[0], name

    def test_the_study_of_the_readme_is_that_of_the_results(self):
        """Its verdict word by word, and each row of its table."""
        text = (ROOT / "README.md").read_text()
        (study,) = json.loads((STUDY / "report.json").read_text())["studies"]
        for sentence in study["verdict"]["sentences"]:
            assert sentence in " ".join(text.split())
        assert f"Study of {study['model']}\n" in text
        for row in study["table"]:
            is_unseen = row["task"] in study["record"]["scores"] and row["task"] not in study["record"]["searched"]
            name = f"{row['task']} †" if is_unseen else row["task"]
            scores = f"{row['baseline']:.3f} {row['found']:.3f} {row['delta']:+.3f} {row['low']:+.3f} to {row['high']:+.3f}"
            assert f"{name} {scores} {row['all_heads_delta']:+.3f} {number(row['random_delta'], '+.3f')}" in " ".join(
                text.split()
            )

    @pytest.mark.tier("process")
    def test_scripts_are_scripts(self):
        scripts = [block.source for path in PAGES for block in blocks(path) if block.language == "bash"]
        assert scripts
        for script in scripts:
            subprocess.run(["bash", "-n", "-c", script], check=True)

    def test_messages_in_the_faq_are_the_codes(self):
        """Those that no command there prints; `...` stands for what differs."""
        literals = "\n".join(texts_of_the_code())
        faq = blocks(DOCS / "faq.md")
        printed = {block.expected for block in faq}
        messages = [block.source for block in faq if block.language == "text"]
        messages = [message.removeprefix("act-eval: ") for message in messages if message not in printed]
        assert len(messages) > 2
        for message in messages:
            for part in message.replace("--device ", "").split("..."):
                assert part.strip() in literals, part


def texts_of_the_code():
    """Every literal text of the package; of f-strings, the parts between what is filled in."""
    for path in (ROOT / "act_eval").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.tier("unit")
class TestNothingIsForgotten:
    def test_settings_of_act(self):
        text = (DOCS / "your-model-and-tasks.md").read_text()
        settings = {field.name for field in fields(ACT)} - {"limits"}
        assert {f"act_{setting}" for setting in settings} <= set(re.findall(r"^\| `(act_\w+)` ", text, flags=re.MULTILINE))

    def test_options_that_commands_share(self):
        text = (DOCS / "your-model-and-tasks.md").read_text()
        for option in set(SHARED) - {"seed"}:
            assert f"--{option.replace('_', '-')}" in text, option

    def test_public_names(self):
        """All but modules, which have pages or parts of pages of their own."""
        for stub in sorted((ROOT / "act_eval").glob("**/__init__.pyi")):
            package = ".".join(stub.parent.relative_to(ROOT).parts)
            if package == "act_eval.cli":
                continue
            text = (DOCS / "api" / f"{package.removeprefix('act_eval.')}.md").read_text()
            directives = dict(re.findall(r"^::: (\S+)\n((?: +.*\n)*)", text, flags=re.MULTILINE))
            listed = yaml.safe_load(directives[package])["options"]["members"]
            aliases = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
            public = [alias.name for node in aliases if node.module for alias in node.names]
            assert sorted(listed) == sorted(public)
            modules = [alias.name for node in aliases if not node.module for alias in node.names]
            for module in modules:
                assert f"{package}.{module}" in directives or (DOCS / "api" / f"{module}.md").is_file()
