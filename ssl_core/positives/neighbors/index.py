"""The neighbour index: what stands for each image, searched and rewritten step by step; whom each image is paired with.

Lebailly et al., "Adaptive Similarity Bootstrapping for Self-Distillation", ICCV 2023. One index may hold all
images, or several of them a range each; together they give the same bits as one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.files import as_path
from ssl_core.positives.neighbors.files import (
    lists_file,
    read_cache,
    read_epoch,
    read_steps,
    write_cache,
    write_epoch,
    write_steps,
)
from ssl_core.positives.neighbors.ivf import CellSearch
from ssl_core.positives.neighbors.lists import Lists, Total, empty, merged, nearest_others, spread_of
from ssl_core.positives.neighbors.window import Draw, Window
from ssl_core.search import inner, nearest


class NeighborIndex:
    """Neighbours of images, found while the images go by.

    A list names the `top_k` images whose cache rows have the largest inner product with an image's feature,
    the image itself among them, descending; absent entries have id −1 and similarity 0.

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
        self_similarity_total, spread_total, recall_total: of the last finished epoch, over `rows`: inner products of
            an image's feature with its last one; standard deviations of the similarities in a list; of the exact
            neighbours of some steps, how many an approximate search found.

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
        self.window = Window(self.rows, window, top_k, support)
        self.device = torch.device(device)
        dtype = dtype if self.device.type == "cuda" else torch.float32
        # Rows lie in the order of first visits, from the second epoch on in that of ids: a search needs no mask.
        self._cache = torch.zeros(len(self.rows), dim, dtype=dtype, device=self.device)
        self._ids = np.zeros(len(self.rows), dtype=np.int64)  # of the image in each place of the cache
        self._place = np.full(len(self.rows), -1, dtype=np.int64)  # in the cache, of each of `rows`
        self._count = 0
        self._cells = CellSearch(probes) if search == "ivf" else None
        self.epoch = 0
        self._saved = 0  # files of later epochs may be there, but of a run that was cut off
        self.self_similarity_total: Total = (0.0, 0)
        self.spread_total: Total = (0.0, 0)
        self.recall_total: Total = (0.0, 0)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._lists: Lists = empty(self.num_images, self.top_k)
        self._visited = np.zeros(self.num_images, dtype=bool)
        self._self_similarity = np.full(len(self.rows), np.nan, dtype=np.float32)
        self._changed: list[np.ndarray] = []  # ids of the steps that `save_steps` has not written yet
        self._saved_steps = 0
        self._ended = False

    @property
    def self_similarity(self) -> float | None:
        """Mean inner product of an image's feature with its last one, in the last finished epoch."""
        return _mean(self.self_similarity_total)

    @property
    def spread(self) -> float | None:
        """Mean standard deviation of the similarities in a list, in the last finished epoch."""
        return _mean(self.spread_total)

    @property
    def recall(self) -> float | None:
        """Share of the exact neighbours that an approximate search found in the last finished epoch."""
        return _mean(self.recall_total)

    def update(self, ids: np.ndarray | Tensor, features: np.ndarray | Tensor) -> Lists:
        """One global step: search the cache as it was, then write the features of those images that are in `rows`.

        Args:
            ids: (B,), of any images. If one occurs twice, the last counts.
            features: (B, dim), of any length each.

        Returns:
            The lists of the B images.
        """
        ids = np.asarray(ids, dtype=np.int64)
        features = torch.as_tensor(features).to(self.device, torch.float32)
        if features.shape != (len(ids), self.dim):
            raise ValueError(f"features of shape {tuple(features.shape)}, expected {(len(ids), self.dim)}")
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.num_images:
            raise ValueError(f"ids from {ids.min()} to {ids.max()}; the index is of {self.num_images} images")
        if self._ended:
            self._start_epoch()
        features = F.normalize(features, dim=1).to(self._cache.dtype)
        lists = self._search(features)
        _, back = np.unique(ids[::-1], return_index=True)
        last = len(ids) - 1 - back
        for kept, new in zip(self._lists, lists, strict=True):
            kept[ids[last]] = new[last]
        own = last[(ids[last] >= self.rows.start) & (ids[last] < self.rows.stop)]
        self._write(ids[own] - self.rows.start, features[torch.from_numpy(own).to(self.device)])
        self._visited[ids] = True
        self._changed.append(ids)
        return lists

    def _search(self, queries: Tensor) -> Lists:
        bank, ids = self._cache[: self._count], self._ids[: self._count]
        if self._cells is None or not self._cells.ready:
            lists = nearest(queries, bank, ids, self.top_k)
        else:
            lists = nearest(queries, bank, ids, self.top_k, self._cells.find)
            if self._cells.due(self._visited.mean()):
                self._cells.compare(lists[0], nearest(queries, bank, ids, self.top_k)[0])
        if self.unvisited == "zeros":
            zeros = np.flatnonzero(self._place < 0)[: self.top_k] + self.rows.start
            with_zeros = np.broadcast_to(zeros.astype(np.int32), (len(queries), len(zeros)))
            lists = merged([lists, (with_zeros, np.zeros(with_zeros.shape, np.float32))], self.top_k)
        return lists

    def _write(self, rows: np.ndarray, features: Tensor) -> None:
        """Features (n, dim) of the images `rows.start` + (n,), none of them twice, into the cache."""
        old = self._place[rows] >= 0
        known = self._at(self._place[rows[old]])
        before = self._cache[known]
        self._self_similarity[rows[old]] = inner(features[self._at(np.flatnonzero(old))], before).cpu().numpy()
        new = rows[~old]
        self._place[new] = np.arange(self._count, self._count + len(new))
        self._ids[self._place[new]] = new + self.rows.start
        self._count += len(new)
        places = self._place[rows]
        self._cache.index_copy_(0, self._at(places), features)
        if self._cells is not None and self._cells.ready:
            self._cells.write(places, features)

    def _at(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(self.device)

    def partial(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The running epoch's lists of the images `start` … `stop` − 1 as far as this index knows: from its own rows.

        Between two epochs, those of the one that has ended: shards may end an epoch one after another.

        Returns:
            ids and similarities (n, K), and whether each image was seen in this epoch (n,).
        """
        ids, similarities = self._lists
        return ids[start:stop], similarities[start:stop], self._visited[start:stop]

    def end_epoch(self, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None) -> None:
        """All steps of an epoch have come: its lists enter the window.

        Args:
            parts: of all shards, in any order, what `partial` gives for this index's `rows`; default: its own.
        """
        if self._ended:  # an epoch without a step
            self._start_epoch()
        if parts is None:
            parts = [self.partial(self.rows.start, self.rows.stop)]
        ids, similarities = merged([part[:2] for part in parts], self.top_k)
        if self.stale == "repeat":
            missed = ~parts[0][2]
            last = self.lists() if self.window.epochs else (np.zeros_like(ids), np.zeros_like(similarities))
            ids[missed], similarities[missed] = last[0][missed], last[1][missed]
        self.window.push(ids, similarities)
        self.epoch += 1
        seen = self._self_similarity[~np.isnan(self._self_similarity)]
        self.self_similarity_total = float(seen.sum(dtype=np.float64)), len(seen)
        self.recall_total = (0.0, 0) if self._cells is None else self._cells.total()
        self._settle()
        self._ended = True

    def _settle(self) -> None:
        """What follows from the state between two epochs."""
        self.spread_total = spread_of(*self.lists()) if self.epoch else (0.0, 0)
        self._sort()
        if self._cells is not None:
            self._cells.build(self._cache[: self._count])

    def _sort(self) -> None:
        """The cache in the order of ids."""
        order = np.argsort(self._ids[: self._count])
        if (order[1:] > order[:-1]).all():
            return
        at = self._at(order)
        for columns in self._cache[: self._count].split(32, dim=1):  # a copy of all of them would double the memory
            columns.copy_(columns[at])
        self._ids[: self._count] = self._ids[order]
        self._place[self._ids[: self._count] - self.rows.start] = np.arange(self._count)

    def lists(self) -> Lists:
        """The lists of `rows` from the last finished epoch, over all shards."""
        if not self.window.epochs:
            raise RuntimeError("no epoch is finished: there are no lists yet")
        return self.window.epochs[-1]

    def nearest(self) -> np.ndarray:
        """The two nearest others of each of `rows`, in the last finished epoch: (n, 2) int32, −1 for none."""
        return nearest_others(self.lists()[0], np.arange(self.rows.start, self.rows.stop))

    def distribution(self, ids: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the partners of some of `rows` are drawn from: see `Window.distribution`."""
        return self.window.distribution(ids, tau)

    def draw(self, tau: float, seed: int) -> Draw:
        """A partner for each of `rows`; the image itself before `window` epochs are finished, and where τ is 0.

        Args:
            seed: an image's draw depends on this and on its id, not on the shard that holds it.
        """
        uniform = np.random.Generator(np.random.Philox(seed)).random(self.num_images)
        return self.window.draw(tau, uniform[self.rows.start : self.rows.stop])

    def save(self, folder: Path | str, epoch: int | None = None) -> None:
        """Write what `load` needs: the cache, and the lists of the window as far as they are new. Not for shards.

        Args:
            epoch: the number of the last finished epoch in the names of files; default: `self.epoch`.
        """
        epoch = self.epoch if epoch is None else epoch
        for number, lists in zip(self._window_epochs(epoch), self.window.epochs, strict=True):
            if number > self._saved or not lists_file(as_path(folder), number).exists():
                write_epoch(folder, number, *lists)
        self._saved = epoch
        self.save_cache(folder, epoch)

    def save_cache(self, folder: Path | str, epoch: int | None = None) -> None:
        """Write the cache rows of `rows`. Shards save theirs into one folder, and their `lists()` by `write_epoch`."""
        cache = self._cache[: self._count]
        half = cache.dtype == torch.float16
        saved = np.full((len(self.rows), self.dim), np.nan, dtype=np.float16 if half else np.float32)
        saved[self._ids[: self._count] - self.rows.start] = (cache if half else cache.float()).cpu().numpy()
        write_cache(folder, self.epoch if epoch is None else epoch, self.rows.start, saved)

    def save_steps(self, folder: Path | str, step: int) -> None:
        """Write what has changed since the last call, or since the epoch began, up to its `step`-th step.

        `load` needs it beside what was saved when the last epoch ended. Shards write theirs into one folder.
        """
        if step == self._saved_steps:
            return
        ids = np.concatenate(self._changed)
        _, first = np.unique(ids, return_index=True)
        ids = ids[np.sort(first)]
        own = ids[(ids >= self.rows.start) & (ids < self.rows.stop)] - self.rows.start
        arrays = {
            "ids": ids,
            "near": self._lists[0][ids],
            "similarities": self._lists[1][ids],
            "features": self._cache[self._at(self._place[own])].float().cpu().numpy(),
            "self_similarity": self._self_similarity[own],
        }
        if self._cells is not None:
            arrays["recall"] = self._cells.counts
        write_steps(folder, self.epoch, self._saved_steps, step, self.rows, arrays)
        self._saved_steps = step
        self._changed.clear()

    def _load_steps(self, folder: Path | str, step: int) -> None:
        """What `save_steps` of one index or any number of shards has written."""
        counts = np.zeros(3, dtype=np.int64)
        for parts in read_steps(folder, self.epoch, step, self.num_images):
            ids, found = parts[0]["ids"], []
            for part in parts:
                start, stop = part["rows"]
                written = ids[(ids >= start) & (ids < stop)]
                own = (written >= self.rows.start) & (written < self.rows.stop)
                rows = written[own] - self.rows.start
                self._write(rows, torch.from_numpy(part["features"][own]).to(self.device, self._cache.dtype))
                self._self_similarity[rows] = part["self_similarity"][own]
                if start in self.rows:
                    found.append((part["near"], part["similarities"]))
                    counts = part.get("recall", counts)
            self._visited[ids] = True
            if found:
                self._lists[0][ids], self._lists[1][ids] = merged(found, self.top_k)
        if self._cells is not None:
            self._cells.counts = counts
        self._saved_steps = step

    def load(self, folder: Path | str, epoch: int, step: int = 0) -> None:
        """The state after `epoch` finished epochs and `step` steps, as one index or any number of shards have saved it.

        Raises:
            InputError: files are missing or damaged, or of another number of images, width or `top_k`.
        """
        self._start_epoch()
        self.epoch = self._saved = epoch
        self.window.epochs.clear()
        for number in range(max(1, epoch - self.window.size + 1), epoch + 1):
            self.window.push(*read_epoch(folder, number, self.num_images, self.top_k, self.rows))
        self._count, start = 0, 0
        self._place.fill(-1)
        for part in read_cache(folder, epoch, self.num_images, self.dim, self.rows) if epoch else ():
            visited = np.flatnonzero(~np.isnan(part[:, 0]))
            places = np.arange(self._count, self._count + len(visited))
            self._cache[self._count : self._count + len(visited)] = torch.from_numpy(part[visited])
            self._ids[places] = start + visited + self.rows.start
            self._place[start + visited] = places
            self._count += len(visited)
            start += len(part)
        self.self_similarity_total = self.recall_total = (0.0, 0)
        self._settle()
        if step:
            self._load_steps(folder, step)

    def _window_epochs(self, epoch: int) -> range:
        return range(epoch - len(self.window.epochs) + 1, epoch + 1)


def _mean(total: Total) -> float | None:
    return total[0] / total[1] if total[1] else None
