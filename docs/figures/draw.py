"""Draw the figures of how-it-works.md, with what they show computed by act_eval: python docs/figures/draw.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from act_eval import calibrate, column_means

HERE = Path(__file__).parent
BETA, ALPHA = 0.4, 2.0
SINK, FIRST, SEEN = "#b2182b", "#777777", "#2166ac"


def attention_map(n: int, sink: int, strength: float = 2.2) -> Tensor:
    """A causal map, float `[n, n]`, whose first token and one other key receive much."""
    generator = torch.Generator().manual_seed(n)
    scores = 0.5 * torch.randn(n, n, generator=generator)
    scores[:, sink] += strength
    scores[:, 0] += 1.6
    return scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)


def show(axes: Axes, values: Tensor, title: str, **kwargs: object) -> None:
    axes.imshow(values, **{"cmap": "Greys", "vmin": 0, "vmax": 0.8, **kwargs})
    axes.set(title=title, xlabel="key", ylabel="query", xticks=range(values.shape[1]), yticks=range(values.shape[0]))


def bars(axes: Axes, means: Tensor, threshold: float, sinks: list[int]) -> None:
    """Column means with their threshold; the first token is grey, sinks are red."""
    colours = [SINK if key in sinks else FIRST if key == 0 else SEEN for key in range(len(means))]
    axes.bar(range(len(means)), means, color=colours)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="key", xticks=range(len(means)))


def draw_calibration() -> None:
    attention = attention_map(8, 3)
    after = calibrate(attention, beta=BETA, alpha=ALPHA)
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
    bars(axes[0], column_means(attention), ALPHA / 8, [3])
    axes[0].set(title="column means, threshold")
    show(axes[1], attention, "before")
    show(axes[2], after, f"after (beta {BETA:g})")
    show(axes[3], after - attention, "difference", cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    save(figure, "calibration")


def draw_prefill_and_decode() -> None:
    attention, new = attention_map(10, 3), 3
    prompt = len(attention) - new
    means = column_means(attention[:prompt, :prompt])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    bars(left, means, ALPHA / prompt, [3])
    left.set(title=f"the prefill of {prompt} tokens finds its sinks", ylabel="mean attention")
    show(right, attention, "and decode rows keep them")
    right.axhspan(prompt - 0.5, len(attention) - 0.5, color=SEEN, alpha=0.15)
    right.axvspan(2.5, 3.5, color=SINK, alpha=0.25)
    right.axhline(prompt - 0.5, color=SEEN, linewidth=1)
    right.set_ylabel("query: prompt, then new tokens")
    save(figure, "prefill_and_decode")


def draw_batches() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", sharey=True)
    for place, (panel, n) in enumerate(zip(axes, (5, 8), strict=True)):
        padding, sink = 8 - n, 3
        means = column_means(attention_map(n, sink))
        colours = [FIRST, *[SINK if key == sink else SEEN for key in range(1, n)]]
        panel.axvspan(-0.5, padding - 0.5, color="#dddddd", hatch="//") if padding else None
        panel.bar(range(padding, 8), means, color=colours)
        panel.hlines(ALPHA / n, padding - 0.5, 7.5, color="black", linestyle="--", linewidth=1)
        panel.set(title=f"row {place}: n = {n}, threshold {ALPHA / n:.2f}", xlabel="place in the batch", xticks=range(8))
    axes[0].set_ylabel("mean attention")
    save(figure, "batches")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "act-eval", "font.size": 9, "figure.facecolor": "white"})
    draw_calibration()
    draw_prefill_and_decode()
    draw_batches()
