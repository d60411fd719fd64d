"""What a model may be run with: attention backends, caches, dtypes, devices, quantisation, compilation, adapters."""

import copy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import cpu_offload
from helpers.family_runs import LENGTH, SETTINGS, act, all_heads, family_named, ids_of, mask_of, run
from helpers.reference import naive_act
from lm_eval.api.instance import Instance
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, masking_utils
from transformers.integrations import flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import is_flash_attn_2_available

from act_eval.attention import backends
from act_eval.attention.act import ACT
from act_eval.attention.backends import LEARNED_SINK_LOGITS
from act_eval.attention.cache import select_cache_rows
from act_eval.attention.limits import ComputeLimits
from act_eval.attention.model_structure import UnsupportedModelError
from act_eval.demo import MODEL_PATH
from act_eval.errors import InputError
from act_eval.harness.arguments import ACTArguments
from act_eval.harness.lm import ACTLM

pytestmark = pytest.mark.tier("model")

NEW = (1, 3)


def make(name: str, **overrides) -> PreTrainedModel:
    family = family_named(name)
    return replace(family, overrides={**family.overrides, **overrides}).make_model()


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return make("Llama")


@pytest.fixture(scope="module")
def mistral() -> PreTrainedModel:
    return make("Mistral")


def run_naive(model: PreTrainedModel, side: str | None, new: tuple[int, ...] = NEW) -> list[torch.Tensor]:
    mask = mask_of(side)
    with naive_act(model, all_heads(model), SETTINGS, mask):
        return run(model, mask, new)


def assert_close(result, expected, tolerance: float = 1e-4) -> None:
    for got, wanted in zip(result, expected, strict=True):
        assert (got - wanted).abs().max() < tolerance * wanted.abs().max()


