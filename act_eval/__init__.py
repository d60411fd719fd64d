"""act-eval: does calibrating attention sinks (ACT) help your language model on your tasks?

Importing this package imports nothing heavy and changes nothing; the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from act_eval.act import ACT as ACT
    from act_eval.calibration import calibrate as calibrate
    from act_eval.profiles import HeadProfile as HeadProfile

__version__ = "0.1.0"
__all__ = ["ACT", "HeadProfile", "calibrate"]

_MODULES = {"ACT": "act", "HeadProfile": "profiles", "calibrate": "calibration"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"act_eval.{_MODULES[name]}"), name)
