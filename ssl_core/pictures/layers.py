"""Pictures of an encoder's layers: how alike they are, where images lie in them, what they see of an image."""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ssl_core.data.views import denormalise

WRITTEN = 14  # layers up to which a heat map has its numbers written in


def cka_picture(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """A heat map of the CKA of layers (La, Lb), from 0 to 1, the first layers at the lower left (SDSSL, Fig. 6).

    Args:
        rows, columns: names of the layers.
    """
    height, width = matrix.shape
    figure, axis = plt.subplots(
        figsize=(max(4.0, 2.0 + 0.42 * width), max(3.4, 1.4 + 0.42 * height)), layout="constrained"
    )
    picture = axis.imshow(matrix, origin="lower", cmap="magma", vmin=0.0, vmax=1.0)
    axis.set_xticks(range(width), columns)
    axis.set_yticks(range(height), rows)
    axis.set(title=title, xlabel="layer", ylabel="layer")
    if max(matrix.shape) <= WRITTEN:
        for (row, column), value in np.ndenumerate(matrix):
            colour = "black" if value > 0.6 else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(picture, label="CKA")
    return figure


def projection_picture(
    points: Mapping[int, np.ndarray], groups: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """Images as points on a plane, a panel a layer (SDSSL, Fig. 5).

    Args:
        points: by layer, (N, 2).
        groups: (N,) a number into `names`, or −1 for a point in grey.
    """
    columns = min(4, len(points))
    rows = -(-len(points) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns + 1.4, 2.9 * rows + 0.5), layout="constrained", squeeze=False
    )
    colours = plt.get_cmap("tab10")
    shades = [colours(int(group) % 10) if group >= 0 else (0.8, 0.8, 0.8, 1.0) for group in groups]
    for axis, (layer, place) in zip(axes.flat, points.items(), strict=False):
        axis.scatter(place[:, 0], place[:, 1], c=shades, s=5, linewidths=0)
        axis.set(title=f"layer {layer}", xticks=[], yticks=[])
    for axis in axes.flat[len(points) :]:
        axis.set_axis_off()
    marks = [
        plt.Line2D([], [], marker="o", linestyle="", color=colours(number % 10), label=name[:24])
        for number, name in enumerate(names)
    ]
    figure.legend(handles=marks, loc="outside right upper", frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def patch_picture(images: Tensor, panels: Mapping[str, np.ndarray], title: str) -> Figure:
    """Images in rows, and what was found of their patches beside them.

    Args:
        images: normalised, (N, C, H, W).
        panels: title → colours (N, rows, columns, 3), or values (N, rows, columns), each image on a scale of its own.
    """
    count = 1 + len(panels)
    figure, axes = plt.subplots(
        len(images), count, figsize=(1.25 * count + 0.2, 1.25 * len(images) + 0.7), squeeze=False, layout="constrained"
    )
    pixels = denormalise(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    for place, (name, pictures) in enumerate({"image": pixels, **panels}.items()):
        axes[0][place].set_title(name, fontsize=7)
        for axis, picture in zip(axes[:, place], pictures, strict=True):
            axis.imshow(picture, cmap="magma")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=9)
    return figure


def class_picture(values: Mapping[str, np.ndarray], title: str) -> Figure:
    """A bar for every class and way, of shares (C,) by the way's name; none for NaN."""
    count = len(next(iter(values.values())))
    figure, axis = plt.subplots(figsize=(min(24.0, max(5.0, 1.5 + 0.3 * count)), 3.4), layout="constrained")
    width = 0.8 / len(values)
    for number, (name, shares) in enumerate(values.items()):
        axis.bar(np.arange(count) + (number - (len(values) - 1) / 2) * width, 100 * shares, width, label=name)
    axis.set(title=title, xlabel="class", ylabel="%")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
