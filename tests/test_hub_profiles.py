"""Head profiles on the Hugging Face hub: read by name, from a hub on this machine and from a cache, and shared."""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers.hub_server import TOKEN, HubServer, use_hub
from huggingface_hub import constants
from typer.testing import CliRunner

from act_eval.cli import options
from act_eval.cli.app import app
from act_eval.compare import ComparisonSettings, plan_comparison
from act_eval.compare.plan import Run
from act_eval.compare.recorded import identity_of
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments, act_and_baseline
from act_eval.harness.identity import recorded_act
from act_eval.harness.lm import ACTLM
from act_eval.harness.settings import ModelSettings, PromptSettings
from act_eval.hub_files import LARGEST_FILE, HubError, HubName, read_hub_file
from act_eval.mt_bench.answers import _model_id
from act_eval.profiles import HeadGroup, HeadProfile, ProfileError, resolve_profile
from act_eval.search import SearchSettings
from act_eval.shared_profiles import card, file_name, push_profile, search_command

pytestmark = pytest.mark.tier("unit")

ONE, OTHER = HeadProfile({1: (0,)}, "some/model", 4, 8), HeadProfile({2: (3, 4)}, "some/model", 4, 8)
FOUND = HeadProfile(
    {2: (0,), 3: (4, 5, 6)},
    "act-eval-demo",
    num_layers=4,
    num_heads=8,
    settings={"method": "act", "beta": 0.4, "threshold": None, "alpha": 5, "keep": "first-sink", "decode": "prefill"},
    provenance={
        "source": "act-eval search",
        "mode": "exact",
        "objective": "margin",
        "selection": "top-4",
        "layers_searched": [0, 1, 2, 3],
        "tasks": {"demo_sentiment": "train", "demo_topic": "train", "demo_choice": "train"},
        "documents": {"search": 300, "validation": 0},
        "limit": 100,
        "num_fewshot": None,
        "apply_chat_template": False,
        "seed": 1234,
        "versions": {"act-eval": "0.2.0"},
    },
)


