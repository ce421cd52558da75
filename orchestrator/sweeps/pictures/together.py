"""Several settings at once: all of them on parallel axes, and pairs of those that matter as heat maps."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.importance import comparable
from orchestrator.sweeps.pictures.axes import bins, name_ticks, names_of, scale_of, scaled, unit, value_of
from orchestrator.sweeps.space import Dimension, label, short
from orchestrator.sweeps.trials import Trial

PAIRED = 3  # settings whose pairs are drawn
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}  # what makes text on lines readable


def draw_parallel(found: Findings) -> Figure | None:
    """A line a trial across an axis for every setting, the colour its metric."""
    keys, lower = found.keys, found.config.mode[0] == "min"
    trials = sorted(found.measured, key=lambda t: value_of(found, t), reverse=lower)  # the best is drawn last
    if len(keys) < 2 or len(trials) < 3:
        return None
    figure, axis = plt.subplots(figsize=(2.2 * (len(keys) + 1), 4), layout="constrained")
    values = np.array([value_of(found, trial) for trial in trials])
    norm = plt.Normalize(values.min(), values.max())
    columns = [_draw_column(axis, n, key, found.config.space[key], trials) for n, key in enumerate(keys)]
    columns.append(norm(values))
    for number, value in enumerate(values):
        line = [column[number] for column in columns]
        axis.plot(range(len(line)), line, color=plt.cm.viridis(norm(value)), alpha=0.8, linewidth=1.2)
    last = len(keys)
    for height in (0.0, 0.5, 1.0):
        text = f"{values.min() + height * np.ptp(values):.3g}"
        axis.text(last + 0.03, height, text, fontsize=7, va="center")
    for number in range(last + 1):
        axis.axvline(number, color="0.6", linewidth=0.8, zorder=0)
    axis.set_xticks(range(last + 1), [*map(short, keys), unit(found)])
    axis.set_yticks([])
    axis.set(ylim=(-0.05, 1.05), xlim=(-0.1, last + 0.35))
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return figure


def _draw_column(axis: Axes, number: int, key: str, dimension: Dimension, trials: Sequence[Trial]) -> list[float]:
    """Heights in [0, 1] of every trial on a key's axis, NaN where it has none; labels the axis."""
    there: list[Any] = [label(trial.settings[key]) for trial in trials if key in trial.settings]
    scale = scale_of(dimension)
    transform = np.log if dimension.logarithmic else float
    heights = [transform(scale.place(value)) for value in there]
    low, high = min(heights), max(heights)

    def height(value: Any) -> float:
        return 0.5 if high == low else (transform(scale.place(value)) - low) / (high - low)

    ticks = scale.ticks or sorted({min(there), max(there)})
    for tick, name in zip(ticks, names_of(ticks), strict=True):
        axis.text(number + 0.03, height(tick), name, fontsize=7, va="center", bbox=BEHIND)
    return [height(label(t.settings[key])) if key in t.settings else np.nan for t in trials]


def draw_pairs(found: Findings) -> Figure | None:
    """Heat maps of the metric's mean over pairs of the settings that matter most."""
    if found.config.searcher.name == "ablation" or not found.importances:
        return None  # no two are varied together, or there is too little to say
    ranked = dict.fromkeys(key for importance in found.importances for key in importance.shares)
    pairs = list(itertools.combinations(list(ranked)[:PAIRED], 2))
    if not pairs:
        return None
    figure, axes = plt.subplots(1, len(pairs), figsize=(4.4 * len(pairs), 3.6), layout="constrained", squeeze=False)
    for axis, (across, down) in zip(axes[0], pairs, strict=True):
        _draw_heat_map(axis, found, across, down)
    return figure


def _draw_heat_map(axis: Axes, found: Findings, across: str, down: str) -> None:
    _, at_epoch = comparable(found.trials, found.metric)
    trials = [t for t in found.trials if t.id in at_epoch and across in t.settings and down in t.settings]
    x_of, x_names = bins(found.config.space[across], [label(t.settings[across]) for t in trials])
    y_of, y_names = bins(found.config.space[down], [label(t.settings[down]) for t in trials])
    sums, counts = np.zeros((2, len(y_names), len(x_names)))
    for trial in trials:
        cell_at = y_of(label(trial.settings[down])), x_of(label(trial.settings[across]))
        sums[cell_at] += scaled(found, at_epoch[trial.id])
        counts[cell_at] += 1
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    picture = axis.imshow(means, origin="lower", aspect="auto", cmap="viridis")
    for place, mean in np.ndenumerate(means):
        if np.isfinite(mean):
            light = mean > (np.nanmin(means) + np.nanmax(means)) / 2
            text = f"{mean:.3g}\n({counts[place]:.0f})"
            axis.text(place[1], place[0], text, ha="center", va="center", fontsize=7, color="k" if light else "w")
    name_ticks(axis, x_names, size=7)
    axis.set_yticks(range(len(y_names)), y_names, fontsize=7)
    axis.set(xlabel=short(across), ylabel=short(down))
    plt.colorbar(picture, ax=axis, label=unit(found))
