"""A hook of mkdocs: pages show figures of `results/` as `figures/...`, without a copy of them in the repository."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[2] / "results"
FIGURES = {
    "study": "smollm2-135m-instruct/study/study",
    "heads": "demo/heads",
    "sinks/attention_map": "demo/sinks/attention_map",
    "sinks/before_and_after": "demo/sinks/before_and_after",
    "sweep/by_beta": "demo/sweep/by_beta",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures to the files of the site."""
    for name, source in FIGURES.items():
        files.append(File.generated(config, f"figures/{name}.png", abs_src_path=str(RESULTS / f"{source}.png")))
    return files
