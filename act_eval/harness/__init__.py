"""What ties act-eval to lm-eval: the model `act-hf`, tasks, documents, scoring, and what a run is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
