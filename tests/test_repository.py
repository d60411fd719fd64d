"""What contributors and services meet: one version, the changelog, workflows and commands that are there."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import act_eval

pytestmark = pytest.mark.tier("unit")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets():
    """The names that `make` knows, patterns with the versions of the matrix in their place."""
    rules = re.findall(r"^([\w.-]+(?: [\w.-]+)*):(?!=)", text_of("Makefile"), re.MULTILINE)
    return {name for rule in rules for name in rule.split()} | {"test-oldest", "test-newest"}


def made(text):
    """What a text tells people or services to make."""
    for words in re.findall(r"\bmake((?: [\w=$({}.-]+)+)", text):
        for word in words.split():
            if "=" not in word and not word.startswith("-"):
                yield word


class TestVersion:
    def test_it_is_declared_once(self):
        assert f'__version__ = "{act_eval.__version__}"' in text_of("act_eval/__init__.py")
        assert 'dynamic = ["version"]' in text_of("pyproject.toml")
        assert "version" not in yaml.safe_load(text_of("CITATION.cff"))

    def test_the_changelog_begins_with_it(self):
        versions = VERSION.findall(text_of("CHANGELOG.md"))
        assert versions[0][0] == act_eval.__version__
        assert versions == sorted(versions, key=lambda version: [int(part) for part in version[0].split(".")], reverse=True)
        dates = [date for _, date in versions]
        assert dates == sorted(dates, reverse=True)

    def test_the_changelog_has_kinds_and_links(self):
        text = text_of("CHANGELOG.md")
        assert set(re.findall("^### (.+)$", text, re.MULTILINE)) <= KINDS
        for name in ("Unreleased", *(version for version, _ in VERSION.findall(text))):
            assert re.search(rf"^\[{re.escape(name)}\]: https://github.com/", text, re.MULTILINE), name


def test_badges_are_true():
    """They are pictures with texts of their own."""
    project = text_of("pyproject.toml")
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    (licence,) = re.findall('^license = "(.+)"$', project, re.MULTILINE)
    badges = re.findall(r"^!\[(.+?)\]\(https://img\.shields\.io/badge/(\w+)-(.+)-blue\)$", text_of("README.md"), re.MULTILINE)
    shown = {name: unquote(value).replace("--", "-") for _, name, value in badges}
    assert shown == {"python": f"{pythons[0]} to {pythons[-1]}", "licence": licence}
    assert [text for text, *_ in badges] == [f"Python {shown['python']}", f"Licence: {licence}"]


class TestWorkflows:
    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
    def test_they_make_what_can_be_made(self, path):
        asked = {
            name
            for job in yaml.safe_load(path.read_text())["jobs"].values()
            for step in job["steps"]
            for name in re.findall(r"\bmake (?:--[\w-]+ )*([\w-]+)", step.get("run", ""))
        }
        asked -= {"docs"}  # of the documentation
        assert {name for name in asked if not name.endswith("-")} <= make_targets()

    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
    def test_they_may_do_little_and_end(self, path):
        """Each may read alone, unless a job says more, and no job goes on for ever."""
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        assert all(job["timeout-minutes"] for job in workflow["jobs"].values())

    def test_pythons_are_those_of_the_package(self):
        classified = set(re.findall(r"Python :: (3\.\d+)", text_of("pyproject.toml")))
        jobs = {path.stem: yaml.safe_load(path.read_text())["jobs"] for path in WORKFLOWS}
        assert set(jobs["versions"]["pythons"]["strategy"]["matrix"]["python"]) == classified
        of_pull_requests = jobs["ci"]["tests"]["strategy"]["matrix"]
        assert of_pull_requests["python"] == [min(classified, key=_minor), max(classified, key=_minor)]
        assert {name.partition("-")[0] for name in of_pull_requests["os"]} == {"ubuntu", "macos"}
        assert f'requires-python = ">={min(classified, key=_minor)}"' in text_of("pyproject.toml")


def _minor(version):
    return int(version.partition(".")[2])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_words_for_contributors_make_what_can_be_made(name):
    commands = re.findall(r"`(make [^`]+)`", text_of(name)) + re.findall(r"^\$ (make .+)$", text_of(name), re.MULTILINE)
    assert commands
    assert {target for command in commands for target in made(command)} <= make_targets()


def test_words_for_contributors_name_files_that_are_there():
    """Placeholders in capitals, and files that a checklist adds, aside."""
    text = text_of("CONTRIBUTING.md")
    named = set(re.findall(r"`([\w./-]+\.(?:py|pyi|md|toml|txt|yaml|yml)|(?:tests|tasks|act_eval)/[\w./-]+)`", text))
    named -= {name for name in named if re.search("[A-Z]{3,}/|your_|^plots.py$|_[A-Z]+.yaml", name)}
    assert len(named) > 20
    assert not {name for name in named if not any(ROOT.glob(name)) and not any(ROOT.glob(f"act_eval/*/{name}"))}


def test_checks_before_a_commit_are_those_of_lint():
    """With the tools of .venv, whose versions the constraints hold."""
    (local,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    lint = text_of("Makefile")
    for hook in local["hooks"]:
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"$(BIN)/{program}" in lint or program == "make"
        assert hook["language"] == "system"


def test_everything_that_tests_need_has_a_version():
    """Constraints for each package of the test extra, but for those that nothing depends on the version of."""
    constrained = {line.partition("==")[0].lower().replace("_", "-") for line in text_of("constraints.txt").splitlines()}
    (extra,) = re.findall(r"^test = \[$(.+?)^\]$", text_of("pyproject.toml"), re.MULTILINE | re.DOTALL)
    needed = {name.lower() for name in re.findall(r'^ +"([\w-]+)', extra, re.MULTILINE)}
    assert {"pytest", "ruff", "twine"} < needed
    assert needed - constrained <= {"hatchling", "types-tqdm"}


def test_actionlint():
    """Where it is installed (`make actionlint`); its package needs GitHub when it is installed."""
    try:
        result = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("actionlint is not installed: make actionlint installs and runs it")
    assert result.returncode == 0, result.stdout
