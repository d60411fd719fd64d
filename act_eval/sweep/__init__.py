"""Baseline and ACT over a grid of settings: beta, alpha, method, shares of sinks and heads, or any other argument of act-hf."""
