"""Baseline and ACT over a grid of settings: beta, alpha, method, shares of sinks and heads, or any other argument of act-hf."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