def encoded(profile):
    return profile.to_json().encode()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, whose repository `someone/heads` has one profile."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    with HubServer() as server:
        use_hub(monkeypatch, server.url, tmp_path / "cache")
        server.repositories["someone/heads"].add({"found.json": encoded(ONE), "README.md": b"words"})
        yield server
    read_hub_file.cache_clear()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Begin as a new process does that must not reach any hub, with the cache of the others."""
    return lambda: use_hub(monkeypatch, None, tmp_path / "cache")


@pytest.fixture
def again(monkeypatch, tmp_path, hub):
    """Begin as a new process does."""
    return lambda: use_hub(monkeypatch, hub.url, tmp_path / "cache")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("hf://a/b", ("a/b", None, "main")),
            ("hf://a/b@v1.0", ("a/b", None, "v1.0")),
            ("hf://a/b/c.json", ("a/b", "c.json", "main")),
            ("hf://a-1/b_2.x/c/d.e.json@refs/pr/1", ("a-1/b_2.x", "c/d.e.json", "refs/pr/1")),
        ],
    )
    def test_parts(self, name, parts):
        assert HubName.parse(name) == HubName(*parts)

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "hf://",
                "hf://a",
                "hf://a/",
                "hf:///a/b",
                "hf://a/b/",
                "hf://a/b@",
                "hf://a/b@@x",
                "hf://a/b/../c.json",
                "hf://a/b..",
            ),
            *("hf://a/b/c.json@../../x", "hf://a/b c", "hf://a/b\n", "hf://a/b/c.txt", "hf://a/b/c", "hf://a/b/c.safetensors"),
            *("hf://datasets/a/b", "hf://./b", "hf://a/b--c", "hf://a/.json"),
        ],
    )
    def test_what_is_no_name(self, hub, name):
        with pytest.raises(HubError) as refused:
            resolve_profile(name, 4, 8)
        assert "\n" not in str(refused.value)
        assert not hub.requests


class TestReading:
    @pytest.mark.parametrize("name", ["hf://someone/heads", "hf://someone/heads/found.json", "hf://someone/heads@main"])
    def test_a_profile_is_read_and_validated_as_any(self, hub, name):
        assert resolve_profile(name, 4, 8) == ONE
        with pytest.raises(ProfileError, match="made for some/model with 4 layers, but this model has 3"):
            resolve_profile(name, 3, 8)

    def test_in_a_folder_of_the_repository(self, hub):
        hub.repositories["someone/heads"].add({"of/others.json": encoded(OTHER)})
        assert resolve_profile("hf://someone/heads/of/others.json", 4, 8) == OTHER

    def test_a_process_asks_once(self, hub):
        for _ in range(3):
            resolve_profile("hf://someone/heads/found.json", 4, 8)
        assert sum(method == "GET" for method, _ in hub.requests) == 1

    def test_a_file_that_is_in_the_cache_is_not_sent_again(self, hub, again):
        resolve_profile("hf://someone/heads/found.json", 4, 8)
        hub.requests.clear()
        again()
        assert resolve_profile("hf://someone/heads/found.json", 4, 8) == ONE
        assert {method for method, _ in hub.requests} == {"HEAD"}

    def test_revisions(self, hub, again):
        repository = hub.repositories["someone/heads"]
        first = repository.branches["main"]
        repository.add({"found.json": encoded(OTHER)}, "main")
        repository.branches["v1"] = first
        assert resolve_profile("hf://someone/heads", 4, 8) == OTHER
        for revision in ("v1", first):
            assert resolve_profile(f"hf://someone/heads@{revision}", 4, 8) == ONE
            assert read_hub_file(f"hf://someone/heads@{revision}").commit == first

    def test_a_private_repository(self, hub, monkeypatch, again):
        hub.repositories["someone/heads"].is_private = True
        with pytest.raises(HubError, match="no repository someone/heads on the hub that you may read"):
            resolve_profile("hf://someone/heads", 4, 8)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert resolve_profile("hf://someone/heads", 4, 8) == ONE

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("hf://someone/nothing", "there is no repository someone/nothing on the hub"),
            ("hf://someone/nothing/x.json", "there is no repository someone/nothing on the hub"),
            ("hf://someone/heads/x.json", "someone/heads has no file x.json: choose among found.json."),
            ("hf://someone/heads/x.json@v2", "someone/heads has no revision v2"),
            ("hf://someone/heads@v2", "someone/heads has no revision v2"),
            ("hf://someone/empty", "someone/empty has no JSON file"),
            (
                "hf://someone/two",
                "someone/two has 2 JSON files, so that its name alone does not say which: choose among a.json",
            ),
            ("hf://someone/two/a.json", "hf://someone/two/a.json is not readable as JSON"),
            ("hf://someone/two/b.json", "hf://someone/two/b.json is not a head profile"),
            ("hf://someone/binary", "cannot be read as text"),
            ("hf://someone/large", f"more than the {LARGEST_FILE:,} that a head profile may have"),
        ],
    )
    def test_what_cannot_be_had_is_said_in_a_line(self, hub, name, words):
        hub.repositories["someone/empty"].add({"README.md": b"words"})
        hub.repositories["someone/two"].add({"a.json": b"{", "b.json": b"{}"})
        hub.repositories["someone/binary"].add({"a.json": b"\xff\xfe\x00"})
        hub.repositories["someone/large"].add({"a.json": b" " * (LARGEST_FILE + 1)})
        with pytest.raises(InputError) as refused:
            resolve_profile(name, 4, 8)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
        if name == "hf://someone/large":
            assert not [path for method, path in hub.requests if method == "GET" and "resolve" in path]


class TestWithoutTheHub:
    @pytest.mark.parametrize("name", ["hf://someone/heads", "hf://someone/heads/found.json", "hf://someone/heads@v1"])
    def test_what_was_read_before_is_in_the_cache(self, hub, offline, caplog, name):
        hub.repositories["someone/heads"].branches["v1"] = commit = hub.repositories["someone/heads"].branches["main"]
        resolve_profile(name, 4, 8)
        offline()
        with caplog.at_level(logging.WARNING):
            assert resolve_profile(name, 4, 8) == ONE
        assert [record.message for record in caplog.records] == [
            f"The hub cannot be reached: {name} is read from its cache, as of commit {commit[:8]}."
        ]

    def test_a_commit_is_what_it_was(self, hub, offline, caplog):
        name = f"hf://someone/heads/found.json@{hub.repositories['someone/heads'].branches['main']}"
        resolve_profile(name, 4, 8)
        offline()
        assert resolve_profile(name, 4, 8) == ONE
        assert not caplog.records

    @pytest.mark.parametrize("name", ["hf://someone/heads", "hf://someone/heads/found.json", "hf://someone/heads@v1"])
    def test_what_was_not(self, hub, offline, name):
        offline()
        with pytest.raises(HubError, match=r"someone/heads( at v1)? is not in the hub's cache, and the hub cannot be reached"):
            resolve_profile(name, 4, 8)

    def test_a_hub_that_is_broken(self, hub, again):
        with pytest.raises(HubError, match="no repository"):
            resolve_profile("hf://someone/else", 4, 8)
        resolve_profile("hf://someone/heads", 4, 8)
        hub.broken = True
        again()
        assert resolve_profile("hf://someone/heads", 4, 8) == ONE
        with pytest.raises(HubError, match="cannot be reached"):
            resolve_profile("hf://someone/else", 4, 8)


class TestIdentity:
    """A profile counts by its content: a branch that moves never gives an answer of other heads in silence."""

    def run(self):
        act, _ = act_and_baseline({"act_profile": "hf://someone/heads", "act_alpha": 5})
        return Run("ACT", act, ModelSettings({"act_profile": "hf://someone/heads"}), PromptSettings(("demo_topic",)))

    def test_finished_runs_and_answers_count_by_the_heads(self, hub, again):
        def identities():
            again()
            run = self.run()
            return identity_of(run, {}, {}), _model_id("m", run.arguments)

        first = identities()
        hub.repositories["someone/heads"].add({"README.md": b"other words"})
        assert identities() == first
        hub.repositories["someone/heads"].add({"found.json": encoded(OTHER)})
        for before, now in zip(first, identities(), strict=True):
            assert before != now

    def test_a_branch_that_moves_while_a_process_runs(self, hub):
        first = identity_of(self.run(), {}, {})
        hub.repositories["someone/heads"].add({"found.json": encoded(OTHER)})
        assert identity_of(self.run(), {}, {}) == first
        assert resolve_profile("hf://someone/heads", 4, 8) == ONE

    def test_results_say_heads_and_commit(self, hub):
        profile, arguments = resolve_profile("hf://someone/heads", 4, 8), self.run().arguments
        recorded = recorded_act(arguments.act(profile), profile, "hf://someone/heads")
        assert recorded["heads"] == {"1": [0]}
        assert recorded["profile"] == "hf://someone/heads"
        assert recorded["profile_commit"] == hub.repositories["someone/heads"].branches["main"]
        assert recorded["text"] == f"someone/heads {ONE.content_hash[:8]} (1 heads), beta 0.4, alpha 5"
        hub.repositories["someone/heads"].branches["v1"] = recorded["profile_commit"]
        of_a_file = recorded_act(arguments.act(profile), profile, "hf://someone/heads/found.json@v1")["text"]
        assert of_a_file.startswith("heads/found.json ")

    def test_one_without_heads_is_the_baseline(self, hub):
        hub.repositories["someone/none"].add({"x.json": encoded(HeadProfile({}))})
        with pytest.raises(InputError, match="hf://someone/none names no head, so it is the baseline itself"):
            act_and_baseline({"act_profile": "hf://someone/none"})


class TestPartsOfThePrompt:
    """What a profile on the hub says of its groups is known only once it is read."""

    @pytest.fixture
    def about_a_part(self, hub):
        groups = [HeadGroup({1: (0,)}, "target-span", {"psi": 0.3}), HeadGroup({2: (1,)}, "mask-head")]
        hub.repositories["someone/part"].add({"x.json": encoded(HeadProfile.of_groups(groups, num_layers=4, num_heads=8))})
        return "hf://someone/part"

    def test_a_comparison_is_refused(self, about_a_part):
        with pytest.raises(InputError, match=r"the method target-span.* is about a part of the prompt: name it with act_span"):
            act_and_baseline({"act_profile": about_a_part})

    def test_a_model_is_refused_before_its_weights_are_loaded(self, about_a_part, monkeypatch):
        monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("weights were loaded"))
        with pytest.raises(InputError, match="name it with act_span"):
            ACTLM(device="cpu", act_profile=about_a_part)

    def test_a_part_that_is_named(self, about_a_part):
        act, _ = act_and_baseline({"act_profile": about_a_part, "act_span": "question"})
        assert act.calibration.method.uses_span


class TestSharing:
    @pytest.fixture
    def token(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def test_profile_and_card_are_written_and_nothing_else(self, hub, token):
        pushed = push_profile(FOUND, "me/heads")
        repository = hub.repositories["me/heads"]
        files = repository.commits[repository.branches["main"]]
        assert set(files) == {"act-eval-demo.demo_sentiment-demo_topic-demo_choice.4-heads.json", "README.md"}
        assert files[file_name(FOUND)] == encoded(FOUND)
        assert files["README.md"].decode() == card(FOUND, "me/heads")
        assert pushed.url.endswith(repository.branches["main"])
        assert resolve_profile(pushed.name, 4, 8) == FOUND
        assert not repository.is_private

    def test_a_private_repository_is_made(self, hub, token):
        push_profile(FOUND, "me/heads", private=True)
        assert hub.repositories["me/heads"].is_private

    def test_a_better_profile_takes_the_place_of_another(self, hub, token, again):
        push_profile(FOUND, "me/heads", "heads.json")
        better = HeadProfile({2: (1,)}, FOUND.model, 4, 8)
        push_profile(better, "me/heads", "heads.json")
        assert resolve_profile("hf://me/heads", 4, 8) == better
        with pytest.raises(HubError, match=r"holds heads\.json already.*--file heads\.json"):
            push_profile(FOUND, "me/heads")

    def test_somebody_elses_card_stays(self, hub, token):
        before = hub.repositories["someone/heads"].branches["main"]
        with pytest.raises(HubError, match=r"has a README\.md that is no card of a head profile"):
            push_profile(FOUND, "someone/heads", "found.json")
        assert hub.repositories["someone/heads"].branches["main"] == before

    def test_a_path_of_this_machine_stays_here(self, hub, token, tmp_path):
        for model in ("/models/x", "~/x", "./x", "C:\\x", str(tmp_path)):
            with pytest.raises(InputError, match=r"as its model .*: give its name with --model"):
                push_profile(HeadProfile({1: (0,)}, model), "me/heads")
        with pytest.raises(InputError, match=r"as its provenance\.model_args\.peft \(/adapter\): change it in the file"):
            push_profile(HeadProfile({1: (0,)}, provenance={"model_args": {"peft": "/adapter"}}), "me/heads")
        assert "me/heads" not in hub.repositories

    @pytest.mark.parametrize("repository", ["me", "me/heads/x", "me/he--ads", "me/heads@x", "hf://me/heads"])
    def test_a_repository_that_is_none(self, hub, token, repository):
        with pytest.raises(HubError, match=r"is no name of a repository: write user/repo|is not the name of a file"):
            push_profile(FOUND, repository, "x.json")
        assert set(hub.repositories) == {"someone/heads"}

    def test_what_is_wrong_is_said_in_a_line(self, hub, monkeypatch, again, offline):
        with pytest.raises(InputError, match="names no head"):
            push_profile(HeadProfile({}), "me/heads")
        with pytest.raises(HubError, match="needs a token of the hub: log in with `hf auth login`, or set HF_TOKEN"):
            push_profile(FOUND, "me/heads")
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        with pytest.raises(HubError, match=r"refuses access to me/heads \(403\)"):
            push_profile(FOUND, "me/heads")
        hub.broken = True
        with pytest.raises(HubError, match="the hub cannot answer for me/heads now: try again later"):
            push_profile(FOUND, "me/heads")
        offline()
        with pytest.raises(HubError, match="the hub cannot be reached, so that nothing was written to me/heads"):
            push_profile(FOUND, "me/heads")
        assert not [path for method, path in hub.requests if method == "POST" and "commit" in path]

    def test_the_card_says_what_the_file_says(self):
        gain = {"chosen": True, "accuracy_change": 0.052, "accuracy_low": 0.033, "accuracy_high": 0.071}
        provenance = {**FOUND.provenance, "evidence": {**gain, "p_value": 0.0123, "documents": 280}}
        profile = HeadProfile(FOUND.heads, "org/a_model", 4, 8, FOUND.settings, provenance)
        text = card(profile, "me/heads")
        assert text.startswith('---\nlibrary_name: act-eval\nbase_model: "org/a_model"\n')
        for words in (
            "| model | org/a\\_model |",
            "| heads | 4 of 32, in layers 2, 3 |",
            "demo\\_topic (train)",
            "+5.2 points of accuracy (95% interval +3.3 to +7.1, p = 0.012) over 280 documents",
            FOUND.content_hash,
            "pretrained=org/a_model,act_profile=hf://me/heads,act_method=act,act_beta=0.4,act_alpha=5",
            "act-eval search --tasks demo_sentiment,demo_topic,demo_choice",
        ):
            assert words in text, words
        assert "not recorded in this profile" in card(FOUND, "me/heads")
        of_entropy = {**provenance, "evidence": {**provenance["evidence"], "by_entropy": True, "margin_change": 0.125}}
        text = card(replace(profile, provenance=of_entropy), "me/heads")
        assert "-0.1250 nats of mean entropy (p = 0.012) over 280 documents" in text
        assert "points of accuracy" not in text

    def test_a_card_of_any_profile(self):
        strange = HeadProfile(
            {1: (0,)}, "a|b\nc", settings={"x": "`|"}, provenance={"tasks": [1], "evidence": 3, "source": "|"}
        )
        rows = [line for line in card(strange, "me/heads").splitlines() if line.startswith("| ")]
        assert len(rows) == 9
        assert "| model | a\\|b c |" in rows
        assert file_name(strange) == "a-b-c.1-heads.json"
        assert search_command(strange) is None

    def test_the_command_searches_the_same(self, monkeypatch):
        """What the card's command asks for is what the profile says it was found with."""
        asked = []
        monkeypatch.setattr("act_eval.search.run.run_search", lambda settings, output, console: asked.append(settings))
        prompts = {"num_fewshot": {"demo_topic": 2}, "system_instruction": "Say 'one' word.", "fewshot_as_multiturn": False}
        provenance = {**FOUND.provenance, **prompts, "apply_chat_template": True, "model_args": {"dtype": "bfloat16"}}
        profile = HeadProfile(FOUND.heads, "org/model", 4, 8, FOUND.settings, provenance)
        program, *arguments = shlex.split(search_command(profile))
        assert program == "act-eval"
        CliRunner().invoke(app, arguments)
        act = {f"act_{name}": value for name, value in FOUND.settings.items() if value is not None}
        assert asked == [
            SearchSettings(
                ModelSettings({"pretrained": "org/model", "dtype": "bfloat16", **act}, None, "8"),
                PromptSettings(tuple(provenance["tasks"]), 100, apply_chat_template=True, **prompts),
                layers="0,1,2,3",
                mode="exact",
                selection="top-k",
                k=4,
            )
        ]


