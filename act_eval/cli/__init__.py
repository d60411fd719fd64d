"""The `act-eval` command line: it parses and prints; the work is done elsewhere."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
