"""Model arguments in results files, and those that answers do not depend on: where a model runs, and what is secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHERE_IT_RUNS = frozenset(
    (
        "device",
        "batch_size",
        "max_batch_size",
        "parallelize",
        "max_memory_per_gpu",
        "max_cpu_memory",
        "offload_folder",
        "device_map",
        "tp_plan",
        "low_cpu_mem_usage",
        "logits_cache",
        "cache_dir",
        "trust_remote_code",
    )
)
"""Arguments of `hf` that decide where and how fast the model runs."""

HUB_TOKENS = ("token", "use_auth_token", "hf_token")
"""Arguments of `hf` that may hold an access token of the Hugging Face hub."""

SECRETS = frozenset(
    (
        *HUB_TOKENS,
        "auth_token",
        "access_token",
        "api_key",
        "api_token",
        "password",
        "header",
        "headers",
        "proxies",
        "watsonx_credentials",
    )
)
"""Arguments of lm-eval's models, or of what loads them, that may hold a password or an access token."""


ATTENTION = "attention"
"""Of the settings of ACT in the config of a results file: the attention backend that ran below ACT, or without it."""


def by_name(model_args: Any) -> dict[str, Any]:
    """`--model_args`, which lm-eval writes as a text or a table."""
    if isinstance(model_args, str):
        return dict(part.partition("=")[::2] for part in model_args.split(",") if part)
    return dict(model_args or {})


def without_placement(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the model arguments that decide where and how fast the model runs, but no answer, and secrets."""
    return {name: value for name, value in model_args.items() if name not in WHERE_IT_RUNS | SECRETS}


def without_secrets(model_args: Any) -> Any:
    """Leave out secrets, of model arguments by name or as a text such as `pretrained=a,token=b`; all else is as it was."""
    if isinstance(model_args, Mapping):
        return {name: value for name, value in model_args.items() if name not in SECRETS}
    if not isinstance(model_args, str):
        return model_args
    kept: list[str] = []
    is_secret = False
    for part in model_args.split(","):
        if "=" in part:  # a part without a name goes on with the value before it
            is_secret = part.partition("=")[0].strip() in SECRETS
        if not is_secret:
            kept.append(part)
    return ",".join(kept)


def results_without_secrets(results: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out secrets of a results file of lm-eval, which has the model arguments twice.

    Args:
        results: the content of the file: `config`, and `configs` by task, with what tasks were made with as `metadata`.
    """
    config, configs = results.get("config"), results.get("configs")
    changed: dict[str, Any] = {}
    if isinstance(config, Mapping) and "model_args" in config:
        changed["config"] = {**config, "model_args": without_secrets(config["model_args"])}
    if isinstance(configs, Mapping):
        changed["configs"] = {
            task: {**of_task, "metadata": without_secrets(of_task["metadata"])}
            if isinstance(of_task, Mapping) and "metadata" in of_task
            else of_task
            for task, of_task in configs.items()
        }
    return {**results, **changed}
