"""What the steps of the running epoch have found so far."""

import numpy as np

from ssl_core.positives.neighbors.lists import Lists, Total, empty, merged


class RunningEpoch:
    """An epoch between its first step and its end.

    Args:
        num_images: all images: a shard has lists of its own images for those of every other.
        rows: ids of the images whose features it holds.
        top_k: length of a list.

    Attributes:
        lists: of all images.
        visited: (num_images,) which were seen.
        self_similarity: (len(rows),) inner product of an image's feature with its last one; NaN where there is none.
        ended: nothing more is added: it is kept until the next one begins, for other shards to ask for their parts.
        saved_steps: how many of its steps are written down.
    """

    def __init__(self, num_images: int, rows: range, top_k: int):
        self.rows, self.top_k = rows, top_k
        self.lists = empty(num_images, top_k)
        self.visited = np.zeros(num_images, dtype=bool)
        self.self_similarity = np.full(len(rows), np.nan, dtype=np.float32)
        self.ended = False
        self.saved_steps = 0
        self._seen = 0
        self._changed: list[np.ndarray] = []  # ids of the steps that are not written down yet

    @property
    def progress(self) -> float:
        """The share of images that were seen."""
        return self._seen / len(self.visited)

    def add(self, ids: np.ndarray, lists: Lists) -> None:
        """A step's ids (B,) and their lists. If an id occurs twice, the last counts."""
        last = last_of(ids)
        for kept, new in zip(self.lists, lists, strict=True):
            kept[ids[last]] = new[last]
        self._visit(ids[last])
        self._changed.append(ids)

    def add_saved(self, ids: np.ndarray, parts: list[Lists]) -> None:
        """What was written down of some steps: ids, none of them twice, and their lists from one or several shards."""
        self._visit(ids)
        if parts:
            self.lists[0][ids], self.lists[1][ids] = merged(parts, self.top_k)

    def take_changed(self) -> np.ndarray:
        """Ids of the images seen since the last call, each once, in order of their first coming."""
        ids = np.concatenate(self._changed)
        self._changed.clear()
        _, first = np.unique(ids, return_index=True)
        return ids[np.sort(first)]

    def similarity_total(self) -> Total:
        """The sum of `self_similarity` where there is one."""
        seen = self.self_similarity[~np.isnan(self.self_similarity)]
        return float(seen.sum(dtype=np.float64)), len(seen)

    def _visit(self, ids: np.ndarray) -> None:
        self._seen += int((~self.visited[ids]).sum())
        self.visited[ids] = True


def last_of(ids: np.ndarray) -> np.ndarray:
    """Places of each id's last occurrence, in ascending order of ids."""
    _, back = np.unique(ids[::-1], return_index=True)
    return len(ids) - 1 - back
