"""What an encoder takes for alike: images with those nearest to them, and the images that it is furthest off with."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ssl_core.data.sources.base import Source
from ssl_core.evaluation.features import Context
from ssl_core.pictures.run import draw_tile, frame_if_other, label_of, save_figure
from ssl_core.search import top_k

SHOWN, NEAR = 8, 7  # images of a picture; those nearest to each
BANK, QUERIES = 5_000, 1_000  # images looked at, at most
VOTERS, TEMPERATURE = 20, 0.07  # of the k-NN that says which are the worst


def draw_nearest(context: Context, layer: int, folder: Path) -> dict[str, Path]:
    """Pictures by title: some images and those of train nearest to them; the worst ones, and what they are taken for.

    The worst are, with labels, those whose own class gets the smallest share of the votes; without, those
    that are least like any other image.

    Args:
        layer: from 1.
    """
    split = context.images.measured
    source, bank_source = getattr(context.images, split), context.images.train
    bank_ids, bank_layers = context.features("train", BANK)
    query_ids, query_layers = context.features(split, QUERIES)
    bank, queries = (F.normalize(x[layer - 1].float(), dim=1) for x in (bank_layers, query_layers))
    own = split == "train"
    similarities, near = _nearest(queries, bank, query_ids if own else None, bank_ids)
    labelled = context.images.labelled
    badness = _doubt(similarities, near, query_ids, bank_ids, context) if labelled else 1.0 - similarities[:, 0]
    worst = badness.argsort(descending=True)[:SHOWN]
    some = torch.arange(min(SHOWN, len(queries)))
    title = "least like any other" if not labelled else "furthest off, by the labels of the nearest"
    found = {}
    for name, rows, said in (("nearest", some, "some images and the nearest to them"), ("worst", worst, title)):
        figure = _picture(
            source, query_ids[rows], bank_source, bank_ids[near[rows]], similarities[rows], f"layer {layer}: {said}"
        )
        found[said] = save_figure(figure, folder / f"{name}.png")
    return found


def _nearest(queries: Tensor, bank: Tensor, own: np.ndarray | None, ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Similarities and rows of `bank` of the nearest to each query, without the image itself: (B, K) each."""
    k = min(VOTERS + (own is not None), len(bank))
    similarities, near = top_k(queries, bank, k)
    if own is None or k < 2:
        return similarities, near
    itself = torch.from_numpy(ids)[near] == torch.from_numpy(own)[:, None]
    order = itself.int().argsort(dim=1, stable=True)[:, : k - 1]  # itself last, and left out
    return similarities.gather(1, order), near.gather(1, order)


def _doubt(similarities: Tensor, near: Tensor, queries: np.ndarray, bank: np.ndarray, context: Context) -> Tensor:
    """Of each image, the share of the votes of its nearest that its own class does not get; −1 without a label."""
    images = context.images
    assert images.val is not None and images.val.labels is not None and images.train.labels is not None  # noqa: PT018
    labels, of_bank = (torch.from_numpy(x) for x in (images.val.labels[queries], images.train.labels[bank]))
    votes = (similarities / TEMPERATURE).softmax(dim=1)
    share = (votes * (of_bank[near] == labels[:, None])).sum(dim=1)
    return torch.where(labels >= 0, 1.0 - share, -1.0)


def _picture(
    source: Source, queries: np.ndarray, bank: Source, near: np.ndarray, similarities: Tensor, title: str
) -> Figure:
    columns, rows = 1 + min(NEAR, near.shape[1]), len(queries)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns + 0.4, 1.4 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, query in enumerate(queries):
        draw_tile(axes[row][0], source, int(query))
        axes[row][0].set_title(f"image {query}\n{_label(source, int(query))}", fontsize=7)
        for column in range(1, columns):
            image, axis = int(near[row][column - 1]), axes[row][column]
            draw_tile(axis, bank, image)
            axis.set_title(f"{_label(bank, image)}\n{similarities[row, column - 1]:.2f}", fontsize=7)
            frame_if_other(axis, label_of(bank, image), label_of(source, int(query)))
    figure.suptitle(f"{title} (cosine; red: another label)", fontsize=9)
    return figure


def _label(source: Source, index: int) -> str:
    label = label_of(source, index)
    return "" if label < 0 else str(source.classes[label])[:16]
