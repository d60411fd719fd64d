"""A hook of mkdocs: pages show figures of `results/demo` as `figures/...`, without a copy of them in the repository."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[2] / "results" / "demo"
FIGURES = ("study", "heads", "sinks/attention_map", "sinks/before_and_after", "sweep/by_beta")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures to the files of the site."""
    for name in FIGURES:
        files.append(File.generated(config, f"figures/{name}.png", abs_src_path=str(RESULTS / f"{name}.png")))
    return files
