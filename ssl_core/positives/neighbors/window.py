"""Whom AdaSim pairs an image with: its neighbours of the last epochs, weighed together, and the draw.

Lebailly et al., "Adaptive Similarity Bootstrapping for Self-Distillation", ICCV 2023, Sec. 3.3.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch

from ssl_core.positives.neighbors.lists import Lists

BLOCK = 1 << 17  # list entries that a thread works on at once: fits its cache, and bounds memory


class Draw(NamedTuple):
    """Partners (n,) int32 of n images, and whether they were drawn (n,) bool: where not, an image is its own."""

    partners: np.ndarray
    gate: np.ndarray


class Window:
    """The neighbour lists of the last finished epochs, for the images of `rows`.

    A list holds ids (int32) and similarities (float32), descending; entries of id −1 are absent and have
    similarity 0.

    Args:
        rows: ids of the images.
        size: epochs that count (the paper's w); fewer give no partners.
        top_k: ids that stay in the distribution with support "topk" (published code); "union" keeps all (Eq. 11).
    """

    def __init__(self, rows: range, size: int, top_k: int, support: Literal["topk", "union"] = "topk"):
        self.rows, self.size, self.top_k, self.support = rows, size, top_k, support
        self.epochs: deque[Lists] = deque(maxlen=size)

    @property
    def full(self) -> bool:
        return len(self.epochs) == self.size

    def push(self, ids: np.ndarray, similarities: np.ndarray) -> None:
        """The lists (n, K) of the epoch that has just finished; the oldest epoch leaves."""
        self.epochs.append((ids, similarities))

    def distribution(self, ids: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the partners of some images (B,) are drawn from: p^win of Eq. 10.

        Returns:
            ids (B, S) int32, padded with −1; probabilities (B, S), descending; gate (B,): whether a draw is
            made at all, which is so if no image is nearer than the image itself (Algorithm 1, line 13).
        """
        images = np.asarray(ids, dtype=np.int64)
        if not self.epochs:
            return np.full((len(images), 1), -1, np.int32), np.zeros((len(images), 1)), np.zeros(len(images), bool)
        near, sums = self._sums(images - self.rows.start)
        gate = self._gate(images, near, sums)
        sums = self._supported(sums)
        order = np.argsort(-sums, axis=1, kind="stable")
        if self.support == "topk":
            order = order[:, : self.top_k]
        sums = np.take_along_axis(sums, order, 1)
        near = np.where(np.isfinite(sums), np.take_along_axis(near, order, 1), -1)
        weights = self._weights(sums, tau)
        return near, weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(float).tiny), gate

    def draw(self, tau: float, uniform: np.ndarray) -> Draw:
        """A partner for each image of `rows`, from its distribution where the gate is open.

        Args:
            uniform: (n,) in [0, 1): the chance that decides for each image.
        """
        partners = np.arange(self.rows.start, self.rows.stop, dtype=np.int32)
        gate = np.zeros(len(partners), dtype=bool)
        if not self.full:
            return Draw(partners, gate)

        def work(block: slice) -> None:
            images = partners[block].copy()
            near, sums = self._sums(block)
            gate[block] = is_open = self._gate(images, near, sums)
            if tau == 0 or not is_open.any():
                return
            if not is_open.all():
                images, near, sums = images[is_open], near[is_open], sums[is_open]
            chance = np.cumsum(self._weights(self._supported(sums), tau), axis=1)
            at = uniform[block][is_open] * chance[:, -1]
            chosen = (chance <= at[:, None]).sum(1)
            partners[block][is_open] = near[np.arange(len(near)), chosen]

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(work, self._blocks()))
        return Draw(partners, gate)

    def _blocks(self) -> Iterator[slice]:
        step = max(1, BLOCK // sum(ids.shape[1] for ids, _ in self.epochs))
        for start in range(0, len(self.rows), step):
            yield slice(start, start + step)

    def _sums(self, at: slice | np.ndarray) -> Lists:
        """The sums over the window for some of `rows`."""
        return sum_by_id([(ids[at], similarities[at]) for ids, similarities in self.epochs])

    def _gate(self, images: np.ndarray, near: np.ndarray, sums: np.ndarray) -> np.ndarray:
        if not self.full:
            return np.zeros(len(images), dtype=bool)
        return near[np.arange(len(near)), sums.argmax(1)] == images  # ids ascend: of equal sums, the lower id's

    def _supported(self, sums: np.ndarray) -> np.ndarray:
        """The sums with −∞ for ids that the distribution leaves out."""
        if self.support == "union" or sums.shape[1] <= self.top_k:
            return sums
        least = np.partition(sums, -self.top_k, axis=1)[:, -self.top_k, None]  # the smallest sum that stays
        kept = sums >= least
        crowded = np.flatnonzero(kept.sum(1) > self.top_k)  # equal sums at the edge: the lower ids stay
        if len(crowded):
            edge = sums[crowded] == least[crowded]
            room = self.top_k - (sums[crowded] > least[crowded]).sum(1, keepdims=True)
            kept[crowded] &= ~edge | (np.cumsum(edge, axis=1) <= room)
        return np.where(kept, sums, -np.inf)

    def _weights(self, sums: np.ndarray, tau: float) -> np.ndarray:
        """Softmax of the mean similarities over τ (Eq. 9), up to a factor for each image. τ = 0: the first arg-max."""
        if tau == 0:
            weights = np.zeros_like(sums)
            weights[np.arange(len(sums)), sums.argmax(1)] = 1
            return np.where(np.isfinite(sums), weights, 0)
        top = sums.max(1, keepdims=True)
        return np.exp((sums - np.where(np.isfinite(top), top, 0)) / (self.size * tau))


def sum_by_id(lists: Sequence[Lists]) -> Lists:
    """Several lists of each image, (n, K) ids and similarities, as one: each id once, with the sum of its similarities.

    Returns:
        ids (n, U) int32, ascending, −1 after the last; sums (n, U) float64, −∞ after the last.
    """
    # An id and its similarity share 64 bits, the id above: a plain sort of integers brings equal ids together.
    pairs = np.empty((len(lists[0][0]), sum(ids.shape[1] for ids, _ in lists), 2), dtype="<i4")
    column = 0
    for ids, similarities in lists:
        columns = slice(column, column + ids.shape[1])
        pairs[:, columns, 0], pairs[:, columns, 1] = similarities.view(np.int32), ids
        column = columns.stop
    pairs.view("<i8").sort(axis=1)
    similarities, ids = pairs[:, :, 0].view("<f4"), pairs[:, :, 1]
    last = np.empty(ids.shape, dtype=bool)  # of its id
    np.not_equal(ids[:, 1:], ids[:, :-1], out=last[:, :-1])
    last[:, -1] = True
    last &= ids >= 0
    up_to = np.cumsum(similarities, axis=1, dtype=np.float64)[last]
    counts = last.sum(1)
    before = np.empty_like(up_to)
    before[1:] = up_to[:-1]
    before[(np.cumsum(counts) - counts)[counts > 0]] = 0
    there = np.arange(max(counts.max(initial=0), 1)) < counts[:, None]
    distinct, sums = np.full(there.shape, -1, dtype=np.int32), np.full(there.shape, -np.inf)
    distinct[there], sums[there] = ids[last], up_to - before
    return distinct, sums