class TestBases:
    @pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma 3", "DeepSeek-V3"])
    @pytest.mark.parametrize("base", ["sdpa", "eager"])
    def test_sdpa_and_eager(self, name, base):
        model = make(name)
        model.set_attn_implementation(base)
        with act()(model):
            result = run(model, mask_of("left"), NEW)
        assert_close(result, run_naive(model, "left"))

    @pytest.mark.tier("slow")
    @pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma 2"])
    @pytest.mark.parametrize("side", [None, "left"])
    def test_flex_attention(self, name, side, monkeypatch):
        """Its block masks; without its compilation, which takes minutes and is not ours."""
        monkeypatch.setattr(flex_attention.WrappedFlexAttention, "__call__", lambda self: flex_attention.flex_attention)
        create = masking_utils.create_block_mask
        monkeypatch.setattr(masking_utils, "create_block_mask", lambda **options: create(**{**options, "_compile": False}))
        model = make(name, head_dim=16)
        expected = run_naive(model, side)
        model.set_attn_implementation("flex_attention")
        with act()(model):
            result = run(model, mask_of(side), NEW)
        assert_close(result, expected)

    @pytest.mark.parametrize("side", [None, "left"])
    def test_flash_attention_masks(self, mistral, side, monkeypatch):
        """flash_attention_2 gets masks of two dimensions and windows by argument, and loads its kernels by its name."""

        def flash(module, query, key, value, attention_mask, sliding_window=None, scaling=None, **_):
            assert module.config._attn_implementation == "flash_attention_2"
            assert attention_mask is None or attention_mask.ndim == 2
            n, k = query.shape[-2], key.shape[-2]
            own, keys = torch.arange(k - n, k)[:, None], torch.arange(k)
            visible = (keys <= own) & (keys > own - sliding_window)
            padding = torch.ones(1, 1, 1, k) if attention_mask is None else attention_mask[:, None, None, -k:]
            bias = torch.where(visible & padding.bool(), 0.0, torch.finfo(torch.float32).min)
            output = F.scaled_dot_product_attention(query, key, value, bias, scale=scaling, enable_gqa=True)
            return output.transpose(1, 2), None

        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
        expected = run_naive(mistral, side)
        monkeypatch.setattr(mistral.config, "_attn_implementation_internal", "flash_attention_2")
        with act()(mistral):
            result = run(mistral, mask_of(side), NEW)
            assert mistral.config._attn_implementation == "act_flash_attention_2"
        assert_close(result, expected)

    @pytest.mark.skipif(not is_flash_attn_2_available(), reason="flash_attention_2 needs a CUDA device and flash-attn")
    @pytest.mark.parametrize("side", [None, "left"])
    def test_flash_attention_2(self, mistral, side):
        model = copy.deepcopy(mistral).to("cuda", torch.bfloat16)
        model.set_attn_implementation("flash_attention_2")
        with torch.device("cuda"), act()(model):
            result = run(model, mask_of(side), NEW)
        assert_close([logits.float().cpu() for logits in result], run_naive(mistral, side), tolerance=0.1)

    def test_sdpa_drops_learned_sinks_and_is_refused(self):
        model = make("gpt-oss")
        for profile in ("1:0", "none"):
            with pytest.raises(InputError, match="learned sink logits"), ACT(profile, base="sdpa")(model):
                run(model, mask_of(None))

    def test_sdpa_is_refused_of_every_model_with_learned_sinks(self):
        files = (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
        found = {path.parent.name for path in files if "s_aux=self.sinks" in path.read_text("utf-8")}
        assert "gpt_oss" in found
        of_causal_models = found & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        assert of_causal_models - {"deepseek_v4"} <= LEARNED_SINK_LOGITS  # whose keys stand for several tokens

    def test_sdpa_without_soft_caps(self):
        """transformers 4.57 runs Gemma 2 on sdpa without its soft caps, and then that is what is calibrated."""
        model = make("Gemma 2")
        if not model._supports_sdpa:
            pytest.skip("this transformers does not run Gemma 2 on sdpa")
        model.set_attn_implementation("sdpa")
        with act()(model):
            result = run(model, mask_of("left"), NEW)
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert_close(result, run_naive(model, "left"))

    def test_a_base_that_has_no_mask_function(self, monkeypatch):
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "mine", ALL_ATTENTION_FUNCTIONS["sdpa"])
        with pytest.raises(InputError, match=r"no base attention 'yours': choose one of eager, .*sdpa") as unknown:
            ACT("all", base="yours")
        assert "mine" not in str(unknown.value)
        with pytest.raises(InputError, match="'mine' is registered in transformers without a mask function") as no_masks:
            ACT("all", base="mine")
        assert "AttentionMaskInterface.register, or choose one of eager, " in str(no_masks.value)

    @pytest.mark.parametrize("profile", ["all", "1:0", "none"])
    def test_a_base_that_needs_what_is_not_installed(self, monkeypatch, profile):
        """Before a model is loaded, and also where short prompts or no heads would never ask for it."""
        monkeypatch.setattr(backends, "lazy_import_flash_attention", Mock(side_effect=ImportError("no\nflash_attn")))
        culprit = r"'flash_attention_2' cannot be used here \(ImportError: no flash_attn\): .* or choose one of eager, "
        with pytest.raises(InputError, match=culprit) as refused:
            ACTArguments.from_model_args({"act_profile": profile, "act_base": "flash_attention_2"})
        assert "flash_attention_3" not in str(refused.value)
        assert "sdpa" in str(refused.value)

    def test_an_attention_function_of_ones_own_is_a_base(self, llama, monkeypatch):
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        calls = []
        monkeypatch.setitem(
            ALL_ATTENTION_FUNCTIONS._global_mapping, "mine", lambda *args, **kwargs: calls.append(1) or sdpa(*args, **kwargs)
        )
        monkeypatch.setattr(llama.config, "_attn_implementation_internal", "mine")
        with pytest.raises(InputError, match="'mine' is registered in transformers without a mask function"), act()(llama):
            pass
        assert not calls


class TestLearnedSinks:
    """A row that has nearly everything on its sinks, or on its head's learned logit."""

    @pytest.mark.parametrize(("logit", "threshold"), [(-30.0, 0.1), (0.0, 0.1), (5.0, 0.01), (30.0, 1e-20)])
    @pytest.mark.parametrize("map_elements", [0, 2**20], ids=["blocks", "whole maps"])
    def test_extreme_logits(self, logit, threshold, map_elements):
        model = make("gpt-oss")
        for layer in model.model.layers:
            layer.self_attn.sinks.data.fill_(logit)
        settings = replace(SETTINGS, threshold=threshold)
        mask = mask_of("left")
        with naive_act(model, all_heads(model), settings, mask) as layers:
            expected = run(model, mask, NEW)
        assert all(layer.sinks.any() for layer in layers.values())
        with replace(act(threshold=threshold), limits=ComputeLimits(map_elements=map_elements))(model):
            result = run(model, mask, NEW)
        assert_close(result, expected)

    @pytest.mark.parametrize("limit", [0.0, 1e6])
    def test_both_forms_of_the_output_agree(self, limit):
        model = make("gpt-oss")
        with replace(act(threshold=0.02), limits=ComputeLimits(map_elements=0, safe_factor=limit))(model):
            result = run(model, mask_of("right"))
        with naive_act(model, all_heads(model), replace(SETTINGS, threshold=0.02), mask_of("right")):
            expected = run(model, mask_of("right"))
        assert_close(result, expected, 1e-3)


