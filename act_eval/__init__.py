"""act-eval: does calibrating attention sinks (ACT) help your language model on your tasks?

Importing this package imports nothing heavy and changes nothing. The public names of each package stand in its `__init__.pyi`,
and are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
