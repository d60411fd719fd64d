"""What lm-eval notes of where it runs: the commit, without git's words on the terminal, and the machine, once."""

import subprocess

import pytest
from lm_eval import evaluator
from lm_eval.loggers.utils import add_env_info, get_git_commit_hash
from torch.utils import collect_env

from act_eval.harness.environment import commit_looked_up_quietly, machine_described_once

pytestmark = pytest.mark.tier("process")


def looked_up():
    with commit_looked_up_quietly():
        return evaluator.get_git_commit_hash()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which is in no repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_outside_of_a_repository(folder, capfd):
    assert looked_up() is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("commits", [0, 1])
def test_in_a_repository(folder, capfd, commits):
    subprocess.run(["git", "init", "--quiet"], check=True)
    for _ in range(commits):
        author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    capfd.readouterr()
    found = looked_up()
    assert capfd.readouterr().err == ""
    assert found == get_git_commit_hash()
    assert bool(found) == bool(commits)


def test_without_git(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    assert looked_up() is None


def test_lm_eval_has_its_own_lookup_back():
    with pytest.raises(RuntimeError), commit_looked_up_quietly():
        raise RuntimeError
    assert evaluator.get_git_commit_hash is get_git_commit_hash


def test_the_machine_is_described_once(monkeypatch):
    descriptions = iter(range(9))
    monkeypatch.setattr(collect_env, "get_pretty_env_info", lambda: f"machine {next(descriptions)}")
    noted = [{} for _ in range(4)]
    with machine_described_once():
        add_env_info(noted[0])
        add_env_info(noted[1])
    with machine_described_once():
        add_env_info(noted[2])
    add_env_info(noted[3])
    assert [results["pretty_env_info"] for results in noted] == ["machine 0", "machine 0", "machine 1", "machine 2"]
