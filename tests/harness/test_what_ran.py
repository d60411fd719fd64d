"""What gave an answer: all that answers depend on changes it, and nothing else does."""

import shutil

import pytest
import torch
from accelerate import cpu_offload
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from act_eval.demo import MODEL_PATH
from act_eval.differences import differences, differing
from act_eval.harness import what_ran as module
from act_eval.harness.checkpoint_files import checkpoint_stamps
from act_eval.harness.lm import ACTLM
from act_eval.harness.what_ran import digest_of, in_json, kept_arguments, tokenizer_fingerprint, weights_fingerprint, what_ran
from act_eval.model_arguments import WHERE_IT_RUNS

pytestmark = pytest.mark.tier("model")


def changed(left, right):
    return {name for name, _, _ in differing(left, right)}


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_PATH)


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_PATH)


class TestWeights:
    def test_every_single_number_counts(self, model):
        """Also the last one, and one in a large matrix, and a sign."""
        seen = {weights_fingerprint(model)}
        for _, tensor in model.state_dict().items():
            flat = tensor.flatten()
            for place in {0, flat.numel() // 3, flat.numel() - 1}:
                before = flat[place].clone()
                flat[place] = -before if before else 1e-30
                seen.add(weights_fingerprint(model))
                flat[place] = before
        assert len(seen) > len(model.state_dict())
        assert weights_fingerprint(AutoModelForCausalLM.from_pretrained(MODEL_PATH)) == weights_fingerprint(model)

    def test_two_numbers_that_change_places(self, model):
        before = weights_fingerprint(model)
        weight = model.lm_head.weight.data
        weight[[0, 1]] = weight[[1, 0]]
        assert weights_fingerprint(model) != before

    def test_dtype_counts(self, model):
        assert weights_fingerprint(model) != weights_fingerprint(model.to(torch.bfloat16))

    def test_offloaded_weights_are_the_same(self, model):
        before = weights_fingerprint(model)
        offloaded = cpu_offload(model, execution_device=torch.device("cpu"))
        assert next(offloaded.parameters()).is_meta
        assert weights_fingerprint(offloaded) == before

    def test_not_a_number_has_a_fingerprint(self, model):
        model.lm_head.weight.data[0, 0] = float("nan")
        assert weights_fingerprint(model) == weights_fingerprint(model)


class TestTokenizer:
    def test_use_changes_nothing(self, tokenizer):
        before = tokenizer_fingerprint(tokenizer)
        tokenizer(["a text", "a longer text than that"], padding="max_length", truncation=True, max_length=3)
        assert tokenizer_fingerprint(tokenizer) == before

    def test_new_tokens_and_normalization_count(self, tokenizer):
        seen = {tokenizer_fingerprint(tokenizer)}
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        seen.add(tokenizer_fingerprint(tokenizer))
        tokenizer.add_tokens(["<new>"])
        seen.add(tokenizer_fingerprint(tokenizer))
        assert len(seen) == 3


def make(model, tokenizer, **arguments):
    return ACTLM(pretrained=model, tokenizer=tokenizer, **{"act_profile": "all", **arguments})


class TestWhatRan:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda model, _: model.lm_head.weight.data.mul_(1.01), "weights"),
            (lambda model, _: model.config.rope_parameters.update(rope_theta=7.0), "config.rope_parameters.rope_theta"),
            (lambda model, _: setattr(model.config, "rms_norm_eps", 0.5), "config.rms_norm_eps"),
            (lambda model, _: setattr(model.generation_config, "top_k", 7), "generation_config.top_k"),
            (lambda _, tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"), "tokenizer.chat_template"),
            (lambda _, tokenizer: tokenizer.add_tokens(["<new>"]), "tokenizer.content"),
            (lambda _, tokenizer: setattr(tokenizer, "bos_token", "the"), "tokenizer.special_tokens.bos_token"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_answers_depend_on_is_named(self, model, tokenizer, change, name):
        before = what_ran(make(model, tokenizer))
        change(model, tokenizer)
        after = what_ran(make(model, tokenizer))
        assert f"model.{name}" in changed(before, after)
        assert any(line.startswith(f"model.{name} (") for line in differences(before, after))

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"add_bos_token": True}, "arguments.add_bos_token"),
            ({"softmax_dtype": "float64"}, "arguments.softmax_dtype"),
            ({"mixed_precision_dtype": "bfloat16"}, "arguments.mixed_precision_dtype"),
            ({"max_length": 64}, "max_length"),
        ],
    )
    def test_arguments_that_shape_answers_count(self, model, tokenizer, arguments, name):
        assert changed(what_ran(make(model, tokenizer)), what_ran(make(model, tokenizer, **arguments))) == {f"model.{name}"}

    def test_arguments_that_nobody_knows_count(self):
        assert kept_arguments({"gguf_file": "a.gguf", "device": "cpu", "new": {1}}) == {"gguf_file": "a.gguf", "new": ["1"]}

    def test_where_and_how_fast_it_runs_does_not_count(self, model, tokenizer):
        one = make(model, tokenizer, batch_size=1, device="cpu", act_beta=0.2)
        assert what_ran(one) == what_ran(make(model, tokenizer, batch_size="auto", max_batch_size=4, act_beta=0.7))

    def test_a_copy_of_a_checkpoint_is_the_same_model(self, tmp_path):
        shutil.copytree(MODEL_PATH, tmp_path / "copy")
        assert what_ran(ACTLM(str(tmp_path / "copy"), dtype="float32")) == what_ran(ACTLM(dtype="float32"))

    def test_scale_of_an_adapter_counts(self, model, tokenizer):
        """It is no weight: two adapters with the same weights and another alpha answer differently."""
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
        lm = make(adapted, tokenizer)
        before = what_ran(lm)
        adapted.peft_config["default"].lora_alpha = 8
        assert changed(before, what_ran(lm)) == {"model.adapters.default.lora_alpha"}

    def test_evaluating_changes_nothing(self, demo_tasks):
        from lm_eval import simple_evaluate

        lm = ACTLM(act_profile="all", batch_size=4)
        before = what_ran(lm)
        results = simple_evaluate(model=lm, tasks=["demo_topic"], limit=3, task_manager=demo_tasks, bootstrap_iters=0)
        assert results["config"]["what_ran"] == {"name": "act-eval-demo", **before}
        assert what_ran(lm) == before

    def test_arguments_of_lm_eval_that_count_for_nothing_are_its_own(self):
        """A name that lm-eval does not have (any more) would hide an argument of somebody else."""
        import inspect

        known = set(inspect.signature(HFLM.__init__).parameters) | {
            "cache_dir",
            "device_map",
            "low_cpu_mem_usage",
            "tp_plan",
        }
        assert known >= WHERE_IT_RUNS | module._RECORDED_OTHERWISE


