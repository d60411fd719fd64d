"""Methods against one baseline, as a picture."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from act_eval.plotting import name_points, plot, plot_points, text_width
from act_eval.study.method_results import MethodResults

_DIFFERENCE = ("delta", "low", "high")
_CORRECTION = "baseline, label priors corrected"


@plot("methods", "Methods: differences from the baseline, on average over the tasks")
def plot_methods(results: MethodResults) -> Figure | None:
    """The difference of each method that has heads, as it is and after label priors are corrected, with 95% intervals.

    Last stands what correcting label priors does to the baseline alone. None where no method has heads.
    """
    rows = results.counting.dropna(subset=list(_DIFFERENCE)).iloc[::-1]
    if rows.empty:
        return None
    names = rows["method"].tolist()
    has_priors = results.correction is not None
    places = np.arange(len(rows)) + has_priors
    if has_priors:
        names = [_CORRECTION, *names]
    figure = Figure(figsize=(text_width(names) + 3.6, 1.0 + 0.36 * len(names)))
    axes = figure.subplots()
    for number, (label, prefix) in enumerate(
        (("as it is", ""), ("label priors corrected in baseline and method", "corrected_"))
    ):
        ends = rows[[f"{prefix}{column}" for column in _DIFFERENCE]].astype(float).to_numpy().T * 100
        there = ~np.isnan(ends).any(0)
        if there.any():
            shift = (-0.14 if prefix else 0.14) if has_priors else 0
            plot_points(axes, ends[:, there], places[there] + shift, number, markersize=5, label=label)
    if results.correction is not None:
        alone = results.correction
        plot_points(axes, 100 * np.array([[alone.delta], [alone.low], [alone.high]]), [0], number=2, markersize=5)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", fontsize="small", frameon=False, ncols=2)
    name_points(axes, names)
    figure.supxlabel("difference from the baseline, percentage points (average over tasks)", fontsize="medium")
    return figure
