"""Positives that are neighbours: what an index found in one epoch decides the pairs of the next."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.positives.base import Positives
from ssl_core.positives.neighbors.local import Index
from ssl_core.positives.neighbors.partners import Found
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed


class NeighborPositives(Positives):
    """Neighbours in feature space: `nearest` and `adasim`."""

    def __init__(self, config: RunConfig, images: Images, index: Index):
        super().__init__(config, images)
        self.index = index
        self._found: Found | None = None  # decides the partners of `_epoch`
        self._epoch = 1

    def partners(self, epoch: int) -> np.ndarray | None:
        return None if self._found is None else self._found.partners

    def send(self, ids: Tensor, features: Tensor) -> None:
        self.index.send(ids.numpy(), features)

    def end_epoch(self, epoch: int) -> None:
        self.index.end_epoch(self._seed(epoch + 1))

    def figures(self, epoch: int) -> dict[str, float]:
        used = self._found
        figures = self._about(None if used is None else used.partners)
        figures["positives/gate_open"] = 0.0 if used is None else used.gate_open / self.num_images
        self._found, means = self.index.collect()
        figures |= {f"positives/{name}": value for name, value in means.items()}
        if self.labels is not None:
            for place in range(2):
                near = self._found.nearest[:, place]
                there = (near >= 0) & (self.labels >= 0) & (self.labels[near] >= 0)
                if there.any():
                    right = self.labels[near[there]] == self.labels[there]
                    figures[f"positives/nn_top{place + 1}"] = float(right.mean())
        return figures

    def settle(self) -> None:
        self.index.settle()

    def save(self, folder: Path, epoch: int, step: int = 0) -> None:
        self.index.save(folder, epoch, step)

    def load(self, folder: Path, epoch: int, step: int = 0) -> None:
        if epoch or step:
            self.index.load(folder, epoch, step, self._seed(epoch + 1))
        if epoch:
            self._found, _ = self.index.collect()

    def _seed(self, epoch: int) -> int:
        return derive_seed(Use.PARTNERS, self.config.seed, epoch)
