"""act-eval: does calibrating attention sinks (ACT) help your language model on your tasks?

Importing this package imports nothing heavy and changes nothing; the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from act_eval import methods as methods
    from act_eval.attention.act import ACT as ACT
    from act_eval.attention.calibration import calibrate as calibrate
    from act_eval.attention.calibration import column_means as column_means
    from act_eval.attention.calibration import find_sinks as find_sinks
    from act_eval.errors import InputError as InputError
    from act_eval.harness.lm import ACTLM as ACTLM
    from act_eval.methods import make_method as make_method
    from act_eval.methods.base import Method as Method
    from act_eval.profiles import HeadProfile as HeadProfile

__version__ = "0.1.0"

_MODULES = {
    "ACT": "attention.act",
    "ACTLM": "harness.lm",
    "HeadProfile": "profiles",
    "InputError": "errors",
    "Method": "methods.base",
    "calibrate": "attention.calibration",
    "column_means": "attention.calibration",
    "find_sinks": "attention.calibration",
    "make_method": "methods",
}

__all__ = [
    "ACT",
    "ACTLM",
    "HeadProfile",
    "InputError",
    "Method",
    "calibrate",
    "column_means",
    "find_sinks",
    "make_method",
    "methods",
]


def __getattr__(name: str) -> object:
    if name == "methods":
        return import_module("act_eval.methods")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"act_eval.{_MODULES[name]}"), name)
