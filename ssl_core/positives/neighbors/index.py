"""The neighbour index: what stands for each image, searched and rewritten step by step; whom each image is paired with.

Lebailly et al., "Adaptive Similarity Bootstrapping for Self-Distillation", ICCV 2023. One index may hold all
images, or several of them a range each; together they give the same bits as one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.positives.neighbors.cache import Cache
from ssl_core.positives.neighbors.ivf import CellSearch
from ssl_core.positives.neighbors.lists import Lists, merged, nearest_others, spread_of
from ssl_core.positives.neighbors.running import RunningEpoch, last_of
from ssl_core.positives.neighbors.signals import Signals
from ssl_core.positives.neighbors.window import Draw, Window


class NeighborIndex:
    """Neighbours of images, found while the images go by.

    A list names the `top_k` images whose cache rows have the largest inner product with an image's feature,
    the image itself among them, descending; absent entries have id −1 and similarity 0. `saving` writes an index down.

    Args:
        num_images: N; images have the ids 0 … N − 1.
        dim: width of a feature.
        top_k: K, neighbours of an image; it may be larger than N.
        window: w, the finished epochs that count in a draw.
        support: draw from the K largest sums ("topk", published code), or from all ("union", Eq. 11).
        unvisited: images without a feature yet are left out ("skip"), or have zero features ("zeros", published code).
        stale: an image not seen in an epoch adds nothing ("drop"), or its last list ("repeat", published code).
        search: "exact", or approximate among `probes` cells of an inverted file ("ivf"), for millions of images.
        rows: ids whose features and windows this index holds: a shard; default: all.
        device: of the cache, and of the search.
        dtype: of the cache on a GPU; on a CPU it is float32.

    Attributes:
        epoch: how many epochs are finished.
        saved: how many of them are written down.
        cache: what stands for each of `rows`.
        window: the lists of `rows` of the last epochs.
        running: the epoch that has begun, or the one that has ended last.
        signals: of the last finished epoch, over `rows`.

    Raises:
        InputError: search="ivf" without FAISS.
    """

    def __init__(
        self,
        num_images: int,
        dim: int,
        *,
        top_k: int = 3,
        window: int = 10,
        support: Literal["topk", "union"] = "topk",
        unvisited: Literal["skip", "zeros"] = "skip",
        stale: Literal["drop", "repeat"] = "drop",
        search: Literal["exact", "ivf"] = "exact",
        probes: int = 32,
        rows: range | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.num_images, self.dim, self.top_k = num_images, dim, top_k
        self.unvisited, self.stale = unvisited, stale
        self.rows = range(num_images) if rows is None else rows
        cells = CellSearch(probes) if search == "ivf" else None
        self.cache = Cache(self.rows, dim, torch.device(device), dtype, cells)
        self.window = Window(self.rows, window, top_k, support)
        self.restart(epoch=0)

    def restart(self, epoch: int) -> None:
        """Before the first step after `epoch` finished epochs, whose lists and features the caller brings."""
        self.epoch = self.saved = epoch  # files of later epochs may be there, but of a run that was cut off
        self.window.epochs.clear()
        self.signals = Signals()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.running = RunningEpoch(self.num_images, self.rows, self.top_k)

    def update(self, ids: np.ndarray | Tensor | Sequence[int], features: np.ndarray | Tensor) -> Lists:
        """One global step: search the cache as it was, then write the features of those images that are in `rows`.

        Args:
            ids: (B,), of any images. If one occurs twice, the last counts.
            features: (B, dim), of any length each.

        Returns:
            The lists of the B images.
        """
        ids = np.asarray(ids, dtype=np.int64)
        features = torch.as_tensor(features).to(self.cache.device, torch.float32)
        if features.shape != (len(ids), self.dim):
            raise ValueError(f"features of shape {tuple(features.shape)}, expected {(len(ids), self.dim)}")
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.num_images:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}; the index is of {self.num_images} images")
        if self.running.ended:
            self._begin_epoch()
        features = F.normalize(features, dim=1).to(self.cache.dtype)
        lists = self._search(features)
        self.running.add(ids, lists)
        last = last_of(ids)
        own = last[(ids[last] >= self.rows.start) & (ids[last] < self.rows.stop)]
        similarity = self.cache.write(ids[own], features[torch.from_numpy(own).to(features.device)])
        self.running.self_similarity[ids[own] - self.rows.start] = similarity
        return lists

    def _search(self, queries: Tensor) -> Lists:
        lists = self.cache.nearest(queries, self.top_k, self.running.progress)
        if self.unvisited == "zeros":
            zeros = self.cache.unvisited(self.top_k)
            with_zeros = np.broadcast_to(zeros.astype(np.int32), (len(queries), len(zeros)))
            lists = merged([lists, (with_zeros, np.zeros(with_zeros.shape, np.float32))], self.top_k)
        return lists

    def partial(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The running epoch's lists of the images `start` … `stop` − 1 as far as this index knows: from its own rows.

        Between two epochs, those of the one that has ended: shards may end an epoch one after another.

        Returns:
            ids and similarities (n, K), and whether each image was seen in this epoch (n,).
        """
        ids, similarities = self.running.lists
        return ids[start:stop], similarities[start:stop], self.running.visited[start:stop]

    def end_epoch(self, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None) -> None:
        """All steps of an epoch have come: its lists enter the window.

        Args:
            parts: of all shards, in any order, what `partial` gives for this index's `rows`; default: its own.
        """
        if self.running.ended:  # an epoch without a step
            self._begin_epoch()
        if parts is None:
            parts = [self.partial(self.rows.start, self.rows.stop)]
        ids, similarities = merged([part[:2] for part in parts], self.top_k)
        if self.stale == "repeat":
            missed = ~parts[0][2]
            last = self.lists() if self.window.epochs else (np.zeros_like(ids), np.zeros_like(similarities))
            ids[missed], similarities[missed] = last[0][missed], last[1][missed]
        self.window.push(ids, similarities)
        self.epoch += 1
        self.signals = Signals(self_similarity=self.running.similarity_total(), recall=self.cache.end_epoch())
        self.running.ended = True
        self.settle()

    def settle(self) -> None:
        """What follows from the state between two epochs."""
        self.signals = replace(self.signals, spread=spread_of(*self.lists()) if self.epoch else (0.0, 0))
        self.cache.sort()

    def lists(self) -> Lists:
        """The lists of `rows` from the last finished epoch, over all shards."""
        if not self.window.epochs:
            raise RuntimeError("no epoch is finished: there are no lists yet")
        return self.window.epochs[-1]

    def nearest(self) -> np.ndarray:
        """The two nearest others of each of `rows`, in the last finished epoch: (n, 2) int32, −1 for none."""
        return nearest_others(self.lists()[0], np.arange(self.rows.start, self.rows.stop))

    def draw(self, tau: float, seed: int) -> Draw:
        """A partner for each of `rows`; the image itself before `window` epochs are finished, and where τ is 0.

        Args:
            seed: an image's draw depends on this and on its id, not on the shard that holds it.
        """
        uniform = np.random.Generator(np.random.Philox(seed)).random(self.num_images)
        return self.window.draw(tau, uniform[self.rows.start : self.rows.stop])
