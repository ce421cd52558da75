"""Pictures of a run: what it did to the loss, to every layer, and how far it came."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_core.data.sources.base import BrokenImage, Source, read_image
from ssl_core.data.views import to_channels
from ssl_core.errors import DataError, InputError
from ssl_core.evaluation.metrics import by_layer, known, layers_of, title_of
from ssl_core.files import write_atomically

Record = Mapping[str, float]
PICTURE_COLUMNS, TILE = 10, 128  # of a picture of neighbours: how many; pixels of each
SHOWN = 8  # images of a picture that nobody chose


def draw_plots(history: Sequence[Record], folder: Path) -> list[Path]:
    """All pictures that the history gives, as PNG files in `folder`."""
    trained = [record for record in history if "loss" in record]
    evaluated = [record for record in history if by_layer(record)]
    figures = {}
    if trained:
        figures["loss"] = _loss_and_schedules(trained)
    for name, metric in by_layer(evaluated[-1]).items() if evaluated else ():
        if metric.higher:
            figures[f"{name}_by_layer"] = _heat_map([r for r in evaluated if layers_of(r, name)], name)
    if any(name.startswith("positives/") for record in trained for name in record):
        figures["positives"] = _positives(trained)
    if len(evaluated) > 1:
        figures["before_after"] = _before_after(evaluated[0], evaluated[-1])
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def save_figure(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: figure.savefig(file, dpi=120, format="png"))
    plt.close(figure)
    return path


def _loss_and_schedules(records: Sequence[Record]) -> Figure:
    schedules = [name for name in ("alpha", "lr", "weight_decay", "momentum") if name in records[-1]]
    figure, axes = plt.subplots(1, 1 + len(schedules), figsize=(4.5 + 2.6 * len(schedules), 3.4), layout="constrained")
    axes = np.atleast_1d(axes)
    parts = _parts_of_loss(records[-1])
    for name in parts if len(parts) == 1 else ["loss", *parts]:  # a loss of one part is that part
        _line(axes[0], records, name, label=name)
    axes[0].set(title="loss and its parts", xlabel="epoch")
    first = parts[0] if parts else "loss"
    if max(r["loss"] for r in records) > 4 * min(r[first] for r in records) > 0:
        axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], schedules, strict=True):
        _line(axis, records, name)
        axis.set(title=known(name).title, xlabel="epoch")
    return figure


def _parts_of_loss(record: Record) -> list[str]:
    """What a loss adds up from: its layers, its targets, or several objectives, each of which has parts of its own."""
    parts = [name for name in record if name.startswith("loss/")]
    objectives = [name for name in parts if any(part.startswith(f"{name}/") for part in parts)]
    targets = sorted(name for name in parts if name.startswith("loss/target_"))
    return objectives or targets or parts


def _line(axis: Axes, records: Sequence[Record], name: str, label: str | None = None) -> None:
    axis.plot([r["epoch"] for r in records], [r[name] for r in records], marker=".", label=label)
    axis.spines[["top", "right"]].set_visible(False)


def _positives(records: Sequence[Record]) -> Figure:
    """How far pairs were drawn from neighbours, and how good these were (AdaSim, Fig. 3)."""
    there = {
        title: [name for name in names if any(f"positives/{name}" in record for record in records)]
        for title, names in {
            "share of images": ("bootstrap_ratio", "gate_open"),
            "same class": ("same_class", "nn_top1", "nn_top2"),
            "similarity to itself": ("self_similarity",),
            "spread of similarities": ("spread",),
            "recall of the search": ("recall",),
        }.items()
    }
    panels = {title: names for title, names in there.items() if names}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), layout="constrained", squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            known = [record for record in records if f"positives/{name}" in record]
            _line(axis, known, f"positives/{name}", label=name.replace("_", " "))
        axis.set(title=title, xlabel="epoch")
        if len(names) > 1:
            axis.legend(frameon=False)
    return figure


def _heat_map(records: Sequence[Record], name: str) -> Figure:
    numbers = list(layers_of(records[-1], name))
    values = np.array([[layers_of(record, name).get(layer, np.nan) for record in records] for layer in numbers])
    layers, columns = values.shape
    figure, axis = plt.subplots(
        figsize=(max(5, 1.5 + 0.6 * columns), max(3, 1.4 + 0.32 * layers)), layout="constrained"
    )
    shown = 100 * values if known(f"{name}/last").is_share else values
    picture = axis.imshow(shown, aspect="auto", origin="lower", cmap="viridis")
    axis.set_yticks(range(layers), [str(layer) for layer in numbers])
    step = max(1, columns // 16)
    axis.set_xticks(range(0, columns, step), [f"{record['epoch']:.0f}" for record in records][::step])
    axis.set(title=f"{title_of(name)} by layer over epochs", xlabel="epoch", ylabel="layer")
    if values.size <= 200:
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for (layer, column), value in np.ndenumerate(shown):
            colour = "black" if value > middle else "white"
            axis.text(column, layer, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, label="%" if known(f"{name}/last").is_share else None)
    return figure


def _before_after(before: Record, after: Record) -> Figure:
    names = [name for name in by_layer(after) if name in by_layer(before)]
    figure, axes = plt.subplots(1, len(names), figsize=(3.0 * len(names), 3.2), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        scale = 100 if known(f"{name}/last").is_share else 1
        for record, style, label in ((before, "o--", "random init"), (after, "o-", f"epoch {after['epoch']:.0f}")):
            values = layers_of(record, name)
            colour = {"color": "0.6"} if record is before else {}
            axis.plot(list(values), [scale * value for value in values.values()], style, label=label, **colour)
        axis.set(title=title_of(name) + (" (%)" if known(f"{name}/last").is_share else ""), xlabel="layer")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    return figure


def neighbor_picture(
    source: Source, queries: np.ndarray, ids: np.ndarray, probabilities: np.ndarray, gate: np.ndarray, title: str
) -> Figure:
    """Images and their neighbours in order, each with its probability as a bar (AdaSim, Fig. 1).

    Args:
        queries: (B,) images of `source`; ids, probabilities: (B, S), in order; id −1 for none.
        gate: (B,) whether a partner is drawn; where not, the image is its own.

    A neighbour with another label than its query has a red frame.
    """
    columns = max(2, 1 + int((ids[:, :PICTURE_COLUMNS] >= 0).sum(1).max(initial=1)))
    rows = len(queries)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns + 0.9, 1.35 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, query in enumerate(queries):
        draw_tile(axes[row][0], source, query)
        state = "drawn" if gate[row] else "gate shut" if (ids[row] >= 0).any() else "not seen of late"
        axes[row][0].set_title(f"image {query}\n{state}", fontsize=7)
        for column, (near, probability) in enumerate(zip(ids[row], probabilities[row], strict=True), start=1):
            if near < 0 or column >= columns:
                break
            axis = axes[row][column]
            draw_tile(axis, source, near)
            axis.set_title(f"{'itself' if near == query else f'image {near}'}\n{probability:.2f}", fontsize=7)
            axis.barh(0.03, probability, 0.06, color="tab:green", align="center", transform=axis.transAxes)
            frame_if_other(axis, label_of(source, near), label_of(source, query))
    figure.suptitle(title, fontsize=9)
    return figure


def label_of(source: Source, index: int) -> int:
    """An image's class number; −1 where it has none."""
    return -1 if source.labels is None else int(source.labels[index])


