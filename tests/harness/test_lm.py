"""act-hf as an lm-eval model: scores, batches, caches, settings."""

import itertools
import json
import random

import pytest
import torch
from helpers.requests import requests, scored_pairs
from lm_eval import simple_evaluate
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPTJConfig, GPTJForCausalLM, LlavaConfig

from act_eval.attention import gptj
from act_eval.attention.model_structure import UnsupportedModelError
from act_eval.demo import MODEL_PATH, corpus
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM
from act_eval.harness.what_ran import what_ran
from act_eval.profiles import HeadProfile, ProfileError

pytestmark = pytest.mark.tier("model")

LAYERS = {"lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"]}}
SETTINGS = {"act_profile": "all", "act_alpha": 3, "act_beta": 0.1}


def make(batch_size=8, **kwargs):
    return ACTLM(**{"dtype": "float32", "device": "cpu", "batch_size": batch_size, **kwargs})


def make_hf(batch_size=8, **kwargs):
    return HFLM(**{"pretrained": str(MODEL_PATH), "dtype": "float32", "device": "cpu", "batch_size": batch_size, **kwargs})


@pytest.fixture(scope="module")
def calibrated():
    return make(**SETTINGS)


@pytest.fixture(scope="module")
def plain():
    return make(act_profile="none")


def score(lm, pairs):
    return lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)


def assert_same_answers(left, right, atol=1e-4):
    assert [greedy for _, greedy in left] == [greedy for _, greedy in right]
    assert [value for value, _ in left] == pytest.approx([value for value, _ in right], rel=0, abs=atol)


@pytest.mark.tier("slow")
class TestLoglikelihood:
    @pytest.mark.parametrize("act", [{"act_profile": "none"}, SETTINGS], ids=["none", "all"])
    @pytest.mark.parametrize("decode", ["prefill", "row"])
    def test_equals_generation_step_by_step(self, act, decode):
        lm = make(**act, act_decode=decode)
        pairs = scored_pairs(20)
        for (context, continuation), (total, greedy) in zip(pairs, score(lm, pairs), strict=True):
            context_ids, continuation_ids = lm._encode_pair(context, continuation)
            expected, all_greedy, cache = 0.0, True, None
            step_input = torch.tensor([context_ids])
            with torch.no_grad(), lm.act(lm.model):
                for token in continuation_ids:
                    output = lm.model(step_input, past_key_values=cache, use_cache=True)
                    log_probs = output.logits[0, -1].log_softmax(-1)
                    expected += log_probs[token].item()
                    all_greedy &= log_probs.argmax().item() == token
                    cache, step_input = output.past_key_values, torch.tensor([[token]])
            assert total == pytest.approx(expected, rel=0, abs=1e-4)
            assert greedy == all_greedy

    def test_calibration_matters_here(self, calibrated, plain):
        pairs = scored_pairs(20)
        changes = [abs(a - b) for (a, _), (b, _) in zip(score(calibrated, pairs), score(plain, pairs), strict=True)]
        assert sorted(changes)[10] > 0.01

    @pytest.mark.parametrize("batch_size", [1, 3, 8, "auto", "auto:3"])
    def test_batch_size_and_order_change_nothing(self, calibrated, batch_size):
        pairs = scored_pairs(25) + [(context, " A") for context, _ in scored_pairs(6)]
        expected = score(calibrated, pairs)
        order = random.Random(1).sample(range(len(pairs)), len(pairs))
        lm = make(batch_size=batch_size, max_batch_size=16, **SETTINGS)
        shuffled = score(lm, [pairs[index] for index in order])
        assert_same_answers(shuffled, [expected[index] for index in order])

    @pytest.mark.parametrize("max_length", [None, 40])
    def test_without_heads_equals_hf(self, max_length):
        """With 40 tokens of window, every context is truncated, differently for each length of continuation."""
        pairs = scored_pairs(24)
        pairs += [(context, " A") for context, _ in pairs[:6]]
        ours = score(make(act_profile="none", max_length=max_length), pairs)
        assert_same_answers(ours, score(make_hf(max_length=max_length), pairs))

    def test_empty_context(self, plain):
        pairs = [("", " The cat is an animal."), ("", " The")]
        assert_same_answers(score(plain, pairs), score(make_hf(), pairs))

    def test_same_request_twice(self, calibrated):
        pair = scored_pairs(1)[0]
        first, second = score(calibrated, [pair, pair])
        assert first == second

    def test_the_continuation_does_not_choose_the_sinks(self, calibrated):
        """The first token's score is the same whatever follows it."""
        context, _ = scored_pairs(1)[0]
        short, long = " The", " The The The The The The"
        totals = [total for total, _ in score(calibrated, [(context, short), (context, long)])]
        single = make(**SETTINGS)
        assert score(single, [(context, short)])[0][0] == pytest.approx(totals[0], abs=1e-5)

    def test_continuation_longer_than_the_window(self):
        with pytest.raises(ValueError, match="window holds 8"):
            score(make(act_profile="none", max_length=8), [("The", " cat" * 9)])

    def test_ready_model_as_pretrained(self, calibrated):
        model = AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32)
        lm = ACTLM(model, tokenizer=str(MODEL_PATH), batch_size=4, **SETTINGS)
        pairs = scored_pairs(6)
        assert_same_answers(score(lm, pairs), score(calibrated, pairs))

    def test_half_precision_and_mixed_precision_run(self):
        pairs = scored_pairs(4)
        exact = [value for value, _ in score(make(**SETTINGS), pairs)]
        for options in ({"dtype": "bfloat16"}, {"mixed_precision_dtype": "bfloat16"}):
            values = [value for value, _ in score(make(**SETTINGS, **options), pairs)]
            assert values == pytest.approx(exact, rel=0.1)


