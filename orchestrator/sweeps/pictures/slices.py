"""The metric over each setting alone, with what the papers report."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.pictures.axes import (
    Scale,
    name_ticks,
    names_of,
    scale_logarithmically,
    scale_of,
    unit,
    value_of,
)
from orchestrator.sweeps.published import CURVES
from orchestrator.sweeps.space import label
from orchestrator.sweeps.trials import Trial


def draw_slices(found: Findings) -> Figure | None:
    """A panel for each key of which two trials or more say something."""
    keys = [key for key in found.keys if len(_trials_of(found, key)) > 1]
    if not keys:
        return None
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.axis("off")
    for axis, key in zip(axes.flat, keys, strict=False):
        _draw_slice(axis, found, key)
    return figure


def _trials_of(found: Findings, key: str) -> list[Trial]:
    """Trials that say something about one key: all that have it; of an ablation, those that vary it alone."""
    there = [trial for trial in found.measured if key in trial.settings]
    if found.config.searcher.name != "ablation":
        return there
    base = {other: label(dimension.args[0]) for other, dimension in found.config.space.items() if other != key}
    return [t for t in there if all(label(v) == base[k] for k, v in t.settings.items() if k != key)]


def _draw_slice(axis: Axes, found: Findings, key: str) -> None:
    """Every trial a dot (hollow: stopped early), the mean of each value of a list, the paper's curve."""
    dimension, trials = found.config.space[key], _trials_of(found, key)
    scale = scale_of(dimension)
    for whole in (True, False):
        some = [t for t in trials if (t.status == "FINISHED") == whole]
        axis.plot(
            [scale.place(label(t.settings[key])) for t in some],
            [value_of(found, t) for t in some],
            "o",
            color="tab:blue",
            alpha=0.6,
            markersize=4,
            fillstyle="full" if whole else "none",
        )
    if dimension.values is not None:
        _draw_means(axis, found, key, trials, scale)
    if dimension.logarithmic:
        scale_logarithmically(axis, [trial.settings[key] for trial in trials])
    if scale.ticks:
        name_ticks(axis, names_of(scale.ticks), size=10)
    if scale.categories:
        axis.set_xlim(-0.5, len(scale.ticks) - 0.5)
    axis.set(xlabel=key, ylabel=unit(found))
    axis.spines[["top"]].set_visible(False)
    _draw_published(axis, found, key, scale)


def _draw_means(axis: Axes, found: Findings, key: str, trials: list[Trial], scale: Scale) -> None:
    """Of each value, over the trials that were trained to the end, if there are any."""
    counted = [trial for trial in trials if trial.status == "FINISHED"] or trials
    means = []
    for value in sorted({label(t.settings[key]) for t in counted}, key=scale.place):
        own = [value_of(found, t) for t in counted if label(t.settings[key]) == value]
        means.append((scale.place(value), float(np.mean(own))))
    line = "_" if scale.categories else "_-"
    axis.plot(*zip(*means, strict=True), line, color="tab:blue", linewidth=1, markersize=14)


def _draw_published(axis: Axes, found: Findings, key: str, scale: Scale) -> None:
    known = CURVES.get(key)
    if known is None or not found.metric.startswith("knn"):
        axis.spines[["right"]].set_visible(False)
        return
    low = 0 if found.config.space[key].logarithmic else float("-inf")
    points = {v: y for v, y in known.values.items() if (v in scale.ticks if scale.ticks else v > low)}
    if len(points) < 2:
        return
    twin = axis.twinx()
    order = sorted(points, key=scale.place)
    places, values = [scale.place(v) for v in order], [points[v] for v in order]
    twin.plot(places, values, "s" if scale.categories else "s--", color="tab:orange", markersize=4, linewidth=1)
    twin.set_ylabel("paper, ImageNet k-NN (%)", color="tab:orange", fontsize=8)
    twin.tick_params(axis="y", colors="tab:orange", labelsize=8)
    twin.spines[["top"]].set_visible(False)
