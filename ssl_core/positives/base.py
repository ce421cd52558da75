"""Where a positive comes from: for every image of an epoch, the image that the second view is of.

`augment`: the image itself. `labels`: one of its class (the oracle of AdaSim's Table 1). `nearest` and
`adasim`: a neighbour in feature space; each step's features go to an index, and what it found in an
epoch decides the partners of the next.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.positives.neighbors.local import Index, LocalIndex
from ssl_core.schema.run import RunConfig


class Positives:
    """`augment`: every image is its own partner. The base of the others."""

    def __init__(self, config: RunConfig, images: Images):
        self.config, self.labels = config, images.train.labels
        self.num_images = len(images.train)

    def partners(self, epoch: int) -> np.ndarray | None:
        """(N,) int32: each image's partner in `epoch` (from 1); None: itself."""
        return None

    def send(self, ids: Tensor, features: Tensor) -> None:
        """A step of this rank: ids (B,), and what stands for each image (B, D)."""

    def end_epoch(self, epoch: int) -> None:
        """All ranks have sent their last step of `epoch`."""

    def figures(self, epoch: int) -> dict[str, float]:
        """The epoch's `positives/…` metrics, the same on every rank. Waits for what `end_epoch` began."""
        return {}

    def settle(self) -> None:
        """Wait until all that the ranks have sent is taken. Called on all of them."""

    def save(self, folder: Path, epoch: int, step: int = 0) -> None:
        """Write what `load` needs after `epoch` finished epochs and `step` steps.

        Called on rank 0: at the end of each epoch, and at some steps between two ends.
        """

    def load(self, folder: Path, epoch: int, step: int = 0) -> None:
        """Go on after `epoch` finished epochs and `step` steps."""

    def _about(self, partners: np.ndarray | None) -> dict[str, float]:
        """How many pairs are of two images, and how many of those are of one class."""
        if partners is None:
            return {"positives/bootstrap_ratio": 0.0}
        drawn = np.flatnonzero(partners != np.arange(self.num_images, dtype=partners.dtype))
        figures = {"positives/bootstrap_ratio": len(drawn) / self.num_images}
        if self.labels is not None:
            known = drawn[(self.labels[drawn] >= 0) & (self.labels[partners[drawn]] >= 0)]
            if len(known):
                same = self.labels[known] == self.labels[partners[known]]
                figures["positives/same_class"] = float(same.mean())
        return figures


def build(config: RunConfig, images: Images, dim: int, device: torch.device, index: Index | None = None) -> Positives:
    """What `config.positives` describes.

    Args:
        dim: width of the features that will be sent.
        index: where they go; default: an index in this process.
    """
    from ssl_core.positives.labels import LabelPositives  # these stand on this file
    from ssl_core.positives.neighbors.positives import NeighborPositives

    kind = config.positives.kind
    if kind == "augment":
        return Positives(config, images)
    if kind == "labels":
        return LabelPositives(config, images)
    return NeighborPositives(config, images, index or LocalIndex(config.positives, len(images.train), dim, device))