@pytest.mark.tier("slow")
class TestRolling:
    TEXTS = tuple(context for context, _ in scored_pairs(5))

    @pytest.mark.parametrize("max_length", [None, 20])
    def test_without_heads_equals_hf(self, max_length):
        arguments = requests("loglikelihood_rolling", [(text,) for text in self.TEXTS])
        ours = make(act_profile="none", max_length=max_length).loglikelihood_rolling(arguments)
        assert ours == pytest.approx(make_hf(max_length=max_length).loglikelihood_rolling(arguments), rel=0, abs=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 3, "auto"])
    def test_a_window_is_one_prefill_block(self, batch_size):
        lm = make(batch_size=batch_size, max_batch_size=4, **SETTINGS)
        results = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in self.TEXTS]))
        for text, result in zip(self.TEXTS, results, strict=True):
            tokens = torch.tensor([[lm.prefix_token_id, *lm.tok_encode(text)]])
            with torch.no_grad(), lm.act(lm.model):
                log_probs = lm.model(tokens[:, :-1]).logits.log_softmax(-1)
            assert result == pytest.approx(log_probs[0].gather(-1, tokens[0, 1:, None]).sum().item(), rel=0, abs=1e-4)


@pytest.mark.tier("slow")
class TestGeneration:
    ARGUMENTS = tuple((context, {"until": ["\n\n"], "max_gen_toks": 12}) for context, _ in scored_pairs(7))

    def generate(self, lm):
        return lm.generate_until(requests("generate_until", self.ARGUMENTS), disable_tqdm=True)

    def test_without_heads_equals_hf(self, plain):
        assert self.generate(plain) == self.generate(make_hf())

    def test_equals_generate_inside_the_context(self, calibrated, plain):
        facts = [corpus.world_facts(random.Random(seed)) for seed in range(12)]
        arguments = [(text.rpartition(" ")[0], {"until": ["\n\n"], "max_gen_toks": 24}) for text in facts]
        ours, without = (lm.generate_until(requests("generate_until", arguments)) for lm in (calibrated, plain))
        assert ours != without
        for (context, _), text in zip(arguments, ours, strict=True):
            ids = torch.tensor([calibrated.tok_encode(context)])
            with calibrated.act(calibrated.model):
                output = calibrated.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=1)
            assert calibrated.tok_decode(output[0, ids.shape[1] :]).split("\n\n")[0] == text

    @pytest.mark.parametrize("batch_size", [1, 3, "auto"])
    def test_batch_size_changes_nothing(self, calibrated, batch_size):
        assert self.generate(make(batch_size=batch_size, max_batch_size=4, **SETTINGS)) == self.generate(calibrated)


