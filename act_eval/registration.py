"""Lets `lm_eval --model act-hf` find the model on lm-eval releases that do not look for plugins.

lm-eval's plugin mechanism is the entry-point group `lm_eval.models`, which this package declares; releases up to 0.4.13 do
not read it. For them, `act_eval_startup.pth` puts a finder on `sys.meta_path` when Python starts, which imports nothing until
lm-eval imports `lm_eval.models` and then comes here. Earlier is no option: a registry that is not empty makes lm-eval forget
its built-in models. The environment variable ACT_EVAL_NO_STARTUP_HOOK=1 switches it off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODEL_NAME = "act-hf"
TARGET = "act_eval.harness.lm:ACTLM"


def find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """The spec of `lm_eval.models`, with a loader that registers the model once the module is loaded.

    Args:
        name, path: as `importlib.abc.MetaPathFinder.find_spec` gets them.
    """
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None or os.environ.get("ACT_EVAL_NO_STARTUP_HOOK"):
        return None
    execute = spec.loader.exec_module

    def execute_and_register(module: ModuleType) -> None:
        execute(module)
        register()

    spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
    return spec


def register() -> None:
    """Add the model's name to lm-eval's registry, unless this lm-eval loads plugins itself."""
    import_module("lm_eval.models")  # which fills the registry, but only while it is empty
    from lm_eval.api import registry

    if not hasattr(registry, "load_plugins") and MODEL_NAME not in registry.model_registry:
        registry.model_registry.register(MODEL_NAME, target=TARGET)
