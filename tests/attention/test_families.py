"""ACT on every family of `families.py`, against a naive reference; the table of models is what this run gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from helpers.families import FAMILIES, REFUSED, VOCABULARY, Family
from helpers.family_runs import LENGTH, SETTINGS, act, all_heads, ids_of, mask_of, run
from helpers.reference import naive_act

from act_eval.attention.act import ACT
from act_eval.attention.model_structure import UnsupportedModelError, attention_layers, check_supported
from act_eval.errors import InputError
from act_eval.model_families import CHECKS, CheckedFamily, checked_families, to_json
from act_eval.profiles import ProfileError

pytestmark = pytest.mark.tier("slow")

ROOT = Path(__file__).parents[2]

passed: dict[str, list[str]] = {}
models: dict[str, transformers.PreTrainedModel] = {}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request) -> Family:
    if not request.param.is_known:
        pytest.skip(f"transformers {transformers.__version__} has no {request.param.config}")
    if request.param.is_newer_than_transformers:
        pytest.skip(f"in transformers {transformers.__version__} it does not use the attention interface")
    return request.param


@pytest.fixture
def model(family) -> transformers.PreTrainedModel:
    if family.name not in models:
        models[family.name] = family.make_model()
    return models[family.name]


def assert_equals_reference(model: transformers.PreTrainedModel, side: str | None, new: tuple[int, ...] = ()) -> None:
    mask = mask_of(side)
    baseline = run(model, mask, new)
    with naive_act(model, all_heads(model), SETTINGS, mask) as layers:
        expected = run(model, mask, new)
    with act()(model):
        result = run(model, mask, new)
    assert set(layers) == set(all_heads(model))
    assert all(layer.seen == LENGTH + sum(new) and layer.sinks.any() for layer in layers.values())
    for got, wanted, without in zip(result, expected, baseline, strict=True):
        scale = wanted.abs().max()
        assert (wanted - without).abs().max() > 0.01 * scale
        assert (got - wanted).abs().max() < 1e-4 * scale


def record(family: Family, check: str) -> None:
    passed.setdefault(family.name, []).append(check)


def test_prefill(family, model):
    assert_equals_reference(model, side=None)
    record(family, "prefill")


def test_padding(family, model):
    assert_equals_reference(model, side="right")
    assert_equals_reference(model, side="left")
    record(family, "padding")


def test_decode(family, model):
    assert_equals_reference(model, side=None, new=(1, 3))
    assert_equals_reference(model, side="left", new=(3, 1, 1))
    record(family, "decode")


def test_generation(family, model):
    mask = mask_of("left")

    def generate(**options):
        output = model.generate(
            ids_of(LENGTH, seed=2),
            attention_mask=mask,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        return torch.stack(output.logits)

    with naive_act(model, all_heads(model), SETTINGS, mask):
        expected = generate(output_hidden_states=True)  # Gemma 4 then computes all queries of its last layers
    with act()(model):
        result = generate()
    scale = expected.abs().max()
    assert (result - expected).abs().max() < 1e-4 * scale
    assert (generate() - expected).abs().max() > 0.01 * scale
    record(family, "generation")


def state_of(model: transformers.PreTrainedModel) -> list[object]:
    """What a context touches: configs, attributes and hooks of all modules."""
    hooks = [(*module._forward_pre_hooks, *module._forward_hooks) for module in model.modules()]
    return [model.config.get_text_config()._attn_implementation, hooks, [list(vars(module)) for module in model.modules()]]


def test_off(family, model):
    before = state_of(model)
    baseline = run(model, mask_of("left"), new=(2,))
    for setting in (ACT("none"), ACT("all", beta=1)):
        with setting(model):
            off = run(model, mask_of("left"), new=(2,))
        assert all(torch.equal(got, wanted) for got, wanted in zip(off, baseline, strict=True))
    with act(threshold=0.9999)(model):  # the heads are looked at, but nothing in them is a sink
        no_sinks = run(model, mask_of("left"), new=(2,))
    for got, wanted in zip(no_sinks, baseline, strict=True):
        assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert all(torch.equal(got, wanted) for got, wanted in zip(run(model, mask_of("left"), new=(2,)), baseline, strict=True))
    assert state_of(model) == before
    record(family, "off")


def test_some_heads_of_some_layers(family, model):
    """Layers and heads are those that the profile names; a layer without heads is the baseline's."""
    layer = attention_layers(model.config)[-1]
    with naive_act(model, {layer: (0, 3)}, SETTINGS):
        expected = run(model, mask_of(None))
    with act(f"{layer}:0+3")(model):
        result = run(model, mask_of(None))
    assert (result[0] - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.name)
def test_refused(refused):
    """By name and reason, before the weights are loaded or at the first layer; never run as a silent baseline."""
    if not refused.is_known:
        pytest.skip(f"transformers {transformers.__version__} has no {refused.config}")
    model = refused.make_model()
    with pytest.raises(InputError, match=refused.reason), ACT("all")(model), torch.no_grad():
        model(ids_of(LENGTH, seed=2))


def test_a_hybrid_model_has_heads_in_its_attention_layers_only():
    model = next(family for family in FAMILIES if family.name == "LFM2").make_model()
    assert attention_layers(model.config) == (1, 2)
    with pytest.raises(ProfileError, match=r"heads of layers \[0\].*attention in layers \[1, 2\] only"), ACT("0:1;1:0")(model):
        pass


def test_gpt2_with_its_own_eager_attention_is_refused():
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, reorder_and_upcast_attn=True)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(UnsupportedModelError, match="reorder_and_upcast_attn"), ACT("all")(model):
        pass


def test_gptj_runs_on_eager_attention_only():
    model = next(family for family in FAMILIES if family.name == "GPT-J").make_model()
    if model._can_set_attn_implementation():
        pytest.skip(f"GPT-J uses the attention interface in transformers {transformers.__version__}")
    with pytest.raises(UnsupportedModelError, match="eager attention only"), ACT("all", base="sdpa")(model):
        pass


@pytest.mark.parametrize("newer", [family for family in FAMILIES if family.is_newer_than_transformers], ids=lambda f: f.name)
def test_families_of_later_releases_are_refused(newer):
    if not newer.is_known:
        pytest.skip(f"transformers {transformers.__version__} has no {newer.config}")
    model_class = transformers.AutoModelForCausalLM._model_mapping[getattr(transformers, newer.config)]
    with pytest.raises(UnsupportedModelError, match="attention interface"):
        check_supported(newer.make_config(), model_class)


def test_the_table_of_models_is_what_this_run_gave(request):
    ran = [family for family in FAMILIES if family.is_known and not family.is_newer_than_transformers]
    if not all(family.name in models for family in ran):
        pytest.skip("only a part of the families ran")
    table = [
        CheckedFamily(
            family=family.name,
            model=type(models[family.name]).__name__,
            attention=models[family.name].config.get_text_config()._attn_implementation,
            since=family.since,
            checks=tuple(check for check in CHECKS if check in passed.get(family.name, ())),
            note=family.note,
        )
        for family in ran
    ]
    if request.config.getoption("--write-models"):
        (ROOT / "act_eval" / "model_families.json").write_text(to_json(table), encoding="utf-8")
    written = {entry.family: entry for entry in checked_families()}
    for entry in table:
        # GPT-J loads with another backend from transformers 5.24 on.
        assert replace(written[entry.family], attention=entry.attention) == entry, (
            "write the table anew: pytest tests/attention/test_families.py --write-models"
        )
    if len(ran) == len(FAMILIES):
        assert [entry.family for entry in checked_families()] == [family.name for family in FAMILIES]
