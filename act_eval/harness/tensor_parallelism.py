"""What a model and the installed lm-eval must be like for tensor parallelism (`tp_plan` among the model arguments)."""

from __future__ import annotations

import inspect
import os
from importlib.metadata import version
from typing import Any

import transformers
from lm_eval.models.huggingface import HFLM

from act_eval.attention.model_structure import UnsupportedModelError, model_shape
from act_eval.errors import SettingError


def check_tp_plan_is_known() -> None:
    """Raise SettingError where the installed lm-eval has no `tp_plan`."""
    if "tp_plan" not in inspect.signature(HFLM.__init__).parameters:
        raise SettingError(
            "tp_plan", f"is not known to lm-eval {version('lm-eval')}: install lm-eval 0.4.12 or newer, or leave it out."
        )


def check_heads_can_be_divided(config: transformers.PretrainedConfig) -> None:
    """Raise UnsupportedModelError where the number of processes does not divide a model's key/value heads."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    text_config: Any = config.get_text_config()
    _, query_heads = model_shape(config)
    heads: int = getattr(text_config, "num_key_value_heads", None) or query_heads
    if heads % processes:
        raise UnsupportedModelError(
            f"tp_plan divides the {heads} key/value heads of the model equally, which {processes} processes cannot: start as "
            f"many as divide {heads}."
        )
