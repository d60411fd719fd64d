"""What lm-eval's EvaluatorConfig makes of options and of YAML files, and what is refused in a line."""

import logging

import pytest
import yaml
from lm_eval.config.evaluate_config import EvaluatorConfig

from act_eval.errors import InputError
from act_eval.harness.evaluator_config import by_name, read_config_file, settled

pytestmark = pytest.mark.tier("unit")

HONOURED = ("tasks", "limit", "seed", "gen_kwargs", "cache_requests", "num_fewshot")


def config_file(folder, **entries):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(entries))
    return str(file)


def test_entries_of_a_file(tmp_path):
    """What is null counts as not given, and so do defaults of what has no effect."""
    file = config_file(
        tmp_path,
        model="act-hf",
        tasks=["a"],
        limit=None,
        use_cache=None,
        write_out=False,
        wandb_args={},
        log_samples=True,
        gen_kwargs={"until": ["x"]},
    )
    assert read_config_file(file, HONOURED) == {"tasks": ["a"], "gen_kwargs": {"until": ["x"]}}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"use_cache": "answers"}, "sets use_cache, which has no effect here"),
        ({"wandb_args": {"project": "x"}}, "sets wandb_args, which has no effect"),
        ({"wandb_config_args": {"project": "x"}}, "sets wandb_config_args, which has no effect"),
        ({"hf_hub_log_args": {"hub_results_org": "x"}}, "sets hf_hub_log_args, which has no effect"),
        ({"trackio_args": {"project": "x"}}, "trackio_args"),  # unknown to lm-eval 0.4.10
        ({"predict_only": True}, "sets predict_only, which has no effect"),
        ({"write_out": True}, "sets write_out, which has no effect"),
        ({"show_config": True}, "sets show_config, which has no effect"),
        ({"max_batch_size": 8}, "sets max_batch_size, which has no effect"),
        ({"device": "cpu"}, "sets device, which has no effect"),
        ({"config": "other.yaml"}, "sets config, which has no effect"),
        ({"model": "vllm"}, "names the model 'vllm', but only hf and act-hf can be run here"),
        ({"num_shots": 3}, "has an entry 'num_shots', which lm-eval does not know"),
        ({"gen-kwargs": {}}, "has an entry 'gen-kwargs', which lm-eval does not know"),
        ({1: 2}, "has an entry 1, which lm-eval does not know"),
        ({"seed": [0, 1234, 1234, 1234]}, "sets seed to [0, 1234, 1234, 1234], but here all random generators have the same"),
        ({"seed": [1, None, 1, 1]}, "sets seed to"),
        ({"seed": []}, "sets seed to"),
        ({"seed": "x"}, "sets seed to x"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, entries, words):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(entries))
    with pytest.raises(InputError) as refused:
        read_config_file(str(file), HONOURED)
    assert words in str(refused.value)
    assert "config.yaml" in str(refused.value)


@pytest.mark.parametrize("text", ["a: [", "- a", "just words", "", "\0"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"the config file .*config\.yaml cannot be used: ") as refused:
        read_config_file(str(tmp_path / "config.yaml"), HONOURED)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["no-such-file.yaml", "."])
def test_a_file_that_is_none(tmp_path, name):
    with pytest.raises(InputError, match=r"the config file .* cannot be used: Config file not found"):
        read_config_file(str(tmp_path / name), HONOURED)


@pytest.mark.parametrize("seed", [7, [7], [7, 7, 7, 7]])
def test_one_seed_for_all(tmp_path, seed):
    assert read_config_file(config_file(tmp_path, seed=seed), HONOURED) == {"seed": 7}


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (True, "true"),
        (False, None),
        ("refresh", "refresh"),
        ({"cache_requests": True, "rewrite_requests_cache": False, "delete_requests_cache": False}, "true"),
        ({"cache_requests": True, "rewrite_requests_cache": True}, "refresh"),
        ({"delete_requests_cache": True}, "delete"),
        ({"cache_requests": False}, None),
        ({}, None),
        ({"cached": True}, "{'cached': True}"),
    ],
)
def test_words_for_the_cache(tmp_path, value, word):
    """A word that is none is refused where settings are made."""
    assert read_config_file(config_file(tmp_path, cache_requests=value), HONOURED).get("cache_requests") == word


def test_every_entry_that_lm_eval_knows_is_honoured_or_refused(tmp_path):
    """No release of lm-eval brings one that would be dropped in silence."""
    harmless = {"model", "log_samples"}
    for name in EvaluatorConfig.__dataclass_fields__:
        if name not in harmless:
            with pytest.raises(InputError, match=name):
                read_config_file(config_file(tmp_path, **{name: "something"}), ())


def test_options_as_lm_eval_settles_them(tmp_path, capsys, caplog):
    samples = tmp_path / "samples.json"
    samples.write_text('{"a": [1, 2]}')
    given = {"samples": str(samples), "model_args": {"dtype": "auto"}, "limit": None, "trust_remote_code": True, "device": None}
    with caplog.at_level(logging.ERROR):
        settings = settled(given)
    assert settings == {
        "samples": {"a": [1, 2]},
        "model_args": {"dtype": "auto", "trust_remote_code": True},
        "limit": None,
        "device": None,
    }
    assert capsys.readouterr().out == ""


def test_samples_as_text():
    assert settled({"samples": '{"a": [1]}'}) == {"samples": {"a": [1]}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": {"a": [1]}, "limit": 2.0}, "limit"),
        ({"fewshot_as_multiturn": True, "apply_chat_template": False}, "apply_chat_template"),
    ],
)
def test_options_that_lm_eval_refuses(options, words):
    with pytest.raises(InputError, match=words):
        settled(options)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a=1,b=x,c=True,d=0.5", {"a": 1, "b": "x", "c": True, "d": 0.5}),
        ('{"a": [1, 2], "b": {"c": null}}', {"a": [1, 2], "b": {"c": None}}),
    ],
)
def test_values_by_name(text, values):
    assert by_name(text) == values


@pytest.mark.parametrize("text", ["a", "{a: 1}", "a=1,b"])
def test_values_without_names(text):
    with pytest.raises(ValueError, match=r".+"):
        by_name(text)
