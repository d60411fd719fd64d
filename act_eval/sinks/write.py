"""Write what was found about attention sinks: figures, the data behind each, and what ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from act_eval.plotting import Plot
from act_eval.sinks import plots
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

    def text(token: int) -> str:
        return token_text(tokenizer, token)

    arguments: dict[Plot[...], tuple[Any, ...]] = {
        plots.plot_attention_map: (by_family,),
        plots.plot_attention_by_layer: (everything,),
        plots.plot_before_and_after: (everything,),
        plots.plot_received: (by_family,),
        plots.plot_sinks_per_head: (everything,),
        plots.plot_sink_tokens: (everything, text),
        plots.plot_sink_positions: (by_position,),
    }
    if document is not None:
        arguments[plots.plot_document] = (document.statistics, document.tokens)
    drawn = [plot for plot in arguments if plot is not plots.plot_sink_positions or len(by_position) <= plots.MOST_NAMES]
    with_data = [plot for plot in plots.WITH_DATA if plot in arguments]
    paths = [path for plot in drawn for path in plot.write_figure(folder, *arguments[plot])]
    paths += [path for plot in with_data for path in plot.write_data(folder, *arguments[plot])]
    if document is not None:
        paths.append(folder / "document_map.npz")
        document.statistics.save(paths[-1])
    return paths


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token's text; the vocabulary's own word for it where it is no whole character."""
    text: str = tokenizer.decode([token])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else str(tokenizer.convert_ids_to_tokens(token))
