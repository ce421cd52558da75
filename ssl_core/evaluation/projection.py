"""Where images lie in a layer's features, on paper: PCA to a few dimensions, then t-SNE to two (SDSSL, Fig. 5).

Ten classes have colours; without labels, ten clusters of the last layer shown have, so that each panel tells how far
its layer has what the last one ends with.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from ssl_core.data.sources.base import Images, Source
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import chosen
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import ProjectionConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = 10  # classes, or clusters, with a colour
COMPONENTS = 50  # that PCA leaves to t-SNE, as its authors advise
PERPLEXITY = 30.0
FEWEST = 10  # images that a map says something about


class Projection(Evaluator[ProjectionConfig]):
    """A panel a layer; all of it on rank 0, when pictures are asked for."""

    @classmethod
    def check(cls, config: ProjectionConfig, images: Images) -> None:
        count = len(_shown(getattr(images, images.measured), config.max_images))
        if count < FEWEST:
            raise InputError(
                f"projection needs {FEWEST} images at least, in val or, where there is none, in train; got {count}"
            )

    def pictures(self) -> dict[str, "Figure"]:
        from ssl_core.pictures.layers import projection_picture

        split = self.context.images.measured
        source: Source = getattr(self.context.images, split)
        layers = tuple(layers_measured(self.config, self.context.depth))
        ids, features = [], {layer: list[Tensor]() for layer in layers}
        for used, _, found in self.context.batches(split, _shown(source, self.config.max_images), Want(pooled=layers)):
            ids.append(used)
            for layer in layers:
                features[layer].append(found.pooled[layer].float().cpu())
        points = {}
        for number, layer in enumerate(layers):
            points[layer] = project(torch.cat(features[layer]).numpy())
            self.context.tell("t-SNE of layers", number + 1, len(layers))
        colours, names = _groups(source, np.concatenate(ids), torch.cat(features[layers[-1]]).numpy())
        return {"tsne": projection_picture(points, colours, names, "t-SNE of each layer's features")}


def project(features: np.ndarray) -> np.ndarray:
    """Features (N, D) on a plane, (N, 2): the same for the same features."""
    x = features.astype(np.float64)
    x -= x.mean(axis=0)
    if np.abs(x).max() <= 1e-7 * np.abs(features).max():
        return np.zeros((len(x), 2))  # all images are the same to this layer
    count = min(COMPONENTS, *x.shape)
    rough = PCA(count, svd_solver="full").fit_transform(x)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    start = "pca" if count > 1 else "random"
    return TSNE(2, perplexity=perplexity, init=start, random_state=0).fit_transform(rough / rough[:, 0].std())


def _shown(source: Source, limit: int) -> np.ndarray:
    """At most `limit` images, always the same ones: of the classes with most images, where there are labels."""
    if source.labels is None or not (source.labels >= 0).any():
        return chosen(source, limit)
    counts = np.bincount(source.labels[source.labels >= 0])
    largest = np.argsort(-counts, kind="stable")[:GROUPS]
    indices = chosen(source, len(source))
    return indices[np.isin(source.labels[indices], largest)][:limit]


def _groups(source: Source, ids: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which group each image is of (−1: of none that has a colour), and what the groups are called."""
    if source.labels is not None and (source.labels[ids] >= 0).any():
        there = np.unique(source.labels[ids])
        there = there[there >= 0][:GROUPS]
        groups = np.full(len(ids), -1)
        for number, label in enumerate(there):
            groups[source.labels[ids] == label] = number
        return groups, [str(source.classes[label]) for label in there]
    count = min(GROUPS, len(np.unique(features, axis=0)))
    groups = KMeans(count, n_init=4, random_state=0).fit_predict(features)
    return groups, [f"cluster {number + 1}" for number in range(count)]
