"""Models whose heads are divided among processes calibrate the same heads, with the same results, as in one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from helpers.families import FAMILIES, VOCABULARY
from helpers.tensor_parallelism import call_in_processes
from helpers.thorough import thorough
from packaging.version import Version
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM

from act_eval.attention.act import ACT
from act_eval.attention.calibration import CalibrationSettings
from act_eval.attention.model_structure import UnsupportedModelError
from act_eval.attention.tensor_parallelism import HeadDivision
from act_eval.profiles import resolve_profile
from act_eval.sinks.collect import collect

pytestmark = pytest.mark.tier("process")

LENGTHS = (30, 19)
ATOL = 5e-5  # in float32: sums are in another order, and OLMo 2's norms of small numbers magnify that; calibration changes 1
SHAPES = {
    "Llama": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
    "Gemma 3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
}
DIVIDED = ["Llama", "Gemma 3", "DeepSeek-V2", "gpt-oss", *thorough("Gemma 2", "Qwen2", "Qwen3", "GPT-NeoX", "MiMo-V2-Flash")]
GATHERED = ["Phi-3", *thorough("OLMo 2")]  # every process has all heads
CHOSEN = [family for family in FAMILIES if family.name in DIVIDED + GATHERED]
HEADS = {
    "all": "all",
    "one of each process": "0:1+3;1:0+2",
    "of the first process": "0:0;1:1",
    "of the second process": "0:3;1:2",
    "rows": ("0:0+3;1:2", "1:1+3"),
    "rows that share no process": ("0:0;1:1", "0:3;1:2"),
    "a group for each process": "0:0+1+2+3|0:4+5+6+7;1:1",
}
SETTINGS = {
    "threshold": {"threshold": 0.1},
    "alpha": {"alpha": 2},
    "first token kept": {"alpha": 2, "keep": "first-token"},
    "half of the sinks": {"alpha": 1.5, "sink_share": 0.5},
    "decode row": {"alpha": 2, "decode": "row"},
    "decode official": {"alpha": 2, "decode": "official"},
    "to first token": {"alpha": 2, "method": "to-first-token"},
    "temperature": {"method": "temperature"},
}
OF_GROUPS = {"act+mask-head": {"alpha": 2, "method": "act+mask-head"}, "zerotuning": {"method": "zerotuning"}}
EVERY_CASE = [("rows", settings) for settings in SETTINGS]
EVERY_CASE += [(heads, "alpha") for heads in HEADS if heads not in ("rows", "a group for each process")]
EVERY_CASE += [("a group for each process", settings) for settings in OF_GROUPS]
SOME_CASES = [("rows", "alpha"), ("of the second process", "threshold"), ("all", "decode row")]
WITH_EVERY_CASE = ["Llama", *thorough("Gemma 3")]


def make_act(model, heads, settings):
    config = model.config
    rows = [HEADS[heads]] if isinstance(HEADS[heads], str) else HEADS[heads]
    profiles = [resolve_profile(row, config.num_hidden_layers, config.num_attention_heads) for row in rows]
    return ACT(profiles, **(SETTINGS | OF_GROUPS)[settings])


def random_batch():
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCABULARY, (2, max(LENGTHS)), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.2] = 7
    mask = torch.tensor([[0] * (max(LENGTHS) - length) + [1] * length for length in LENGTHS])
    return ids, mask


@torch.no_grad()
def logits(model, act):
    """Logits of a padded prefill and of two steps on its cache, the second of several tokens; real positions only."""
    ids, mask = random_batch()
    new = [ids[:, 3:4], ids[:, 5:8]]
    with act(model):
        output = model(ids, attention_mask=mask, use_cache=True)
        found = [torch.cat([row[-length:] for row, length in zip(output.logits, LENGTHS, strict=True)])]
        for tokens in new:
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=-1)
            output = model(tokens, attention_mask=mask, past_key_values=output.past_key_values)
            found.append(output.logits.flatten(0, 1))
    return torch.cat(found)


def generated(model, act):
    ids, mask = random_batch()
    with act(model):
        return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, num_beams=2, do_sample=False)


def sums_of_sinks(model):
    ids, mask = random_batch()
    batches = [{"input_ids": ids, "attention_mask": mask}]
    return vars(collect(model, batches, ACT("0:0+3;1:2", alpha=2)))


@torch.no_grad()
def results_of(name, folder, **arguments):
    """What a model gives: logits by case, generated tokens, sink statistics."""
    (family,) = (family for family in CHOSEN if family.name == name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=family.attention, **arguments
    ).eval()
    try:
        model(random_batch()[0])
    except RuntimeError as error:
        return {"without ACT": str(error)}
    cases = EVERY_CASE if name in WITH_EVERY_CASE else SOME_CASES
    found = {case: logits(model, make_act(model, *case)) for case in cases}
    found["none"] = logits(model, ACT("none"))
    found["generated"] = generated(model, make_act(model, "rows", "alpha"))
    found["sinks"] = sums_of_sinks(model)
    return found


def logits_of_one(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, tp_plan="auto").eval()
    return logits(model, make_act(model, *EVERY_CASE[0]))


def logits_divided_by_torch(folder):
    """Of a model that torch's own tools divide, which transformers knows nothing of."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    mesh = init_device_mesh("cpu", (2,))
    plan = {**dict.fromkeys(("q_proj", "k_proj", "v_proj"), ColwiseParallel()), "o_proj": RowwiseParallel()}
    for layer in model.model.layers:
        parallelize_module(layer.self_attn, mesh, plan)
    return logits(model, make_act(model, *EVERY_CASE[0]))


