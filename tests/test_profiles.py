"""Head profiles: reading, writing, checking, and everything that names one."""

import json
import logging
import re
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from act_eval.harness.arguments import ACTArguments
from act_eval.profiles import HeadGroup, HeadProfile, ProfileError, published_profiles, resolve_profile

pytestmark = pytest.mark.tier("unit")

heads_by_layer = st.dictionaries(st.integers(0, 31), st.sets(st.integers(0, 31)).map(tuple))


@given(heads_by_layer)
def test_json_round_trip(heads):
    profile = HeadProfile(heads, "some/model", 32, 32, settings={"beta": 0.4}, provenance={"source": "a “test”"})
    assert HeadProfile.from_json(profile.to_json(), "text") == profile


@given(st.text())
def test_texts_round_trip(text):
    """Whatever a model is called, such as what stands for heads meanwhile."""
    group = HeadGroup({1: (0,)}, "act", {"beta": 0.2})
    for name in (text, "HEADS", "HEADS OF GROUP 0", "\\u0000heads", '"heads"'):
        profile = HeadProfile.of_groups([group], model=name, provenance={"source": name})
        assert HeadProfile.from_json(profile.to_json(), "text") == profile


@pytest.mark.parametrize(
    ("groups", "culprit"),
    [
        ([HeadGroup({1: (0,)}, "temperature", {"theta": 2}), HeadGroup({1: (1,)})], "group 2 of the heads names no method"),
        ([HeadGroup({1: (0,)}), HeadGroup({1: (1,)}, "act"), HeadGroup({2: (1,)})], "group 1 of the heads names no method"),
        ([HeadGroup({1: (0,)}, None, {"theta": 2})], "has parameters, but names no method that takes them"),
        ([HeadGroup({1: (0, 0)}, "act")], r"group 1 of the heads lists one of layer 1 twice: \[0, 0\]"),
    ],
)
def test_groups_that_say_half_of_it(groups, culprit):
    """Nothing else would be done there in silence."""
    with pytest.raises(ProfileError, match=culprit):
        HeadProfile.of_groups(groups)


def test_a_file_may_have_a_separator_in_its_name(tmp_path):
    file = tmp_path / "a|b.json"
    HeadProfile({1: (0,)}).save(file)
    assert resolve_profile(str(file), 3, 2).heads == {1: (0,)}
    assert ACTArguments(str(file)).calibration.method.name == "act"


@given(heads_by_layer, heads_by_layer)
def test_groups_round_trip(some, others):
    others = {layer: tuple(set(heads) - set(some.get(layer, ()))) for layer, heads in others.items()}
    groups = (HeadGroup(some, "scale-first-token", {"gamma": 0.5}), HeadGroup(others, "mask-head"))
    profile = HeadProfile.of_groups(groups, model="some/model", num_layers=32, num_heads=32)
    text = profile.to_json()
    assert json.loads(text)["version"] == 2
    assert HeadProfile.from_json(text, "text") == profile
    assert profile.size == sum(map(len, some.values())) + sum(map(len, others.values()))
    assert profile.group(0).size == sum(map(len, some.values()))
    assert profile.group(1).groups == ()
    swapped = HeadProfile.of_groups(groups[::-1])
    assert swapped.heads == profile.heads
    assert swapped.content_hash != profile.content_hash


def with_gamma(value):
    """A profile as someone may have written it by hand."""
    group = {"method": "scale-first-token", "parameters": {"gamma": value}, "heads": {"1": [0, 2]}}
    content = {"format": "act-eval head profile", "version": 2, "heads": {"1": [0, 2]}, "groups": [group]}
    return HeadProfile.from_json(json.dumps(content), "text")


def test_the_hash_changes_only_with_the_content():
    assert with_gamma(2).content_hash == with_gamma(2.0).content_hash != with_gamma(2.5).content_hash
    assert HeadProfile.of_groups([HeadGroup({1: (0, 2)}, "scale-first-token", {"gamma": 2})]) == with_gamma(2.0)


