"""Lists of neighbours: of each of some images the nearest ones, best first, and what is read off them."""

from collections.abc import Sequence

import numpy as np

from ssl_core.search import ranked

Lists = tuple[np.ndarray, np.ndarray]  # ids and similarities (n, K) of n images
Total = tuple[float, int]  # a sum and how many were added: totals of several shards add up


def empty(count: int, top_k: int) -> Lists:
    """Lists (count, top_k) that name nobody."""
    return np.full((count, top_k), -1, dtype=np.int32), np.zeros((count, top_k), dtype=np.float32)


def merged(parts: Sequence[Lists], top_k: int) -> Lists:
    """The `top_k` nearest of several lists of each image, none of which names an id twice."""
    ids, similarities = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return ranked(ids, similarities, top_k)


def nearest_others(ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The first two of each list (n, K) that are not the image (n,) it is of: (n, 2) int32, −1 for none."""
    other = (ids >= 0) & (ids != images[:, None])
    order = np.argsort(~other, axis=1, kind="stable")[:, :2]
    found = np.where(np.take_along_axis(other, order, 1), np.take_along_axis(ids, order, 1), -1).astype(np.int32)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])), constant_values=-1)


def spread_of(ids: np.ndarray, similarities: np.ndarray) -> Total:
    """Standard deviations of the similarities in lists (n, K) of at least two: their sum, and how many."""
    there = ids >= 0
    counts = there.sum(1)
    several = counts > 1
    values, there, counts = similarities[several].astype(np.float64), there[several], counts[several]
    means = values.sum(1) / counts
    squares = np.where(there, (values - means[:, None]) ** 2, 0).sum(1)
    return float(np.sqrt(squares / counts).sum()), len(counts)
