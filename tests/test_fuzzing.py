"""Damaged and hostile files and arguments: one line for the user, or a right answer; never a traceback, never another file."""

import copy
import json
from dataclasses import fields

import pytest
from helpers.runs import ACT as ACT_SAMPLES
from helpers.runs import BASELINE, write_run
from helpers.thorough import examples
from hypothesis import example, given
from hypothesis import strategies as st
from lm_eval.utils import simple_parse_args_string

from act_eval.attention.act import ACT
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.methods import available_methods
from act_eval.profiles import HeadProfile, ProfileError, resolve_profile
from act_eval.report.build import make_report
from act_eval.report.machine_readable import to_json

pytestmark = pytest.mark.tier("unit")

few, many = examples(8), examples(50)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text() | st.just("../../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw, value):
    """A JSON value with one part, anywhere in it, replaced or taken away."""
    value = copy.deepcopy(value)
    parent, key, part = None, None, value
    while isinstance(part, (dict, list)) and part and (parent is None or draw(st.integers(0, 3))):
        parent, key = part, draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        part = parent[key]
    if parent is None or draw(st.integers(0, 9)) == 0:
        return draw(json_values)
    if draw(st.booleans()):
        del parent[key]
    else:
        parent[key] = draw(json_values)
    return value


def files_below(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused_in_one_line(function, *arguments):
    """What the function returns, or None if it refuses its input with a sentence in a line."""
    try:
        return function(*arguments)
    except InputError as refusal:
        lines = str(refusal).splitlines()
        # A report that can compare nothing lists every reason:
        assert len(lines) == 1 or lines[0] == "nothing can be compared:"


@pytest.mark.tier("slow")
class TestResults:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("results")
        write_run(folder, BASELINE[::10])
        write_run(folder, ACT_SAMPLES[::10], heads=32)
        return folder

    def check(self, folder, name, text):
        """A report with one file's text replaced is refused, or all its numbers are numbers."""
        file = next(iter(folder.glob(name)))
        original = file.read_bytes()
        before = set(files_below(folder.parent))
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            report = refused_in_one_line(make_report, [folder])
            if report is not None:
                for row in json.loads(to_json(report))["comparison"]:
                    assert -1e300 < row["delta"] < 1e300
        finally:
            file.write_bytes(original)
        assert set(files_below(folder.parent)) == before

    @given(data=st.data())
    @few
    def test_results(self, folder, data):
        file = next(iter(folder.glob("results_*")))
        self.check(folder, file.name, json.dumps(data.draw(damaged(json.loads(file.read_text())))))

    @given(data=st.data())
    @few
    def test_samples(self, folder, data):
        file = next(iter(folder.glob("samples_*")))
        lines = file.read_text().splitlines()
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(data.draw(damaged(json.loads(lines[number]))))
        self.check(folder, file.name, "\n".join(lines) + "\n")

    @given(data=st.data(), name=st.sampled_from(["results_*", "samples_*"]))
    @few
    def test_bytes(self, folder, data, name):
        content = next(iter(folder.glob(name))).read_bytes()
        start, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 50))
        self.check(folder, name, content[:start] + data.draw(st.binary(max_size=5)) + content[start + length :])

    def test_nested_deeply(self, folder):
        for name in ("results_*", "samples_*"):
            self.check(folder, name, "[" * 100_000)


class TestProfiles:
    profile = HeadProfile({2: (1, 3), 5: (0,)}, "some/model", 8, 4, {"beta": 0.4}, {"source": "a test"})

    def usable(self, text):
        """A profile that is read fits the model or is refused, and survives a round trip."""
        profile = refused_in_one_line(HeadProfile.from_json, text, "a file")
        if profile is not None:
            refused_in_one_line(profile.check, 8, 4)
            assert HeadProfile.from_json(profile.to_json(), "again") == profile

    @given(text=st.text())
    @example(text="[" * 100_000)
    @many
    def test_any_text(self, text):
        self.usable(text)

    @given(data=st.data())
    @many
    def test_damaged(self, data):
        self.usable(json.dumps(data.draw(damaged(json.loads(self.profile.to_json())))))

    @pytest.mark.parametrize("part", ["model", "settings", "provenance"])
    def test_pairs_are_no_objects(self, part):
        with pytest.raises(ProfileError, match="as objects"):
            HeadProfile.from_json(json.dumps({**json.loads(self.profile.to_json()), part: [[None, None]]}), "a file")

    def test_two_names_of_one_layer(self):
        content = {**json.loads(self.profile.to_json()), "heads": {"2": [1], "02": [3]}}
        with pytest.raises(ProfileError, match="02"):
            HeadProfile.from_json(json.dumps(content), "a file")

    @given(spec=st.text() | st.from_regex(r"[0-9+:;]{0,40}", fullmatch=True) | json_values)
    @example(spec="1:" + "9" * 5000)
    @example(spec="x\0y")
    @example(spec="x" * 5000)
    @many
    def test_whatever_names_a_profile(self, spec):
        profile = refused_in_one_line(resolve_profile, spec, 8, 4)
        if profile is not None:
            profile.check(8, 4)


class TestModelArguments:
    names = st.sampled_from(
        sorted(
            {f"act_{name}" for name in ("profile", "head_share", *ACT.setting_names())}
            | {f"act_{field.name}" for method in available_methods().values() for field in fields(method)}
        )
    )

    @given(values=st.dictionaries(names, json_values))
    @many
    def test_values(self, values):
        refused_in_one_line(lambda: ACTArguments.from_model_args(values))

    @given(name=names, text=st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])))
    @many
    def test_texts(self, name, text):
        refused_in_one_line(lambda: ACTArguments.from_model_args(simple_parse_args_string(f"{name}={text}")))
