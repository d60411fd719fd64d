"""Runs are paired only where all that their answers depend on is the same; a model is called what it is."""

import copy
import re

import pytest
from helpers.runs import ACT, BASELINE, write_run

from act_eval.report.build import make_report
from act_eval.report.load import ReportError, load
from act_eval.report.pairing import pair
from act_eval.report.statistics import compare
from act_eval.report.tables import overview

pytestmark = pytest.mark.tier("unit")

WHAT_RAN = {
    "name": "some/model",
    "model": {
        "class": "LlamaForCausalLM",
        "weights": "0123456789abcdef",
        "config": {"hidden_size": 64, "rope_scaling": {"factor": 2.0}, "eos_token_id": [1, 2]},
        "generation_config": {},
        "tokenizer": {"class": "LlamaTokenizer", "content": "00", "chat_template": None, "special_tokens": {"pad": "<pad>"}},
        "dtype": "torch.float32",
        "adapters": {},
        "max_length": 2048,
        "arguments": {"add_bos_token": True},
    },
    "versions": {"act-eval": "0.1.0", "lm-eval": "0.4.13", "torch": "2.13.0", "transformers": "5.23.0"},
}
TASK = {"doc_to_text": "{{text}}\nAnswer:", "generation_kwargs": {"until": ["\n"]}, "metric_list": [{"metric": "acc"}]}


def changed(values, field, value):
    """A copy of nested values with one of them replaced, or taken away where it is `...`."""
    values = copy.deepcopy(values)
    *parents, name = field.split(".")
    part = values
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return values


def pairing_of(folder, baseline=(), act=()):
    write_run(folder, BASELINE, **dict(baseline))
    write_run(folder, ACT, heads=32, **dict(act))
    return pair(load([folder]))


class TestAttentionBackend:
    EAGER, SDPA = {"base": "eager"}, {"base": "sdpa"}

    @pytest.mark.parametrize(
        ("baseline", "act"),
        [
            ({"act": EAGER}, {"act": SDPA}),
            ({"act": {"attention": "eager"}}, {"act": SDPA}),
            ({"act": {"attention": "eager"}}, {"act": {"base": "sdpa", "attention": "sdpa"}}),
            (
                {"stock": True, "model_args": {"pretrained": "some/model", "attn_implementation": "eager"}},
                {"act": SDPA, "model_args": "pretrained=some/model,attn_implementation=eager"},
            ),
        ],
    )
    def test_another_one_is_refused(self, tmp_path, baseline, act):
        reason = r"baseline and ACT ran with different attention backend \(eager; sdpa\): run both again"
        with pytest.raises(ReportError, match=reason):
            pairing_of(tmp_path, baseline, act)

    @pytest.mark.parametrize(
        ("baseline", "act"),
        [
            ({"act": EAGER}, {"act": EAGER}),
            ({"act": {"attention": "eager"}}, {"act": EAGER}),
            ({"stock": True}, {"act": EAGER}),
            ({}, {"act": EAGER}),
        ],
    )
    def test_the_same_one_or_one_that_is_not_known_is_paired(self, tmp_path, baseline, act):
        assert len(pairing_of(tmp_path, baseline, act).values) == len(ACT)

    def test_each_has_settings_and_a_baseline_of_its_own(self, tmp_path):
        """In whatever order they ran; beside a baseline that does not say on which it ran."""
        write_run(tmp_path, [0.0] * 100, stock=True)
        right = {"eager": (50, 60), "sdpa": (30, 70)}
        for side, heads in ((0, 0), (1, 32)):
            for base, scores in right.items():
                write_run(tmp_path, [1.0] * scores[side] + [0.0] * (100 - scores[side]), heads=heads, act={"base": base})
        report = make_report([tmp_path])
        table = report.comparison.set_index("settings")
        for base, (baseline, act) in right.items():
            row = table.loc[f"all (32 heads), beta 0.4, threshold 0.1, base {base}"]
            assert (row["baseline"], row["act"]) == (baseline / 100, act / 100)
        assert len(table) == table["baseline_id"].nunique() == 2
        assert report.notes == ("demo (some/model, baseline): no calibrated run goes with it.",)
        assert [row["settings"] for row in overview(report).texts.to_dict("records")].count("baseline") == 2

    def test_seeds_are_averaged_on_one_alone(self, tmp_path):
        for seed in (1, 2):
            for heads, base in ((0, "eager"), (32, "eager"), (0, "sdpa"), (32, "sdpa")):
                write_run(tmp_path, ACT if heads else BASELINE, heads=heads, act={"base": base}, shots=1, seed=seed)
        report = make_report([tmp_path])
        assert report.comparison["seeds"].tolist() == [2, 2]
        assert not report.notes


