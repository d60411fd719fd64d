"""What ACT and its rivals do to the attention of calibrated heads: a file for each method, found by its `name`.

A method is a small class that rewrites rows of an attention map (`Method`), or says so from a few keys alone
(`SelectiveMethod`, which needs no map); `boost.py` is a short example. `from act_eval.methods import Boost` gives a class of
this package. Any object of such a class is a method: `ACT("all", method=MyMethod(2))`.

Another package gives its method a name for the command line and for results by an entry point in its `pyproject.toml`:

    [project.entry-points."act_eval.methods"]
    to-own-token = "own_token:ToOwnToken"

Once it is installed, `act_method` takes the `name` of the class, whatever the entry point is called, and the fields of the
class are parameters: `act_share` for a field `share`. They are numbers, and none may be called like a setting of ACT:
others are refused where the method is chosen.
"""

from typing import Any

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """A public name, or the class of a method of this package, such as `Boost`."""
    if name[0].isupper() and name not in __all__:
        from act_eval.methods.registry import built_in_methods

        classes = {cls.__name__: cls for cls in built_in_methods().values()}
        if name in classes:
            return classes[name]
    return _public_name(name)
