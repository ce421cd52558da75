"""What stands for each image: its last feature, searched as it is and rewritten step by step."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ssl_core.positives.neighbors.ivf import CellSearch
from ssl_core.positives.neighbors.lists import Lists, Total
from ssl_core.search import inner, nearest


class Cache:
    """A feature of unit length for each image of `rows` that was seen.

    Features lie in the order of first visits, after `sort` in that of ids: a search needs no mask.

    Args:
        rows: ids of the images.
        dim: width of a feature.
        device: where it lies and is searched.
        dtype: of the features on a GPU; on a CPU it is float32.
        cells: an approximate search; default: an exact one.

    Attributes:
        dtype: of the features.
    """

    def __init__(
        self, rows: range, dim: int, device: torch.device, dtype: torch.dtype, cells: CellSearch | None = None
    ):
        self.rows, self.device, self.cells = rows, device, cells
        self.dtype = dtype if device.type == "cuda" else torch.float32
        self._features = torch.zeros(len(rows), dim, dtype=self.dtype, device=device)
        self._ids = np.zeros(len(rows), dtype=np.int64)  # of the image in each place
        self._place = np.full(len(rows), -1, dtype=np.int64)  # of each of `rows`
        self._count = 0

    def nearest(self, queries: Tensor, top_k: int, progress: float) -> Lists:
        """The lists of features (B, dim), of unit length and the cache's type.

        Args:
            progress: share of the epoch's images that were seen: the recall of an approximate search is measured in
                some steps.
        """
        bank, ids = self._features[: self._count], self._ids[: self._count]
        if self.cells is None or not self.cells.ready:
            return nearest(queries, bank, ids, top_k)
        lists = nearest(queries, bank, ids, top_k, self.cells.find)
        if self.cells.due(progress):
            self.cells.compare(lists[0], nearest(queries, bank, ids, top_k)[0])
        return lists

    def unvisited(self, most: int) -> np.ndarray:
        """Ids of images without a feature, ascending: the first `most`."""
        if self._count == len(self.rows):
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self._place < 0)[:most] + self.rows.start

    def write(self, ids: np.ndarray, features: Tensor) -> np.ndarray:
        """Features (n, dim) of some of `rows`, none of them twice.

        Returns:
            (n,) float32: inner products with what they replace; NaN where nothing was.
        """
        rows = ids - self.rows.start
        old = self._place[rows] >= 0
        similarity = np.full(len(rows), np.nan, dtype=np.float32)
        before = self._features[self._at(self._place[rows[old]])]
        similarity[old] = inner(features[self._at(np.flatnonzero(old))], before).cpu().numpy()
        new = rows[~old]
        self._place[new] = np.arange(self._count, self._count + len(new))
        self._ids[self._place[new]] = ids[~old]
        self._count += len(new)
        places = self._place[rows]
        self._features.index_copy_(0, self._at(places), features)
        if self.cells is not None and self.cells.ready:
            self.cells.write(places, features)
        return similarity

    def end_epoch(self) -> Total:
        """Of how many exact neighbours an approximate search has found how many."""
        return (0.0, 0) if self.cells is None else self.cells.total()

    def sort(self) -> None:
        """Between two epochs: features in the order of ids, and new cells for them."""
        order = np.argsort(self._ids[: self._count])
        if not (order[1:] > order[:-1]).all():
            at = self._at(order)
            for columns in self._features[: self._count].split(32, dim=1):  # a copy of all would double the memory
                columns.copy_(columns[at])
            self._ids[: self._count] = self._ids[order]
            self._place[self._ids[: self._count] - self.rows.start] = np.arange(self._count)
        if self.cells is not None:
            self.cells.build(self._features[: self._count])

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The features (n, dim) of some images that have one, float32."""
        return self._features[self._at(self._place[ids - self.rows.start])].float().cpu().numpy()

    def dump(self) -> np.ndarray:
        """The features of all `rows`, NaN where never visited; float16 as they are, others as float32."""
        features = self._features[: self._count]
        half = self.dtype == torch.float16
        whole = np.full(self._features.shape, np.nan, dtype=np.float16 if half else np.float32)
        whole[self._ids[: self._count] - self.rows.start] = (features if half else features.float()).cpu().numpy()
        return whole

    def fill(self, parts: Iterable[np.ndarray]) -> None:
        """Take what `dump` gave, in any number of consecutive parts; what was there before is forgotten."""
        self._count, start = 0, 0
        self._place.fill(-1)
        for part in parts:
            visited = np.flatnonzero(~np.isnan(part[:, 0]))
            places = np.arange(self._count, self._count + len(visited))
            self._features[self._count : self._count + len(visited)] = torch.from_numpy(part[visited])
            self._ids[places] = start + visited + self.rows.start
            self._place[start + visited] = places
            self._count += len(visited)
            start += len(part)

    def _at(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(self.device)