class TestWhatRan:
    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("model.weights", "fedcba9876543210", r"different weights \(0123456789abcdef; fedcba9876543210\): run both again"),
            ("model.class", "GPT2LMHeadModel", r"different class \(LlamaForCausalLM; GPT2LMHeadModel\)"),
            ("model.config.rope_scaling.factor", 4.0, r"different config.rope_scaling.factor \(2.0; 4.0\)"),
            ("model.config.eos_token_id", 1, r"different config.eos_token_id \(\[1, 2\]; 1\)"),
            ("model.config.rope_scaling", None, r"different config.rope_scaling.factor \(2.0; missing\)"),
            ("model.generation_config", {"top_k": 5}, r"different generation_config \(\{\}; missing\)"),
            ("model.tokenizer.chat_template", "ab", r"different tokenizer.chat_template \(null; ab\)"),
            ("model.tokenizer.special_tokens.pad", "", r"different tokenizer.special_tokens.pad \(<pad>; \"\"\)"),
            ("model.dtype", "torch.float16", "different dtype"),
            ("model.adapters", {"default": {"r": 8}}, "different adapters"),
            ("model.arguments.add_bos_token", False, r"different arguments.add_bos_token \(true; false\)"),
            ("model.max_length", ..., r"different max_length \(2048; missing\)"),
            ("model.new_key", 1, r"different new_key \(missing; 1\)"),
            *((f"versions.{name}", "9", rf"different versions.{name} \(.*; 9\)") for name in WHAT_RAN["versions"]),
        ],
    )
    def test_any_difference_is_refused(self, tmp_path, field, value, reason):
        with pytest.raises(ReportError, match=f"^demo .*: baseline and ACT ran with {reason}"):
            pairing_of(tmp_path, {"what_ran": WHAT_RAN}, {"what_ran": changed(WHAT_RAN, field, value)})

    def test_the_same_is_paired(self, tmp_path):
        pairing = pairing_of(
            tmp_path, {"what_ran": WHAT_RAN}, {"what_ran": changed(WHAT_RAN, "name", "another path of the same weights")}
        )
        assert len(pairing.values) == 100
        assert pairing.notes == ()

    @pytest.mark.parametrize("sides", [({"stock": True}, {"what_ran": WHAT_RAN}), ({"what_ran": WHAT_RAN}, {}), ({}, {})])
    def test_files_that_do_not_say_it_are_paired(self, tmp_path, sides):
        assert len(pairing_of(tmp_path, *sides).values) == 100

    def test_long_values_are_shown_where_they_differ(self, tmp_path):
        start = "one line\n" * 20
        with pytest.raises(
            ReportError, match=r"description \(\.\.\..*line\\nleftx*\.\.\.; \.\.\..*line\\nright\"\): run"
        ) as refusal:
            pairing_of(
                tmp_path,
                {"task_config": {"description": f"{start}left{'x' * 500}"}},
                {"task_config": {"description": f"{start}right"}},
            )
        assert len(str(refusal.value)) < 300
        assert len(str(refusal.value).splitlines()) == 1