@torch.no_grad()
def error_of_a_foreign_cache(folder):
    """What a step on a cache raises that was filled without calibration, with heads of the second process."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, tp_plan="auto").eval()
    ids, _ = random_batch()
    cache = model(ids).past_key_values
    with ACT("0:7", alpha=2)(model):
        try:
            model(ids[:, :1], past_key_values=cache)
        except RuntimeError as error:
            return str(error)


def results_of_all(folders):
    """What all models give in one of two processes, and what only Llama is asked for."""
    found = {name: results_of(name, folder, tp_plan="auto") for name, folder in folders.items()}
    llama = folders["Llama"]
    return {**found, "divided by torch": logits_divided_by_torch(llama), "error": error_of_a_foreign_cache(llama)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of small models, by family."""
    found = {}
    for family in CHOSEN:
        if family.is_known and not family.is_newer_than_transformers:
            family = replace(family, overrides={**family.overrides, **SHAPES.get(family.name, {})})
            found[family.name] = tmp_path_factory.mktemp("model")
            family.make_model().save_pretrained(found[family.name])
    return found


@pytest.fixture(scope="module")
def two_processes(folders, tmp_path_factory):
    return call_in_processes(results_of_all, 2, tmp_path_factory.mktemp("two"), folders)


@pytest.mark.parametrize("name", DIVIDED + GATHERED)
def test_equals_one_process(name, folders, two_processes):
    if name not in folders:
        pytest.skip("this release of transformers has no such family")
    one = results_of(name, folders[name])
    for found in (two[name] for two in two_processes):
        if "without ACT" in found and Version(transformers.__version__) < Version("5.23"):
            pytest.skip(f"this release of transformers cannot divide the model: {found['without ACT']}")
        assert torch.equal(found.pop("generated"), one["generated"])
        sinks = found.pop("sinks")
        for field, value in one["sinks"].items():
            assert np.allclose(sinks[field], value, atol=1e-6), field
        for case, values in found.items():
            assert torch.allclose(values, one[case], rtol=1e-5, atol=ATOL), case


def test_divided_by_torch(folders, two_processes):
    one = results_of("Llama", folders["Llama"])[EVERY_CASE[0]]
    for found in two_processes:
        assert torch.allclose(found["divided by torch"], one, rtol=1e-5, atol=ATOL)


def test_every_process_raises_alike(two_processes):
    """Also one without calibrated heads, which would wait for the others otherwise."""
    for found in two_processes:
        assert "filled outside" in found["error"]


@pytest.mark.tier("slow")
def test_four_processes(folders, tmp_path):
    one = results_of("Llama", folders["Llama"])[EVERY_CASE[0]]
    for found in call_in_processes(logits_of_one, 4, tmp_path, folders["Llama"]):
        assert torch.allclose(found, one, rtol=1e-5, atol=ATOL)


@pytest.mark.tier("model")
@pytest.mark.parametrize("method", ["act+mask-head", "zerotuning"])
@pytest.mark.parametrize(("heads", "rank", "group"), [("0:0+1|0:2+3", 0, 0), ("0:0+1|0:2+3", 1, 1), ("0:2+3|0:0+1", 0, 1)])
@torch.no_grad()
def test_all_heads_of_a_process_may_be_in_one_group(monkeypatch, method, heads, rank, group):
    """In layers as small as those of a process of two."""
    (family,) = (family for family in FAMILIES if family.name == "Llama")
    shape = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    model = replace(family, overrides={**family.overrides, **shape}).make_model()
    expected = logits(model, ACT("0:0+1").with_settings(CalibrationSettings(method=method).of_groups[group]))
    model.config.num_attention_heads = model.config.num_key_value_heads = 4
    monkeypatch.setattr(HeadDivision, "of_model", lambda _: HeadDivision(rank, 2))
    assert torch.allclose(logits(model, ACT(heads, method=method)), expected, rtol=1e-5, atol=ATOL)


@pytest.mark.tier("unit")
class TestOwnHeads:
    @pytest.mark.parametrize(
        ("rank", "size", "number", "own"), [(0, 1, 8, range(8)), (1, 2, 4, range(4, 8)), (1, 2, 8, range(8))]
    )
    def test_are_a_stretch_or_all(self, rank, size, number, own):
        assert HeadDivision(rank, size).own_heads(number, 8, nn.Module()) == own

    @pytest.mark.parametrize(("size", "number"), [(2, 3), (2, 2), (1, 4), (3, 3)])
    def test_others_are_refused(self, size, number):
        with pytest.raises(UnsupportedModelError, match=rf"computes {number} of 8 heads in one of {size} processes"):
            HeadDivision(0, size).own_heads(number, 8, nn.Module())
