"""Pictures of a run: what it did to the loss, to every layer, and how far it came."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.display import layers_of

Record = Mapping[str, float]
SIGNALS = ("knn", "rankme", "std", "alignment", "uniformity")
TITLES = {"knn": "k-NN accuracy", "rankme": "RankMe", "std": "feature deviation"}


def draw_plots(history: Sequence[Record], folder: Path) -> list[Path]:
    """All pictures that the history gives, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = [record for record in history if "loss" in record]
    evaluated = [record for record in history if any(layers_of(record, name) for name in SIGNALS)]
    figures = {}
    if trained:
        figures["loss"] = _loss_and_schedules(trained)
    for name in ("knn", "rankme"):
        if evaluated and layers_of(evaluated[-1], name):
            figures[f"{name}_by_layer"] = _heat_map([r for r in evaluated if layers_of(r, name)], name)
    if len(evaluated) > 1:
        figures["before_after"] = _before_after(evaluated[0], evaluated[-1])
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths


def _loss_and_schedules(records: Sequence[Record]) -> Figure:
    schedules = [name for name in ("alpha", "lr", "weight_decay", "momentum") if name in records[-1]]
    figure, axes = plt.subplots(1, 1 + len(schedules), figsize=(4.5 + 2.6 * len(schedules), 3.4), layout="constrained")
    axes = np.atleast_1d(axes)
    parts = [name for name in ("loss", "loss/last", "loss/hidden", "loss/predictor") if name in records[-1]]
    for name in parts:
        if name == "loss" and len(parts) == 2:
            continue  # the loss is its last layer's: one line, not two
        _line(axes[0], records, name, label=name)
    axes[0].set(title="loss and its parts", xlabel="epoch")
    if max(r["loss"] for r in records) > 4 * min(r["loss/last"] for r in records) > 0:
        axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], schedules, strict=True):
        _line(axis, records, name)
        axis.set(title={"alpha": "α"}.get(name, name.replace("_", " ")), xlabel="epoch")
    return figure


def _line(axis: Axes, records: Sequence[Record], name: str, label: str | None = None) -> None:
    axis.plot([r["epoch"] for r in records], [r[name] for r in records], marker=".", label=label)
    axis.spines[["top", "right"]].set_visible(False)


def _heat_map(records: Sequence[Record], name: str) -> Figure:
    values = np.array([layers_of(record, name) for record in records]).T
    layers, columns = values.shape
    figure, axis = plt.subplots(
        figsize=(max(5, 1.5 + 0.6 * columns), max(3, 1.4 + 0.32 * layers)), layout="constrained"
    )
    shown = 100 * values if name == "knn" else values
    picture = axis.imshow(shown, aspect="auto", origin="lower", cmap="viridis")
    axis.set_yticks(range(layers), [str(layer + 1) for layer in range(layers)])
    step = max(1, columns // 16)
    axis.set_xticks(range(0, columns, step), [f"{record['epoch']:.0f}" for record in records][::step])
    axis.set(title=f"{TITLES[name]} by layer over epochs", xlabel="epoch", ylabel="layer")
    if values.size <= 200:
        middle = (shown.min() + shown.max()) / 2
        for (layer, column), value in np.ndenumerate(shown):
            colour = "black" if value > middle else "white"
            axis.text(column, layer, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, label="%" if name == "knn" else None)
    return figure


def _before_after(before: Record, after: Record) -> Figure:
    names = [name for name in SIGNALS if layers_of(before, name) and layers_of(after, name)]
    figure, axes = plt.subplots(1, len(names), figsize=(3.0 * len(names), 3.2), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        layers = range(1, len(layers_of(after, name)) + 1)
        scale = 100 if name == "knn" else 1
        axis.plot(layers, [scale * v for v in layers_of(before, name)], "o--", color="0.6", label="random init")
        axis.plot(layers, [scale * v for v in layers_of(after, name)], "o-", label=f"epoch {after['epoch']:.0f}")
        axis.set(title=TITLES.get(name, name) + (" (%)" if name == "knn" else ""), xlabel="layer")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    return figure