class TestCommands:
    def test_push(self, hub, monkeypatch, tmp_path):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        FOUND.save(tmp_path / "profile.json")
        result = CliRunner().invoke(
            app, ["profiles", "push", str(tmp_path / "profile.json"), "me/heads", "--model", "org/model"]
        )
        assert result.exit_code == 0, result.output
        assert "to use them: act_profile=hf://me/heads" in result.output
        assert resolve_profile("hf://me/heads", 4, 8).model == "org/model"

    def test_show(self, hub):
        for words in (["show", "hf://someone/heads"], ["hf://someone/heads"]):
            assert json.loads(CliRunner().invoke(app, ["profiles", *words]).output)["heads"] == {"1": [0]}
        result = CliRunner().invoke(app, ["profiles", "show", "nothing"])
        assert isinstance(result.exception, ProfileError)

    def test_model_arguments_may_name_a_profile_on_the_hub(self):
        name = "hf://someone/heads/of/others.json@refs/pr/1"
        assert options.model_arguments(f"pretrained=a/b,act_profile={name},act_beta=0.2") == {
            "pretrained": "a/b",
            "act_profile": name,
            "act_beta": 0.2,
        }
        assert ACTArguments.from_model_args({"act_profile": name}).profile == name


@pytest.mark.tier("process")
def test_variables_of_the_environment(hub, tmp_path):
    """A process of its own finds the hub by HF_ENDPOINT, and then the cache without it."""

    def show(**variables):
        command = [sys.executable, "-m", "act_eval", "profiles", "show", "hf://someone/heads"]
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "own-cache"), **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    online = show(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert json.loads(online.stdout)["heads"] == {"1": [0]}, online.stderr
    cached = show(HF_HUB_OFFLINE="1")
    assert cached.stdout == online.stdout
    assert "is read from its cache, as of commit" in cached.stderr
    shutil.rmtree(tmp_path / "own-cache")
    gone = show(HF_HUB_OFFLINE="1")
    assert gone.returncode == 2
    assert gone.stderr.startswith("act-eval: a JSON file of someone/heads is not in the hub's cache")


def test_comparisons_are_refused_before_anything_is_loaded(hub):
    settings = ComparisonSettings(ModelSettings({"act_profile": "hf://someone/nothing"}), PromptSettings(("x",)))
    with pytest.raises(HubError, match="there is no repository"):
        plan_comparison(settings)


@pytest.mark.tier("model")
class TestModel:
    """`act-hf` with a profile on the hub."""

    def test_it_calibrates_those_heads_and_says_where_they_are_from(self, hub):
        lm = ACTLM(act_profile="hf://someone/heads/found.json", act_alpha=5, device="cpu")
        assert lm.profile == ONE
        act = lm.get_model_info()["act"]
        assert act["profile_commit"] == hub.repositories["someone/heads"].branches["main"]
        assert act["profile_hash"] == ONE.content_hash

    def test_several_processes_calibrate_the_same_heads(self, hub, monkeypatch):
        """One that read what a branch has since moved to is not let go on."""
        monkeypatch.setattr("act_eval.harness.lm.same_for_all", lambda value: OTHER.content_hash)
        with pytest.raises(ProfileError, match="hf://someone/heads has changed while the processes started: start them again"):
            ACTLM(act_profile="hf://someone/heads", act_alpha=5, device="cpu")
        ACTLM(act_profile="1:0", act_alpha=5, device="cpu")
