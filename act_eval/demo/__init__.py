"""The embedded demo model: a small language model that ships with the package, so that everything runs offline."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
