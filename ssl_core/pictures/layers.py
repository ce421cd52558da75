"""Pictures of an encoder's layers: how alike they are, where images lie in them, what they see of an image."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

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