def test_hashes_are_what_they_were():
    """They stand in the results of finished runs."""
    assert published_profiles()["llama-2-7b-chat/classification"].content_hash == "36330c21cce25396"
    assert with_gamma(0.5).content_hash == "2487305128f2e259"


def test_a_parameter_that_no_float_can_hold():
    with pytest.raises(ProfileError, match="too large"):
        with_gamma(10**400)


def test_saving_leaves_what_was_there_until_the_file_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "profile.json"
    HeadProfile({1: (0,)}).save(file)
    monkeypatch.setattr("os.replace", Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        HeadProfile({2: (1,)}).save(file)
    assert HeadProfile.load(file).heads == {1: (0,)}
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_a_profile_without_groups_is_written_as_before():
    assert json.loads(HeadProfile({1: (2,)}).to_json()) == {
        "format": "act-eval head profile",
        "version": 1,
        "model": {"name": None, "layers": None, "heads": None},
        "heads": {"1": [2]},
        "settings": {},
        "provenance": {},
    }


@given(heads_by_layer, heads_by_layer, st.floats(0, 1))
def test_a_share_of_groups_is_that_of_their_heads(some, others, share):
    others = {layer: tuple(set(heads) - set(some.get(layer, ()))) for layer, heads in others.items()}
    profile = HeadProfile.of_groups([HeadGroup(some, "remove"), HeadGroup(others, "mask-head")])
    kept = profile.share(share)
    assert kept.heads == HeadProfile(profile.heads).share(share).heads
    assert kept.group(0).size + kept.group(1).size == kept.size
    for number in (0, 1):
        for layer, heads in kept.group(number).heads.items():
            assert set(heads) <= set(profile.group(number).heads[layer])


def test_lists_of_heads_side_by_side(tmp_path):
    HeadProfile({5: (1,)}).save(tmp_path / "heads.json")
    profile = resolve_profile(f"2:8+13 | {tmp_path / 'heads.json'}", 8, 16)
    assert profile.heads == {2: (8, 13), 5: (1,)}
    assert [group.heads for group in profile.groups] == [{2: (8, 13)}, {5: (1,)}]
    grouped = HeadProfile.of_groups([HeadGroup({1: (0,)}), HeadGroup({2: (0,)})])
    grouped.save(tmp_path / "grouped.json")
    for spec, culprit in (
        ("2:8|2:8+9", "head 8 of layer 2 is in group 2 of the heads and in one before: leave it in one"),
        ("2:8|", "needs a list of heads on each side of a |, not ''"),
        ("2:8|all", "not 'all': give heads inline"),
        ("2:8|missing.json", "no head profile 'missing.json'"),
        (f"2:8|{tmp_path / 'grouped.json'}", "has groups of heads itself"),
        ("2:8|3:16", "head 16 of layer 3"),
    ):
        with pytest.raises(ProfileError, match=re.escape(culprit)) as error:
            resolve_profile(spec, 8, 16)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("groups", "culprit"),
    [
        ([], '"groups" in version 2'),
        ([3], '"groups" in version 2'),
        ([{"heads": [1]}], '"groups" in version 2'),
        ([{"heads": {"1": [2]}, "parameters": {"gamma": "x"}}], '"groups" in version 2'),
        ([{"heads": {"1": [2]}, "method": 3}], '"groups" in version 2'),
        ([{"heads": {"1": [3]}}], "do not hold the same heads"),
        ([{"heads": {"1": [2]}}, {"heads": {"1": [2]}}], "head 2 of layer 1 is in group 2"),
        ([{"heads": {"01": [2]}}], "plain numbers"),
        ([{"heads": {"1": [2.5]}}], "whole numbers"),
    ],
)
def test_files_with_groups_that_are_none(groups, culprit):
    content = {"format": "act-eval head profile", "version": 2, "heads": {"1": [2]}, "groups": groups}
    with pytest.raises(ProfileError, match=culprit):
        HeadProfile.from_json(json.dumps(content), "some.json")


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

    def test_auto_of_a_model_that_has_no_such_layers(self):
        with pytest.raises(ProfileError, match=r"act_profile=auto stands for .*, and there are 3 layers: name the heads"):
            resolve_profile("auto", 3, 2, "somebody/model")

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
