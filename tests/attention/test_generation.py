"""Kinds of generation whose first forward pass is not the prompt are refused before the model runs."""

import pytest
import torch
from helpers.family_runs import act, family_named
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, PreTrainedModel

from act_eval.attention.act import ACT
from act_eval.attention.generation import check_generation
from act_eval.errors import InputError
from act_eval.methods.temperature import Temperature

PROMPT = torch.tensor([[1, 5, 6, 5, 6, 7, 5, 6]])
REFUSED = [
    ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens asks for assisted decoding"),
    ({"assistant_early_exit": 1}, "assistant_early_exit asks for assisted decoding"),
    ({"prefill_chunk_size": 3}, "prefill_chunk_size divides the prompt"),
]


@pytest.fixture
def llama() -> PreTrainedModel:
    return family_named("Llama").make_model()


def refuse_to_run(*_) -> None:
    raise AssertionError("the model ran")


@pytest.mark.tier("unit")
@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_check(settings, message):
    for form in (settings, GenerationConfig(**settings)):
        with pytest.raises(InputError, match=rf"^{message}.*: leave it out, or pass {next(iter(settings))}=None"):
            check_generation(form)


@pytest.mark.tier("unit")
def test_other_generation_passes_the_check():
    for settings in ({}, {"num_beams": 3, "use_cache": False, "prefill_chunk_size": None, "use_mtp": False}):
        check_generation(settings)
        check_generation(GenerationConfig(**settings))


@pytest.mark.tier("model")
@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_refused_however_it_is_asked_for(llama, settings, message):
    config = GenerationConfig(**settings, max_new_tokens=2)
    handle = llama.register_forward_pre_hook(refuse_to_run)
    with act()(llama):
        for arguments, more in (((), settings), ((), {"generation_config": config}), ((PROMPT, config), {})):
            with pytest.raises(InputError, match=message):
                llama.generate(*arguments, **({} if arguments else {"input_ids": PROMPT}), **more)
        llama.generation_config.update(**settings)
        with pytest.raises(InputError, match=message):
            llama.generate(PROMPT)
        handle.remove()
        assert llama.generate(PROMPT, **dict.fromkeys(settings), max_new_tokens=2).shape == (1, 10)
    assert "generate" not in vars(llama)


@pytest.mark.tier("model")
def test_an_assistant_model_is_refused(llama):
    llama.register_forward_pre_hook(refuse_to_run)
    with act()(llama), pytest.raises(InputError, match="assistant_model asks for assisted decoding"):
        llama.generate(PROMPT, assistant_model=family_named("Llama").make_model())


@pytest.mark.tier("model")
def test_refused_below_an_adapter(llama):
    adapted = get_peft_model(llama, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with act()(adapted), pytest.raises(InputError, match="prefill_chunk_size"):
        adapted.generate(input_ids=PROMPT, prefill_chunk_size=3)


@pytest.mark.tier("model")
def test_a_generate_of_the_model_s_own_comes_back(llama):
    own = llama.generate
    llama.generate = own
    with act()(llama):
        assert llama.generate is not own
    assert llama.generate is own


@pytest.mark.tier("model")
def test_nothing_is_refused_where_nothing_is_calibrated(llama):
    with ACT("none")(llama):
        assert llama.generate(PROMPT, prompt_lookup_num_tokens=2, max_new_tokens=2).shape == (1, 10)


@pytest.mark.tier("model")
def test_methods_that_mark_no_keys_take_drafts(llama):
    """With each token's own row changed, it does not matter what else is in a forward pass."""
    temperature = ACT("all", method=Temperature(theta=2.0))
    with temperature(llama):
        plain, drafted = (llama.generate(PROMPT, max_new_tokens=6, do_sample=False, **more) for more in ({}, REFUSED[0][0]))
    assert torch.equal(plain, drafted)
