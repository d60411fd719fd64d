"""lm-eval's own `EvaluatorConfig` between what a user gives, on a command line or in a YAML file, and the settings here."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

from act_eval.errors import InputError, explained
from act_eval.harness.settings import CacheRequests

_MODELS = ("hf", "act-hf")
_WITHOUT_EFFECT = ("log_samples", "model")  # samples are always written; see `_MODELS`
_CACHE_REQUESTS = get_args(CacheRequests)


def read_config_file(path: str, honoured: Collection[str]) -> dict[str, Any]:
    """Read a YAML file as `lm_eval run --config` does.

    Args:
        path: of the file.
        honoured: the entries that the caller makes something of.

    Returns:
        Those entries, without those that are null; a seed as one number.

    Raises:
        InputError: there is no such file, it is no YAML, or it holds what would have no effect.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    with _explained(lambda reason: InputError(f"the config file {path} cannot be used: {reason}.")):
        entries = EvaluatorConfig.load_yaml_config(path)
    known = {setting.name: _default(setting) for setting in fields(EvaluatorConfig)}
    unknown = next((name for name in entries if name not in known), None)
    if unknown is not None:
        raise InputError(f"the config file {path} has an entry {unknown!r}, which lm-eval does not know: mend or remove it.")
    if entries.get("model") not in (None, *_MODELS):
        raise InputError(
            f"the config file {path} names the model {entries['model']!r}, but only hf and act-hf can be run here: remove it."
        )
    for name, value in entries.items():
        if name not in honoured and name not in _WITHOUT_EFFECT and value not in (None, known[name]):
            raise InputError(f"the config file {path} sets {name}, which has no effect here: remove it, or use `act-eval run`.")
    given = {name: value for name, value in entries.items() if name in honoured and value is not None}
    if "seed" in given:
        given["seed"] = _one_seed(given["seed"], path)
    if "cache_requests" in given:
        given["cache_requests"] = _word(given["cache_requests"])
    return {name: value for name, value in given.items() if value is not None}


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Let lm-eval's `EvaluatorConfig` read and check options, as `lm_eval run` does.

    Args:
        options: by their names in lm-eval; None where nothing was given.

    Returns:
        The same: files of samples read, and the model arguments with what other options add to them.

    Raises:
        InputError: lm-eval refuses them.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    given = {name: value for name, value in options.items() if value is not None}
    with _explained(lambda reason: InputError(f"{reason}.")):
        config = EvaluatorConfig.from_cli(Namespace(**given))
    read = {name: getattr(config, name) for name in ("samples", "model_args") if name in options}
    return {name: value for name, value in options.items() if name != "trust_remote_code"} | read


def by_name(text: str) -> dict[str, Any]:
    """Read values by name as lm-eval's command line does: `temperature=0.7,top_p=0.9`, or JSON. Raises ValueError."""
    from lm_eval._cli.utils import key_val_to_dict, try_parse_json

    parsed = try_parse_json(text)
    return parsed if isinstance(parsed, dict) else key_val_to_dict(text)


def _word(value: Any) -> Any:
    """The word of lm-eval's command line, such as "refresh", for its value in a config file, which may be a mapping."""
    from lm_eval._cli.utils import request_caching_arg_to_dict

    if isinstance(value, bool):
        return "true" if value else None
    if not isinstance(value, Mapping):
        return value
    asked = {name for name, wanted in value.items() if wanted}
    words = {word: {name for name, wanted in request_caching_arg_to_dict(word).items() if wanted} for word in _CACHE_REQUESTS}
    return next((word for word, meant in words.items() if meant == asked), str(dict(value))) if asked else None


def _one_seed(seed: Any, path: str) -> Any:
    """The seed of all generators. Raises InputError where they have different ones, or one has none."""
    seeds = seed if isinstance(seed, list) else [seed]
    if len(set(map(str, seeds))) != 1 or not isinstance(seeds[0], int):
        raise InputError(
            f"the config file {path} sets seed to {seed}, but here all random generators have the same seed: give one number."
        )
    return seeds[0]


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


@contextmanager
def _explained(explain: Callable[[str], InputError]) -> Iterator[None]:
    """Turn what lm-eval raises about options into one sentence."""
    kinds = (OSError, TypeError, ValueError)
    with explained(lambda error: explain(" ".join(str(error).split()).rstrip(".")), *kinds):
        yield