class TestWithoutIt:
    """A baseline of `--model hf` says less; what it says must agree."""

    @pytest.mark.parametrize(
        ("where", "name", "values"),
        [
            ("config", "model_num_parameters", (260032, 909952)),
            ("config", "model_dtype", ("torch.float32", "torch.float16")),
            ("config", "model_sha", ("ab", "cd")),
            ("config", "model_revision", ("main", "v2")),
            ("config", "peft_sha", ("ab", "cd")),
            ("recorded", "max_length", (512, 2048)),
            ("recorded", "eot_token_id", (1, 2)),
            ("recorded", "tokenizer_pad_token", (["</s>", "2"], ["</s>", "1"])),
            ("recorded", "tokenizer_eos_token", (["</s>", "2"], ["</s>", "1"])),
            ("recorded", "tokenizer_bos_token", (["<s>", "2"], ["<s>", "1"])),
            ("recorded", "chat_template_sha", (None, "ab")),
            ("recorded", "system_instruction_sha", ("ab", None)),
            ("recorded", "transformers_version", ("4.57.1", "5.23.0")),
            ("recorded", "lm_eval_version", ("0.4.10", "0.4.13")),
        ],
    )
    def test_what_both_files_say_must_agree(self, tmp_path, where, name, values):
        sides = [{where: {name: value}} for value in values]
        with pytest.raises(ReportError, match=rf"baseline and ACT ran with different {name} \(.*; .*\): run both again"):
            pairing_of(tmp_path / "different", {"stock": True, **sides[0]}, {**sides[1], "what_ran": WHAT_RAN})
        unknown = {} if values[0] is None or values[1] is None else {where: {name: ""}}
        assert len(pairing_of(tmp_path / "same", {"stock": True, **sides[0]}, sides[0]).values) == 100
        assert len(pairing_of(tmp_path / "unknown", {"stock": True, **sides[0]}, unknown).values) == 100

    @pytest.mark.parametrize("older", [False, True])
    def test_versions_of_files_from_before(self, tmp_path, older):
        baseline = {"config": {"versions": {"torch": "2.6.0", "transformers": "5.23.0"}}, "older": older}
        act = {"config": {"versions": {"torch": "2.13.0", "transformers": "5.23.0"}}, "older": older}
        with pytest.raises(ReportError, match=r"different versions.torch \(2.6.0; 2.13.0\)"):
            pairing_of(tmp_path, baseline, act)

    @pytest.mark.parametrize(
        ("sampling", "matters"),
        [
            ({"do_sample": True}, True),
            ({"temperature": 0.7}, True),
            ({"do_sample": False, "temperature": 0.7}, False),
            ({"temperature": 0.0}, False),
            ({}, False),
        ],
    )
    @pytest.mark.parametrize(
        ("shots", "name", "reason"),
        [
            (0, "torch_seed", r"the first to differ is seed, here 1\)"),
            (0, "numpy_seed", r"different numpy_seed \(0; 1\)"),
            (2, "torch_seed", r"different torch_seed \(0; 1\)"),
        ],
    )
    def test_seeds_matter_where_answers_are_drawn(self, tmp_path, sampling, matters, shots, name, reason):
        task = {"generation_kwargs": {"until": ["\n"], **sampling}}
        sides = [{"config": {name: seed}, "task_config": task, "shots": shots} for seed in (0, 1)]
        if matters:
            with pytest.raises(ReportError, match=reason):
                pairing_of(tmp_path, *sides)
        else:
            assert len(pairing_of(tmp_path, *sides).values) == 100

    @pytest.mark.parametrize(("template", "shots", "matters"), [("ab", 2, True), ("ab", 0, False), (None, 2, False)])
    def test_turns_matter_to_examples_in_a_chat(self, tmp_path, template, shots, matters):
        sides = [
            {"shots": shots, "recorded": {"chat_template_sha": template, "fewshot_as_multiturn": turns}}
            for turns in (True, None)
        ]
        if matters:
            with pytest.raises(ReportError, match=r"different fewshot_as_multiturn \(true; false\)"):
                pairing_of(tmp_path, *sides)
        else:
            assert len(pairing_of(tmp_path, *sides).values) == 100


