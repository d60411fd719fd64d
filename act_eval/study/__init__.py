"""From a model to a verdict: heads searched for on training documents, then compared with the baseline and with controls."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