class TestCaches:
    @pytest.mark.parametrize("name", ["Llama", "Mistral", "gpt-oss", "Gemma 4"])
    def test_static_equals_dynamic(self, name):
        model = make(name)
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "output_logits": True}
        with act()(model):
            dynamic, static = (
                model.generate(
                    ids_of(LENGTH, seed=2),
                    attention_mask=mask_of("left"),
                    return_dict_in_generate=True,
                    **options,
                    **cache,
                )
                for cache in ({}, {"cache_implementation": "static", "disable_compile": True})
            )
        assert_close(static.logits, dynamic.logits)

    @pytest.mark.parametrize("name", ["Qwen3-Next", "LFM2", "Mistral", "Gemma 3n"])
    def test_selected_rows(self, name):
        """The rows of a cache in another order and number, with states of linear attention; the first cache is untouched."""
        model = make(name)
        ids, rows = ids_of(LENGTH, seed=2), torch.tensor([1, 0, 0])
        new = ids_of(3, seed=4)[rows]
        with torch.no_grad(), act()(model):
            cache = model(ids, use_cache=True).past_key_values
            if not hasattr(cache, "layers"):
                with pytest.raises(InputError, match="update transformers"):
                    select_cache_rows(cache, rows)
                return
            selected = model(new, past_key_values=select_cache_rows(cache, rows), use_cache=True).logits
            again = model(new, past_key_values=select_cache_rows(cache, rows), use_cache=True).logits
            repeated = model(ids[rows], use_cache=True).past_key_values
            expected = model(new, past_key_values=repeated, use_cache=True).logits
        assert_close([selected, again], [expected, expected])


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "gpt-oss", "GPT-J"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    """What half precision changes in the calibrated logits is of the size of what it changes in the baseline."""
    model = make(name)
    half = copy.deepcopy(model).to(dtype)
    mask = mask_of("left")

    def error(setting):
        with setting(model):
            expected = torch.cat([logits.flatten(0, -2) for logits in run(model, mask, NEW)])
        with setting(half):
            result = torch.cat([logits.flatten(0, -2) for logits in run(half, mask, NEW)])
        return (result.float() - expected).abs().mean(), expected

    baseline_error, baseline = error(ACT("none"))
    act_error, calibrated = error(act())
    assert act_error < 3 * baseline_error
    assert (calibrated - baseline).abs().mean() > 5 * act_error


@pytest.mark.tier("slow")
def test_offloaded_to_the_cpu(llama):
    """accelerate's hooks, which `device_map` uses to put weights where they are needed, stay in force."""
    expected = run_naive(llama, "left")
    offloaded = cpu_offload(copy.deepcopy(llama), execution_device=torch.device("cpu"))
    with act()(offloaded):
        result = run(offloaded, mask_of("left"), NEW)
    assert_close(result, expected)


@pytest.mark.tier("slow")
def test_device_map(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    mapped = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    with act()(mapped):
        result = run(mapped, mask_of("left"), NEW)
    assert_close(result, run_naive(llama, "left"))


@pytest.mark.tier("slow")
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised(bits, tmp_path):
    make("Llama", hidden_size=128, intermediate_size=128, head_dim=32).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map={"": "cpu"})
    with act()(model):
        result = run(model, mask_of("left"))
    (expected,), (baseline,) = run_naive(model, "left", ()), run(model, mask_of("left"))
    # Activations are rounded to 8 bits too, which makes much of the last digits.
    assert (result[0] - expected).abs().mean() < 0.1 * (expected - baseline).abs().mean()


@pytest.mark.tier("slow")
def test_compiled(llama):
    """Entering and leaving the context changes what a compiled model computes, in both directions."""
    baseline, expected = run(llama, mask_of(None)), run_naive(llama, None, ())
    compiled = torch.compile(copy.deepcopy(llama), backend="eager")
    assert_close(run(compiled, mask_of(None)), baseline)
    with act()(compiled):
        result = run(compiled, mask_of(None))
    assert_close(result, expected)
    assert_close(run(compiled, mask_of(None)), baseline)


