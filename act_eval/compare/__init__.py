"""Baseline and ACT on the same tasks with the model loaded once, written in lm-eval's own file formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
