"""Write what was found about attention sinks: figures, the data behind each, and what ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from act_eval.files import write_texts
from act_eval.plotting import STYLE, write_figure
from act_eval.sinks import plots, tables
from act_eval.sinks.statistics import SinkStatistics


@dataclass(frozen=True)
class Document:
    """One document that is shown by itself.

    Attributes:
        name: task and number.
        tokens: text of each token.
        statistics: of this document alone, with a bin for each token.
    """

    name: str
    tokens: Sequence[str]
    statistics: SinkStatistics


def write_sinks(
    statistics: Mapping[str, SinkStatistics],
    families: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    document: Document | None,
    folder: Path,
) -> list[Path]:
    """Write every figure as PNG and SVG with its data beside it.

    Args:
        statistics: with maps, by task.
        families: of the tasks.
        tokenizer: of the model.
        document: shown by itself, or None.
        folder: exists.

    Returns:
        The paths of the files.
    """
    by_family = {
        family: SinkStatistics.total(statistics[task] for task in statistics if families[task] == family)
        for family in dict.fromkeys(families[task] for task in statistics)
    }
    everything = SinkStatistics.total(statistics.values())
    by_position = statistics if len(statistics) <= plots.MOST_NAMES else by_family
    data: dict[str, pd.DataFrame] = {
        "attention_received": tables.received(by_family),
        "sink_positions": tables.positions(by_position),
        "sinks_per_head": tables.heads(everything),
        "sink_tokens": tables.tokens(everything, lambda token: token_text(tokenizer, token)),
    }
    figures: dict[str, Figure] = {
        "attention_map": plots.plot_attention_map(by_family),
        "attention_map_layers": plots.plot_attention_by_layer(everything),
        "before_and_after": plots.plot_before_and_after(everything),
        "attention_received": plots.plot_received(by_family),
        "sinks_per_head": plots.plot_sinks_per_head(everything),
        "sink_tokens": plots.plot_sink_tokens(everything, lambda token: token_text(tokenizer, token)),
    }
    if len(by_position) <= plots.MOST_NAMES:
        figures["sink_positions"] = plots.plot_sink_positions(by_position)
    if document is not None:
        data["document_map"] = tables.document(document.statistics, document.tokens)
        figures["document_map"] = plots.plot_document(document.statistics, document.tokens)
    paths: list[Path] = []
    with matplotlib.rc_context(STYLE):
        for name, figure in figures.items():
            paths += write_figure(figure, folder, name)
    paths += write_texts(
        {f"{name}.csv": table.to_csv(index=False, float_format="%.6g") for name, table in data.items()}, folder
    )
    if document is not None:
        paths.append(folder / "document_map.npz")
        document.statistics.save(paths[-1])
    return paths


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token's text; the vocabulary's own word for it where it is no whole character."""
    text: str = tokenizer.decode([token])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else str(tokenizer.convert_ids_to_tokens(token))
