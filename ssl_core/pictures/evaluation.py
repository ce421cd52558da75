"""Pictures of an evaluation: every layer by every metric, and what accuracy costs when the encoder is cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ssl_core.evaluation.metrics import by_layer, known, layers_of, title_of
from ssl_core.pictures.run import save_figure

Metrics = Mapping[str, float]
COSTS = ("flops", "latency", "parameters")
"""What a cut encoder costs, the first that was measured."""


def draw_evaluation(metrics: Metrics, folder: Path) -> list[Path]:
    """What the metrics give of the two, as PNG files in `folder`."""
    figures = {}
    shown = {name: metric for name, metric in by_layer(metrics).items() if len(layers_of(metrics, name)) > 1}
    if shown:
        figures["layers"] = _layers(metrics, list(shown))
    shares = [name for name, metric in shown.items() if metric.is_share]
    cost = next((name for cost in COSTS for name in shown if name.startswith(cost)), None)
    if cost is not None and shares:
        figures["accuracy_by_cost"] = _by_cost(metrics, cost, shares)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_comparison(first: Metrics, second: Metrics, names: Sequence[str], target: Path) -> Path:
    """The metrics that two encoders have in common, layer by layer, one panel a metric."""
    shared = [name for name in by_layer(first) if layers_of(second, name)]
    columns = min(4, max(1, len(shared)))
    rows = -(-max(1, len(shared)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.0 * rows), layout="constrained", squeeze=False)
    for axis, name in zip(axes.flat, shared, strict=False):
        scale = 100 if known(f"{name}/last").is_share else 1
        for metrics, label, style in ((first, names[0], "o--"), (second, names[1], "o-")):
            values = layers_of(metrics, name)
            axis.plot(list(values), [scale * value for value in values.values()], style, label=label)
        axis.set(title=title_of(name) + (" (%)" if scale == 100 else ""), xlabel="layer")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(shared) :]:
        axis.set_axis_off()
    axes.flat[0].legend(frameon=False, fontsize=7)
    return save_figure(figure, target)


def _layers(metrics: Metrics, names: list[str]) -> Figure:
    """A column a metric, coloured from its worst layer to its best."""
    layers = sorted({layer for name in names for layer in layers_of(metrics, name)})
    figure, axis = plt.subplots(
        figsize=(2.2 + 1.1 * len(names), max(2.5, 1.6 + 0.34 * len(layers))), layout="constrained"
    )
    shades = np.full((len(layers), len(names)), np.nan)
    for column, name in enumerate(names):
        values, metric = layers_of(metrics, name), known(f"{name}/last")
        low, high = min(values.values()), max(values.values())
        for layer, value in values.items():
            shade = (value - low) / (high - low) if high > low else 0.5
            if metric.higher is not None:  # of what is neither good nor bad, none is the best
                shades[layers.index(layer), column] = shade if metric.higher else 1.0 - shade
            axis.text(
                column,
                layers.index(layer),
                metric.form.format(value),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shades[layers.index(layer), column] <= 0.5 else "black",
            )
    axis.imshow(shades, aspect="auto", origin="lower", cmap="viridis", vmin=0.0, vmax=1.0)
    axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axis.set_xticks(range(len(names)), [title_of(name) for name in names], rotation=30, ha="right")
    axis.set(title="every layer by every metric (yellow: the best of its column)", ylabel="layer")
    return figure


def _by_cost(metrics: Metrics, cost: str, names: list[str]) -> Figure:
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    costs = layers_of(metrics, cost)
    for name in names:
        values = {layer: value for layer, value in layers_of(metrics, name).items() if layer in costs}
        axis.plot(
            [costs[layer] for layer in values], [100 * value for value in values.values()], "o-", label=title_of(name)
        )
        for layer, value in values.items():
            axis.annotate(
                str(layer), (costs[layer], 100 * value), textcoords="offset points", xytext=(3, 4), fontsize=7
            )
    axis.set(
        title="accuracy by cost of the encoder cut after each layer", xlabel=known(f"{cost}/last").title, ylabel="%"
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
