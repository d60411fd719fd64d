"""Attention sinks made visible: statistics over the documents of any tasks, and the paper's figures.

`collect` and `plots` need a model and token ids alone; `run` draws documents from lm-eval's tasks and writes everything.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