def frame_if_other(axis: Axes, label: int, other: int) -> None:
    """A red frame around an image that is known to be of another class than the one beside it."""
    if label >= 0 and other >= 0 and label != other:
        frame: dict[str, Any] = {"fill": False, "edgecolor": "tab:red", "linewidth": 3, "transform": axis.transAxes}
        axis.add_patch(plt.Rectangle((0, 0), 1, 1, **frame))


def mask_picture(columns: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray], title: str) -> Figure:
    """Images, what the student saw of them, and how far off its predictions of the rest are.

    Args:
        columns: title → pictures (B, H, W, 3) uint8.
        errors: title → error maps (B, rows, columns), NaN for what was seen; all on one scale.
    """
    images, count = len(next(iter(columns.values()))), len(columns) + len(errors)
    figure, axes = plt.subplots(
        images, count, figsize=(1.25 * count + 0.9, 1.25 * images + 0.7), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for place, (name, pictures) in enumerate(columns.items()):
        axes[0][place].set_title(name, fontsize=7)
        for axis, picture in zip(axes[:, place], pictures, strict=True):
            axis.imshow(picture)
    highest = max(float(np.nanmax(maps)) for maps in errors.values())
    for place, (name, maps) in enumerate(errors.items(), start=len(columns)):
        axes[0][place].set_title(f"{name}\nmean {np.nanmean(maps):.2f}", fontsize=7)
        for axis, values in zip(axes[:, place], maps, strict=True):
            shown = axis.imshow(values, cmap="magma", vmin=0, vmax=highest)
            axis.set_facecolor("0.9")
    figure.colorbar(shown, ax=axes[:, -1], label="loss of a patch", shrink=0.6)
    figure.suptitle(title, fontsize=9)
    return figure


def draw_tile(axis: Axes, source: Source, index: int) -> None:
    try:
        image = read_image(source, int(index), partial(to_channels, channels=3))
    except (BrokenImage, DataError):
        axis.text(0.5, 0.5, "broken", ha="center", va="center", transform=axis.transAxes)
        return
    image.thumbnail((TILE, TILE))
    axis.imshow(np.asarray(image))


def some_images(source: Source) -> list[int]:
    """Images for a picture, where nobody chose any: always the same."""
    return sorted(np.random.default_rng(0).permutation(len(source))[:SHOWN].tolist())


def find_images(source: Source, names: Sequence[str]) -> list[int]:
    """Images by number, or by how their file's name ends.

    Raises:
        InputError: no such image.
    """
    found = []
    for name in names:
        if name.isdigit():
            if int(name) >= len(source):
                raise InputError(f"--image: {name} of {len(source)} images, which are numbered from 0")
            found.append(int(name))
            continue
        match = next((index for index in range(len(source)) if source.where(index).endswith(name)), None)
        if match is None:
            raise InputError(f"--image: no training image whose name ends in {name}; a number will do as well")
        found.append(match)
    return found