def test_values_without_a_json_form():
    value = in_json(
        {"set": {"b", "a"}, "function": test_values_without_a_json_form, "dtype": torch.float32, "number": float("inf")}
    )
    assert value == {
        "set": ["a", "b"],
        "function": "<function test_values_without_a_json_form>",
        "dtype": "torch.float32",
        "number": "Infinity",
    }


def test_objects_are_told_apart_by_what_they_say_and_not_by_where_they_are():
    """Such as the pictures in documents, whose texts hold addresses."""

    class Picture:
        pass

    assert digest_of([Picture()]) == digest_of([Picture()]) != digest_of([object()])


class TestStamps:
    def test_they_stay_and_change_with_the_files(self, tmp_path):
        shutil.copytree(MODEL_PATH, tmp_path / "model")
        arguments = {"pretrained": str(tmp_path / "model")}
        before = checkpoint_stamps(arguments)
        assert before == checkpoint_stamps(arguments)
        assert "pretrained/config.json" in before
        config = tmp_path / "model" / "config.json"
        config.write_text(config.read_text())
        assert checkpoint_stamps(arguments) != before

    @pytest.mark.parametrize(
        "arguments",
        [
            {"pretrained": object()},
            {"pretrained": "no/such-model"},
            {"peft": "no/such-adapter"},
            {"trust_remote_code": True},
            {"tokenizer": object()},
            {"gguf_file": "folder/model.gguf"},
        ],
    )
    def test_they_cannot_always_tell(self, arguments, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert checkpoint_stamps(arguments) is None

    def test_adapter_and_tokenizer_are_looked_at(self, tmp_path):
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "adapter_model.safetensors").touch()
        stamps = checkpoint_stamps({"peft": str(tmp_path / "adapter"), "tokenizer": str(MODEL_PATH)})
        assert {name.partition("/")[0] for name in stamps} == {"pretrained", "peft", "tokenizer"}


class TestResponseCache:
    """Answers of one model never come from another one's."""

    PAIRS = (("The", " cat"), ("A", " dog"))

    def ask(self, lm, file):
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(self.PAIRS)]
        return list(CachingLM(lm, str(file)).loglikelihood(requests))

    @pytest.mark.parametrize("arguments", [{}, {"act_profile": "none"}])
    def test_weights_at_the_same_path(self, model, tokenizer, tmp_path, arguments):
        folder = tmp_path / "model"
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        first = self.ask(ACTLM(str(folder), **arguments), tmp_path / "cache")
        model.lm_head.weight.data.mul_(1.1)
        model.save_pretrained(folder)
        fresh = self.ask(ACTLM(str(folder), **arguments), tmp_path / "other-cache")
        assert self.ask(ACTLM(str(folder), **arguments), tmp_path / "cache") == fresh != first

    def test_the_same_model_answers_from_the_cache(self, tmp_path, monkeypatch):
        first = self.ask(ACTLM(), tmp_path / "cache")
        monkeypatch.setattr(ACTLM, "_score_contexts", None)
        assert self.ask(ACTLM(), tmp_path / "cache") == first

    def test_settings_that_change_while_the_cache_is_in_use(self, tmp_path):
        from act_eval.harness.arguments import ACTArguments

        lm, other = ACTLM(act_profile="all"), ACTArguments("none")
        self.ask(lm, tmp_path / "cache")
        lm.set_act(other)
        assert self.ask(lm, tmp_path / "cache") == self.ask(ACTLM(act_profile="none"), tmp_path / "fresh")