class TestSettings:
    def test_model_info_says_what_ran(self, calibrated):
        info = json.loads(json.dumps(calibrated.get_model_info(), default=str))
        act = info["act"]
        assert (act["parameters"]["beta"], act["alpha"], act["threshold"]) == (0.1, 3, None)
        assert (act["profile"], act["num_heads"]) == ("all", 32)
        assert act["profile_hash"] == HeadProfile.from_layers(range(4), 4, 8).content_hash
        assert info["what_ran"]["versions"]["torch"] in (torch.__version__, torch.__version__.split("+")[0])
        assert info["what_ran"]["name"] == "act-eval-demo"

    def test_arguments_arrive_as_strings(self):
        lm = ACTLM.create_from_arg_string("act_profile=0:1+2;3:7,act_beta=0,act_threshold=0.2,act_keep=first-token,device=cpu")
        assert lm.profile.heads == {0: (1, 2), 3: (7,)}
        assert (lm.act.beta, lm.act.threshold, lm.act.keep) == (0, 0.2, "first-token")

    def test_the_word_none(self):
        assert ACTLM.create_from_arg_string("act_profile=none,device=cpu").profile.size == 0

    def test_demo_model_by_default(self, caplog):
        assert ACTLM(act_profile="all", device="cpu").pretrained == str(MODEL_PATH)
        assert "embedded demo model" in caplog.text

    def test_settings_can_change_on_a_loaded_model(self, plain):
        lm = make(**SETTINGS)
        pairs = scored_pairs(4)
        lm.set_act(plain.arguments)
        assert score(lm, pairs) == score(plain, pairs)

    @pytest.mark.parametrize(
        ("arguments", "culprit"),
        [
            ("act_profile=llama-9/x", "llama-9/x"),
            ("act_profile=llama-2-7b-chat/classification", "32 layers"),
            ("act_profile=4:0", "layer 4"),
            ("act_profile=0:8", "head 8"),
            ("act_profile=all,act_threshold=0.1,act_alpha=5", "not both"),
            ("act_profile=all,act_beta=1.5", "beta is 1.5"),
            ("act_profile=all,act_beta=x", "beta is 'x'"),
            ("act_profile=all,act_decode=never", "decode"),
            ("act_profile=all,act_base=fast", "base attention 'fast'"),
            ("act_profile={broken}", "JSON"),
            ("act_profile={other}", "not a head profile"),
            ("pretrained={falcon},tokenizer={demo}", "FalconForCausalLM"),
            ("pretrained={t5},tokenizer={demo}", "encoder-decoder"),
            ("pretrained={mamba},tokenizer={demo}", "no attention heads"),
            ("pretrained={lfm2},tokenizer={demo},act_profile=0:1", "attention in layers [2"),
            ("pretrained={gpt_oss},tokenizer={demo},act_base=sdpa", "learned sink logits, which sdpa attention drops"),
            ("pretrained={gpt_oss},tokenizer={demo},act_base=sdpa,act_profile=none", "learned sink logits"),
        ],
    )
    def test_bad_input_is_one_line_and_exit_code_2_before_loading(self, tmp_path, capsys, monkeypatch, arguments, culprit):
        (tmp_path / "broken.json").write_text("{")
        (tmp_path / "other.json").write_text("{}")
        families = ("falcon", "t5", "mamba", "lfm2", "gpt_oss")
        for name in families:
            AutoConfig.for_model(name, **LAYERS.get(name, {})).save_pretrained(tmp_path / name)
        paths = {name: tmp_path / f"{name}.json" for name in ("broken", "other")}
        paths |= {name: tmp_path / name for name in families}
        monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
        with pytest.raises(SystemExit) as exit_info:
            ACTLM.create_from_arg_string(arguments.format(**paths, demo=MODEL_PATH), {"device": "cpu"})
        assert exit_info.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert culprit in lines[-1]
        assert lines[-1].startswith("act-hf: ")

    def test_the_default_device_of_lm_eval_where_the_accelerator_is_another_one(self, monkeypatch):
        """As on Apple silicon: lm-eval's command line names cuda:0 where no device was given."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("mps"))
        # Which would look for that accelerator:
        monkeypatch.setattr("act_eval.harness.checked_hf.shared_processes", lambda: None)
        lm = ACTLM.create_from_arg_obj({"act_profile": "none"}, {"device": "cuda:0", "batch_size": 1})
        assert lm.device.type == "cpu"

    def test_a_base_that_gptj_cannot_have(self, tmp_path, monkeypatch):
        if not gptj.is_adapted(GPTJForCausalLM):
            pytest.skip("GPT-J goes through the attention interface of this transformers")
        GPTJConfig().save_pretrained(tmp_path)
        monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
        with pytest.raises(UnsupportedModelError, match="eager attention only, but the base is 'sdpa'"):
            make(pretrained=str(tmp_path), tokenizer=str(MODEL_PATH), act_profile="all", act_base="sdpa")

    def test_a_checkpoint_that_transformers_does_not_load_as_a_causal_model(self, tmp_path):
        LlavaConfig().save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(MODEL_PATH).save_pretrained(tmp_path)
        words = r"AutoModelForCausalLM of transformers .* has no class for LlavaConfig"
        with pytest.raises(UnsupportedModelError, match=words):
            ACTLM(str(tmp_path), act_profile="none", device="cpu")

    def test_from_python_bad_input_is_an_exception(self):
        with pytest.raises(ProfileError):
            ACTLM(act_profile="9:9", device="cpu")
        with pytest.raises(ValueError, match="beta"):
            ACTLM(act_beta=2)
        assert issubclass(UnsupportedModelError, ValueError)


class TestResponseCache:
    def test_settings_do_not_share_answers(self, tmp_path):
        pairs = scored_pairs(4)
        variants = [{"act_profile": "none"}, SETTINGS, {**SETTINGS, "act_beta": 0.9}, {**SETTINGS, "act_profile": "0:1"}]
        expected = [score(make(**variant), pairs) for variant in variants]
        assert all(left != right for left, right in itertools.combinations(expected, 2))
        for variant, answers in zip(variants, expected, strict=True):
            cached = CachingLM(make(**variant), str(tmp_path / "cache.db"))
            assert list(cached.loglikelihood(requests("loglikelihood", pairs))) == answers

    def test_the_same_settings_do(self, tmp_path, monkeypatch):
        pairs = scored_pairs(4)
        first = CachingLM(make(**SETTINGS), str(tmp_path / "cache.db")).loglikelihood(requests("loglikelihood", pairs))
        again = CachingLM(make(**SETTINGS), str(tmp_path / "cache.db"))
        monkeypatch.setattr(ACTLM, "_score_contexts", lambda *_: pytest.fail("scored again"))
        assert list(again.loglikelihood(requests("loglikelihood", pairs))) == list(first)

    def test_weights_are_not_read_again_where_it_is_known_what_ran(self, tmp_path, monkeypatch):
        pairs, lm = scored_pairs(4), make(**SETTINGS)
        first = CachingLM(lm, str(tmp_path / "cache.db")).loglikelihood(requests("loglikelihood", pairs))
        lm.known_what_ran = what_ran(lm)
        monkeypatch.setattr(ACTLM, "weights_fingerprint", lambda _: pytest.fail("the weights were read"))
        again = CachingLM(lm, str(tmp_path / "cache.db"))
        monkeypatch.setattr(ACTLM, "_score_contexts", lambda *_: pytest.fail("scored again"))
        assert list(again.loglikelihood(requests("loglikelihood", pairs))) == list(first)
        lm.set_act(ACTArguments.from_model_args({**SETTINGS, "act_beta": 0.9}))
        assert not len(again.dbdict)

    def test_an_interrupted_run_keeps_what_it_has(self, tmp_path, monkeypatch):
        pairs = scored_pairs(6)
        original, calls = ACTLM._score_contexts, []

        def interrupted(self, contexts, batch_size):
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(len(contexts))
            return original(self, contexts, batch_size)

        monkeypatch.setattr(ACTLM, "_score_contexts", interrupted)
        cached = CachingLM(make(batch_size=2, **SETTINGS), str(tmp_path / "cache.db"))
        with pytest.raises(KeyboardInterrupt):
            cached.loglikelihood(requests("loglikelihood", pairs))
        assert len(cached.dbdict) == 4


@pytest.mark.tier("slow")
@pytest.mark.parametrize(
    ("task", "max_length", "limit"),
    [
        ("hellaswag", 512, 100),
        ("arc_easy", 512, 100),
        ("sst2", 512, 100),
        ("mmlu_world_religions", 512, 100),
        ("hellaswag", 160, 20),
        ("arc_easy", 50, 20),
        ("mmlu_world_religions", 50, 20),
    ],
)
def test_real_tasks_without_heads_equal_hf(test_data, monkeypatch, lm_eval_tasks, task, max_length, limit):
    """Real rows and a real model, contexts longer than the window included; float64 shows that only rounding differs."""
    monkeypatch.chdir(test_data / "hub")
    model_args = {"pretrained": str(test_data / "models" / "stories260K"), "max_length": max_length, "dtype": "float64"}
    options = {"tasks": [task], "limit": limit, "batch_size": 8, "device": "cpu", "bootstrap_iters": 0}
    options["task_manager"] = lm_eval_tasks
    hf = simple_evaluate(model="hf", model_args=model_args, **options)["samples"][task]
    ours = simple_evaluate(model="act-hf", model_args={**model_args, "act_profile": "none"}, **options)["samples"][task]
    for left, right in zip(hf, ours, strict=True):
        answers = [[response[0] for response in sample["resps"]] for sample in (left, right)]
        assert_same_answers(*answers, atol=1e-9)


def test_chat_template_and_demo_tasks_through_lm_eval(demo_tasks):
    lm = make(**SETTINGS)
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    results = simple_evaluate(
        model=lm,
        tasks=["demo_choice"],
        limit=8,
        num_fewshot=1,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        task_manager=demo_tasks,
        bootstrap_iters=0,
    )
    prompt = results["samples"]["demo_choice"][0]["arguments"][0][0]
    assert prompt.startswith("system: " + corpus.INSTRUCTIONS["choice"].strip())
    assert prompt.endswith("assistant:")
    assert results["config"]["act"]["alpha"] == 3


def test_what_a_profile_stands_for_is_said_once(caplog):
    """Settings change with every run of a comparison, and a warning for each would be one for each of its tasks."""
    lm = make(act_profile="auto")
    for arguments in (ACTArguments("none"), ACTArguments("auto"), ACTArguments("auto", 0.5)):
        lm.set_act(arguments)
    assert lm.profile.size == 4
    assert len([record for record in caplog.records if record.message.startswith("act_profile=auto:")]) == 1
