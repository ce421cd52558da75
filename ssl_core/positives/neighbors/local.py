"""The neighbour index as a training rank sees it, and the one that lives in its process."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.positives.neighbors import saving
from ssl_core.positives.neighbors.index import NeighborIndex
from ssl_core.positives.neighbors.partners import Found, find_partners, index_options
from ssl_core.positives.neighbors.signals import Signals
from ssl_core.schema.positives import PositivesConfig


class Index(Protocol):
    """The neighbour index as a training rank sees it: in this process, or behind actors."""

    def send(self, ids: np.ndarray, features: Tensor) -> None:
        """This rank's part (B,), (B, D) of a global step. May return before it is searched."""

    def end_epoch(self, seed: int) -> None:
        """All ranks have sent their last step of an epoch. May return before the partners are drawn."""

    def collect(self) -> tuple[Found, dict[str, float]]:
        """What was found for all images, and the signals' means. Waits for it."""

    def settle(self) -> None:
        """Wait until all that the ranks have sent is searched. Called on all of them."""

    def save(self, folder: Path, epoch: int, step: int) -> None:
        """What `load` needs, after `epoch` finished epochs and `step` steps; called on rank 0, after each epoch too."""

    def load(self, folder: Path, epoch: int, step: int, seed: int) -> None:
        """The state after `epoch` finished epochs and `step` steps, and the draw for the running one under way."""


class LocalIndex:
    """An index in this process; with several ranks, every one keeps the whole of it."""

    def __init__(self, config: PositivesConfig, num_images: int, dim: int, device: torch.device | str = "cpu"):
        self.config = config
        self.index = NeighborIndex(num_images, dim, device=device, **index_options(config))

    def send(self, ids: np.ndarray, features: Tensor) -> None:
        every_id = distributed.all_gather(torch.as_tensor(ids, device=features.device))
        self.index.update(every_id.cpu().numpy(), distributed.all_gather(features))

    def end_epoch(self, seed: int) -> None:
        self.index.end_epoch()
        self._seed = seed

    def collect(self) -> tuple[Found, dict[str, float]]:
        means = Signals.means([self.index.signals])
        return find_partners(self.index, self.config, means, self._seed), means

    def settle(self) -> None: ...

    def save(self, folder: Path, epoch: int, step: int) -> None:
        if step:
            saving.save_steps(self.index, folder, step)
        elif epoch:
            saving.save(self.index, folder)

    def load(self, folder: Path, epoch: int, step: int, seed: int) -> None:
        saving.load(self.index, folder, epoch, step)
        self._seed = seed
