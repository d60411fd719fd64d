"""What ran, as far as answers depend on it."""

from __future__ import annotations

from importlib.metadata import version


def package_versions() -> dict[str, str]:
    """Of the packages that answers depend on."""
    return {name: version(name) for name in ("act-eval", "lm-eval", "torch", "transformers")}
