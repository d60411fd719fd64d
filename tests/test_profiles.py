"""Head profiles: reading, writing, checking, and everything that names one."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.harness.arguments import ACTArguments
from act_eval.profiles import HeadProfile, ProfileError, published_profiles, resolve_profile

pytestmark = pytest.mark.tier("unit")

heads_by_layer = st.dictionaries(st.integers(0, 31), st.sets(st.integers(0, 31)).map(tuple))


@given(heads_by_layer)
def test_json_round_trip(heads):
    profile = HeadProfile(heads, "some/model", 32, 32, settings={"beta": 0.4}, provenance={"source": "a “test”"})
    assert HeadProfile.from_json(profile.to_json(), "text") == profile


@given(heads_by_layer)
def test_inline_round_trip(heads):
    profile = HeadProfile({layer: layer_heads for layer, layer_heads in heads.items() if layer_heads})
    inline = ";".join(f"{layer}:{'+'.join(map(str, layer_heads))}" for layer, layer_heads in profile.heads.items())
    if inline:
        assert HeadProfile.parse(inline) == profile


@given(heads_by_layer, heads_by_layer)
def test_hash_is_of_the_heads_alone(left, right):
    same = {(layer, head) for layer in left for head in left[layer]} == {
        (layer, head) for layer in right for head in right[layer]
    }
    assert (HeadProfile(left).content_hash == HeadProfile(right, model="other").content_hash) == same


def test_published_profiles():
    profiles = published_profiles()
    sizes = {name: profile.size for name, profile in profiles.items()}
    assert sizes == {
        "llama-2-7b-chat/classification": 184,
        "llama-2-7b-chat/multiple-choice": 74,
        "llama-2-7b-chat/mt-bench": 25,
        "mistral-7b-instruct-v0.2/classification": 16,
        "mistral-7b-instruct-v0.2/multiple-choice": 104,
    }
    for profile in profiles.values():
        profile.check(32, 32)
        assert profile.settings["beta"] == 0.4
        assert "GATECH-EIC/ACT" in profile.provenance["source"]


def test_published_profiles_equal_their_source(test_data):
    files = {
        "llama-2-7b-chat/mt-bench": "llama2-7b-chat_mt-bench",
        "mistral-7b-instruct-v0.2/multiple-choice": "mistral-7b-instruct-v0.2_multiple-choice",
        "llama-2-7b-chat/classification": "llama2-7b-chat_classification",
        "llama-2-7b-chat/multiple-choice": "llama2-7b-chat_multiple-choice",
        "mistral-7b-instruct-v0.2/classification": "mistral-7b-instruct-v0.2_classification",
    }
    for name, file in files.items():
        source = json.loads((test_data / "profiles" / f"{file}.json").read_text())
        profile = published_profiles()[name]
        assert {str(layer): list(heads) for layer, heads in profile.heads.items()} == source["heads"]
        assert profile.model == source["model"]
        assert (profile.settings["beta"], profile.settings["threshold"]) == (source["beta"], source["threshold"])


class TestResolve:
    def test_all_and_none(self):
        assert resolve_profile("all", 3, 2).heads == {0: (0, 1), 1: (0, 1), 2: (0, 1)}
        assert resolve_profile("none", 3, 2).size == 0

    @pytest.mark.parametrize("spec", ["ALL", " all ", "All\n"])
    def test_words_in_capitals_and_between_spaces(self, spec):
        assert resolve_profile(spec, 3, 2) == resolve_profile("all", 3, 2)
        assert resolve_profile(spec.lower().replace("all", "None"), 3, 2).size == 0
        assert resolve_profile(spec.lower().replace("all", "AUTO"), 6, 2) == resolve_profile("auto", 6, 2)
        assert ACTArguments(spec) == ACTArguments("all")
        assert ACTArguments(None) == ACTArguments("NONE") == ACTArguments("none")
        assert resolve_profile(spec.lower().replace("all", "2:1"), 3, 2).heads == {2: (1,)}

    def test_paths_and_published_names_are_taken_as_they_are(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        HeadProfile({1: (0,)}).save("ALL")
        assert resolve_profile("ALL", 3, 2).size == 6
        assert resolve_profile("./ALL", 3, 2).size == 1
        for spec in ("./all", " ./ALL", "Llama-2-7b-chat/classification"):
            with pytest.raises(ProfileError, match="there is no head profile"):
                resolve_profile(spec, 3, 2)

    def test_file(self, tmp_path):
        profile = HeadProfile({1: (0,)}, num_layers=3, num_heads=2)
        profile.save(tmp_path / "mine.json")
        assert resolve_profile(str(tmp_path / "mine.json"), 3, 2) == profile

    def test_inline(self):
        assert resolve_profile("2:8+13;5:1", 6, 16).heads == {2: (8, 13), 5: (1,)}

    @pytest.mark.parametrize(
        "checkpoint", ["meta-llama/Llama-2-7b-chat-hf", "/models/Llama-2-7b-chat-hf/", "Llama-2-7B-chat-hf"]
    )
    def test_auto_takes_the_published_list(self, checkpoint):
        assert resolve_profile("auto", 32, 32, checkpoint) == published_profiles()["llama-2-7b-chat/classification"]

    def test_auto_without_a_published_list(self, caplog):
        with caplog.at_level(logging.WARNING):
            profile = resolve_profile("auto", 6, 2, "somebody/model")
        assert profile.heads == {2: (0, 1), 3: (0, 1), 4: (0, 1)}
        assert len(caplog.records) == 1
        assert "act-eval search" in caplog.text

    @pytest.mark.parametrize(
        ("spec", "culprit"),
        [
            ("6:0", "layer 6"),
            ("0:16", "head 16"),
            ("0:1+1", "twice"),
            ("2:", "no head profile '2:'"),
            ("no/such.json", "no/such.json"),
            ("llama-2-7b-chat/classification", "made for meta-llama/Llama-2-7b-chat-hf with 32 layers"),
        ],
    )
    def test_what_does_not_fit_is_named(self, spec, culprit):
        with pytest.raises(ProfileError, match=culprit):
            resolve_profile(spec, 6, 16)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "act-eval head profile"}',
        '{"format": "act-eval head profile", "version": 2, "heads": {}}',
        '{"format": "act-eval head profile", "version": 1, "heads": [1]}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"x": [1]}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"1": [1.5]}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"1": [true]}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"1": 3}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"-1": [0]}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"1": [-2]}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {"9": [0]}, "model": {"layers": 4, "heads": 4}}',
        '{"format": "act-eval head profile", "version": 1, "heads": {}, "settings": 3}',
    ],
)
def test_unreadable_text_is_a_sentence(text):
    with pytest.raises(ProfileError, match=r"mine\.json"):
        HeadProfile.from_json(text, "mine.json")


def test_unreadable_file_is_a_sentence(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(ProfileError, match="cannot be read"):
            HeadProfile.load(path)