@pytest.mark.parametrize(
    ("name", "dropout"), [("Llama", "attention_dropout"), ("GPT-2", "attn_pdrop"), ("GPT-J", "attn_pdrop")]
)
def test_dropout_is_refused_where_heads_are_calibrated(name, dropout):
    """Without calibrated heads a model is trained as it is, and without dropout it is calibrated in training mode, too."""
    model, ids = make(name, **{dropout: 0.5}).train(), ids_of(LENGTH, seed=2)
    with ACT("none")(model):
        model(ids)
    with act()(model), pytest.raises(InputError, match=r"drops attention weights.*call model\.eval\(\)"):
        model(ids)
    with act()(model.eval()):
        model(ids)
    with act()(make(name, **{dropout: 0.0}).train()) as without:
        without(ids)


def test_continuous_batching_is_refused_inside_the_context_alone(llama):
    """Where flash attention is installed, transformers would replace the attention function with a warning only."""
    if not hasattr(llama, "generate_batch"):
        pytest.skip(f"transformers {transformers.__version__} has no continuous batching")
    for name in ("generate_batch", "init_continuous_batching"):
        with act()(llama), pytest.raises(UnsupportedModelError, match=r"generate_batch.*use generate"):
            getattr(llama, name)([[1, 5, 6]])
        assert name not in vars(llama)
        with ACT("none")(llama):
            assert name not in vars(llama)


WEIGHT_ADAPTERS = [
    LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
        task_type="CAUSAL_LM",
    ),
    LoHaConfig(r=4, target_modules=["q_proj", "o_proj"], init_weights=False, task_type="CAUSAL_LM"),
]
PROMPT_ADAPTERS = [
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
]


@pytest.mark.tier("slow")
class TestAdapters:
    @pytest.mark.parametrize("config", WEIGHT_ADAPTERS, ids=lambda config: config.peft_type.value)
    def test_peft_model(self, llama, config):
        torch.manual_seed(3)
        adapted = get_peft_model(copy.deepcopy(llama), config).eval()
        with act()(adapted):
            result = run(adapted, mask_of("left"), NEW)
        expected = run_naive(copy.deepcopy(adapted).merge_and_unload(), "left")
        assert_close(result, expected)
        assert (result[0] - run_naive(llama, "left")[0]).abs().max() > 0.01

    @pytest.mark.parametrize("config", PROMPT_ADAPTERS, ids=lambda config: config.peft_type.value)
    @pytest.mark.parametrize("profile", ["all", "none"])
    def test_learned_prompts_are_refused(self, llama, config, profile):
        adapted = get_peft_model(copy.deepcopy(llama), config)
        with pytest.raises(UnsupportedModelError, match=config.peft_type.value), ACT(profile)(adapted):
            pytest.fail("it was entered")

    @pytest.mark.parametrize("config", PROMPT_ADAPTERS, ids=lambda config: config.peft_type.value)
    def test_learned_prompts_are_refused_before_the_weights_are_loaded(self, config, tmp_path, monkeypatch):
        get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL_PATH), config).save_pretrained(tmp_path)
        monkeypatch.setattr(ACTLM, "_create_model", lambda *_, **__: pytest.fail("the model was loaded"))
        with pytest.raises(UnsupportedModelError, match=f"adapter is of type {config.peft_type.value}.*such as LoRA"):
            ACTLM(str(MODEL_PATH), peft=str(tmp_path), act_profile="none", device="cpu")

    def test_peft_in_lm_eval(self, tmp_path):
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32), config).eval()
        adapted.save_pretrained(tmp_path)
        requests = [Instance("loglikelihood", {}, ("The mouse is smaller than the", " cat. The"), 0)]
        settings = {"act_profile": "all", "act_alpha": 5, "device": "cpu", "dtype": "float32"}
        with_adapter = ACTLM(str(MODEL_PATH), peft=str(tmp_path), **settings).loglikelihood(requests)
        lm = ACTLM(str(MODEL_PATH), **settings)
        without = lm.loglikelihood(requests)
        lm._model = adapted.merge_and_unload()
        merged = lm.loglikelihood(requests)
        assert with_adapter[0][0] == pytest.approx(merged[0][0], abs=1e-4)
        assert with_adapter[0][0] != pytest.approx(without[0][0], abs=1e-3)