class TestConfigOfTheTask:
    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("generation_kwargs.until", ["."], r"generation_kwargs.until \(\[\"\\n\"\]; \[\"\.\"\]\)"),
            ("generation_kwargs.temperature", 0.7, r"generation_kwargs.temperature \(missing; 0.7\)"),
            ("generation_kwargs", ..., r"generation_kwargs.until \(.*; missing\)"),
            ("metric_list", [{"metric": "acc", "ignore_case": True}], "metric_list"),
            ("doc_to_text", "{{text}} Answer:", "doc_to_text"),
            ("doc_to_choice", ["no", "yes"], r"doc_to_choice \(missing; \[\"no\", \"yes\"\]\)"),
            ("process_results", "def process_results(doc, results):\n    return {}\n", "process_results"),
            ("filter_list", [{"name": "none"}], "filter_list"),
            ("repeats", 3, r"repeats \(missing; 3\)"),
        ],
    )
    def test_differences_are_refused(self, tmp_path, field, value, reason):
        with pytest.raises(ReportError, match=f"baseline and ACT ran with different {reason}"):
            pairing_of(tmp_path, {"task_config": TASK}, {"task_config": changed(TASK, field, value)})

    def test_what_changes_no_answer_may_differ(self, tmp_path):
        one = {
            **TASK,
            "process_results": "functools.partial(<function process at 0x7f0123456789>, k=1)",
            "metric_list": [{"metric": "acc", "aggregation": "<function agg at 0x7f0123456789>"}],
            "metadata": {"version": 1.0, "pretrained": "some/model", "config_source": "a.yaml"},
            "tag": "one",
            "training_split": "train",
            "fewshot_config": {"sampler": "default"},
        }
        other = {
            **TASK,
            "process_results": "functools.partial(<function process at 0x7fabcdefabcd>, k=1)",
            "metric_list": [{"aggregation": "<function agg at 0x7fabcdefabcd>", "metric": "acc"}],
            "metadata": {"version": 1.0, "act_profile": "all"},
            "should_decontaminate": True,
            "doc_to_choice": None,
        }
        assert len(pairing_of(tmp_path, {"task_config": one}, {"task_config": other}).values) == 100

    def test_another_function_is_not_the_same(self, tmp_path):
        sides = [{"task_config": {"process_docs": f"<function {name} at 0x7f0123456789>"}} for name in ("one", "other")]
        with pytest.raises(ReportError, match=r"different process_docs"):
            pairing_of(tmp_path, *sides)

    def test_examples_are_drawn_as_the_config_says(self, tmp_path):
        sides = [{"shots": 2, "task_config": {"fewshot_split": split}} for split in ("train", "validation")]
        with pytest.raises(ReportError, match=r"different fewshot_split \(train; validation\)"):
            pairing_of(tmp_path, *sides)


class TestRunsAgain:
    """A folder that holds runs from before and after the weights changed."""

    OLD, NEW = ({"what_ran": changed(WHAT_RAN, "model.weights", weights)} for weights in ("a" * 16, "b" * 16))

    def test_the_newest_pair_is_reported(self, tmp_path):
        older = [write_run(tmp_path, BASELINE, **self.OLD), write_run(tmp_path, BASELINE, heads=32, **self.OLD)]
        report_of = pairing_of(tmp_path, self.NEW, self.NEW)
        assert (report_of.values["baseline"].mean(), report_of.values["calibrated"].mean()) == (0.6, 0.75)
        for date in older:
            assert any(date in note and "newer" in note for note in report_of.notes)

    @pytest.mark.parametrize("new", [0, 32])
    def test_where_one_side_is_new_nothing_is_paired(self, tmp_path, new):
        write_run(tmp_path, BASELINE, **self.OLD)
        write_run(tmp_path, ACT, heads=32, **self.OLD)
        write_run(tmp_path, ACT, heads=new, **self.NEW)
        with pytest.raises(ReportError, match=rf"different weights \({'b' if not new else 'a'}{{16}}; "):
            pair(load([tmp_path]))

    def test_runs_of_different_weights_are_no_noise(self, tmp_path):
        write_run(tmp_path, ACT, **self.OLD)
        pairing = pairing_of(tmp_path, self.NEW, self.NEW)
        assert len(pairing.values) == 100
        assert pairing.noise.empty
        assert any(note.startswith("noise: demo") and "different weights (a" in note for note in pairing.notes)

    def test_runs_of_the_same_weights_are(self, tmp_path):
        write_run(tmp_path, ACT, **self.NEW)
        pairing = pairing_of(tmp_path, self.NEW, self.NEW)
        assert len(pairing.noise) == 100

    def test_seeds_of_different_weights_are_not_averaged(self, tmp_path):
        for seed, run in enumerate((self.OLD, self.NEW, self.NEW)):
            for heads, values in ((0, BASELINE), (32, ACT)):
                write_run(tmp_path, values, heads=heads, shots=2, seed=seed, **run)
        pairing = pair(load([tmp_path]))
        assert sorted(pairing.values["seed"].unique()) == [1, 2]
        (note,) = pairing.notes
        assert re.search(r"seeds 0 and 2 ran with different weights \(b{16}; a{16}\), and the older", note)

    @pytest.mark.parametrize("settings", [{}, {"beta": 0.2}])
    def test_tasks_of_different_weights_are_not_averaged(self, tmp_path, settings):
        """Nor settings of ACT: all numbers of one model are of the same weights."""
        for task, run, act in (("first", self.OLD, {}), ("second", self.NEW, settings), ("third", self.NEW, settings)):
            for heads, values in ((0, BASELINE), (32, ACT)):
                write_run(tmp_path, values, heads=heads, task=task, **run, **act)
        pairing = pair(load([tmp_path]))
        assert set(pairing.values["task"]) == {"second", "third"}
        (note,) = pairing.notes
        assert re.search(r"^first .*is not the one that ran third later, but has different weights \(b{16}; a{16}\)", note)

    def test_tasks_that_ran_with_other_packages_stand_together(self, tmp_path):
        """Each pair is of one version, and so is each difference."""
        for task, version in (("first", "1"), ("second", "2")):
            for heads, values in ((0, BASELINE), (32, ACT)):
                what_ran = changed(WHAT_RAN, "versions.torch", version)
                write_run(tmp_path, values, heads=heads, task=task, what_ran=what_ran)
        assert set(pair(load([tmp_path])).values["task"]) == {"first", "second"}

    @pytest.mark.parametrize("shots", [0, 2])
    def test_seeds_of_drawn_answers_are_averaged(self, tmp_path, shots):
        task = {"generation_kwargs": {"do_sample": True}}
        for seed in (0, 1):
            for heads, values in ((0, BASELINE), (32, ACT)):
                write_run(tmp_path, values, heads=heads, shots=shots, seed=seed, config={"torch_seed": seed}, task_config=task)
        pairing = pair(load([tmp_path]))
        assert sorted(pairing.values["seed"].unique()) == [0, 1]
        assert pairing.notes == ()
        assert compare(pairing)["seeds"].tolist() == [2]


