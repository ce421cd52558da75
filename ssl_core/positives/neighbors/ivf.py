"""Approximate search for very large sets: FAISS's inverted file (IVF), which looks into a few cells only."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.errors import InputError
from ssl_core.search import load_faiss

CHECKS = 4  # steps of an epoch in which the exact neighbours are found too
SMALLEST_CELL = 39  # vectors; FAISS warns of fewer
ROUNDS = 6  # of k-means


class CellSearch:
    """The rows of a cache in 4 √N cells around k-means centres, of which a query looks into the `probes` nearest.

    The centres are those of the cache when an epoch ends. FAISS keeps a copy of the rows, in main memory.

    Raises:
        InputError: FAISS is not installed.
    """

    def __init__(self, probes: int):
        faiss = load_faiss()
        if faiss is None:
            raise InputError("positives.search=ivf needs FAISS, which is not installed: pip install faiss-cpu")
        self._faiss, self.probes = faiss, probes
        self._index: Any = None  # FAISS has no types
        self._checks, self._right, self._wanted = 0, 0, 0

    @property
    def ready(self) -> bool:
        return self._index is not None

    def build(self, bank: Tensor) -> None:
        """Cells for the rows (N, D) as they are; their old ones are forgotten."""
        self._index = None
        if not len(bank):
            return
        faiss = self._faiss
        vectors = bank.float().cpu().numpy()
        cells = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // SMALLEST_CELL))
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(bank.shape[1]), bank.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = SMALLEST_CELL
        index.cp.niter = ROUNDS
        index.cp.spherical = True
        index.train(vectors)
        index.add(vectors)
        index.set_direct_map_type(faiss.DirectMap.Array)  # lets rows be rewritten
        index.nprobe = self.probes
        self._index = index

    def find(self, queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `search.top_k`, of the rows given to `build` and `write`; row −1 where the cells hold less."""
        self._faiss.omp_set_num_threads(torch.get_num_threads())
        similarities, rows = self._index.search(queries.float().cpu().numpy(), k)
        return torch.from_numpy(similarities).to(bank.device), torch.from_numpy(rows).to(bank.device)

    def write(self, places: np.ndarray, features: Tensor) -> None:
        """Rows (n, D) for some places (n,), none of them twice; new places follow on from the last, in order."""
        vectors = features.float().cpu().numpy()
        old = places < self._index.ntotal
        if old.any():
            self._index.update_vectors(places[old], np.ascontiguousarray(vectors[old]))
        if not old.all():
            self._index.add(np.ascontiguousarray(vectors[~old]))

    def due(self, progress: float) -> bool:
        """Whether the exact neighbours of this step are to be found too, after this share of an epoch's images."""
        return progress >= (self._checks + 0.5) / CHECKS

    def compare(self, found: np.ndarray, exact: np.ndarray) -> None:
        """Count how many of the exact neighbours (B, k) of a step were found (B, k)."""
        self._checks += 1
        self._right += int(((exact[:, :, None] == found[:, None, :]) & (exact >= 0)[:, :, None]).sum())
        self._wanted += int((exact >= 0).sum())

    @property
    def counts(self) -> np.ndarray:
        """What `compare` has counted since the last `total`; may be set."""
        return np.array([self._checks, self._right, self._wanted])

    @counts.setter
    def counts(self, counts: np.ndarray) -> None:
        self._checks, self._right, self._wanted = map(int, counts)

    def total(self) -> tuple[float, int]:
        """Of how many exact neighbours, how many were found since the last call."""
        total = float(self._right), self._wanted
        self._checks, self._right, self._wanted = 0, 0, 0
        return total