class TestNames:
    """What a report calls a model that no argument names, for which lm-eval makes a name up."""

    def names(self, folder, **run):
        write_run(folder, [1.0], **run)
        return load([folder]).runs["model"].tolist()

    @pytest.mark.parametrize("model_args", [None, "", "act_profile=all", {"act_profile": "all"}])
    def test_random_names_are_not_shown(self, tmp_path, model_args):
        run = {"model": "qdpv68r5", "model_args": model_args, "config": {"model": "path/of/an/object"}}
        assert self.names(tmp_path, **run) == ["path/of/an/object"]
        assert self.names(tmp_path / "b", **run, what_ran=WHAT_RAN) == ["some/model"]

    @pytest.mark.parametrize("model_args", ["pretrained=qdpv68r5,dtype=float32", {"pretrained": "qdpv68r5"}])
    def test_a_model_may_be_called_so(self, tmp_path, model_args):
        assert self.names(tmp_path, model="qdpv68r5", model_args=model_args, what_ran=WHAT_RAN) == ["qdpv68r5"]

    def test_a_name_that_was_given_stays(self, tmp_path):
        assert self.names(tmp_path, model="act-eval-demo", model_args={"act_profile": "all"}) == ["act-eval-demo"]

    def test_an_object_among_the_arguments(self, tmp_path):
        text = "LlamaForCausalLM(\n  (model): LlamaModel()\n)"
        run = {"model": text, "model_args": {"pretrained": text}, "what_ran": WHAT_RAN}
        assert self.names(tmp_path, **run) == ["some/model"]

    def test_nothing_names_it(self, tmp_path):
        assert self.names(tmp_path, model="qdpv68r5", model_args=None, config={"model": ""}) == ["unnamed model"]

    def test_models_with_random_names_are_not_paired(self, tmp_path):
        """lm-eval draws the same name for both where it was seeded in between."""
        write_run(tmp_path, BASELINE, stock=True, model="qdpv68r5", model_args=None, config={"model": "stories260K"})
        write_run(tmp_path, ACT, heads=32, model="qdpv68r5", model_args=None, config={"model": "act_eval/demo/model"})
        with pytest.raises(ReportError, match=r"the first to differ is model, here act_eval/demo/model") as refusal:
            make_report([tmp_path])
        assert "qdpv68r5" not in str(refusal.value)
