"""The revisited Oxford and Paris (Radenović et al., 2018): landmarks by their queries, some right, some not counted.

Average precision is that of the published code: the area under the line through precisions before and after each
right image, which is not what `retrieval` calls so.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_core.data.sources.base import Images, Source
from ssl_core.data.sources.ground_truth import Truth, read_ground_truth
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.files import as_path
from ssl_core.schema.evaluation import RevisitedConfig

NEAREST = 10  # of which precision is told
PROTOCOLS = ("medium", "hard", "easy")

Box = tuple[float, float, float, float]


class Revisited(Evaluator[RevisitedConfig]):
    """Each query has easy and hard images of what it shows, and junk, which is passed over.

    A protocol by which nothing is right for any query, as Hard where the file tells no hard images, is left out.
    """

    def __init__(self, config: RevisitedConfig, context: Context):
        super().__init__(config, context)
        train, val = context.images.train, context.images.val
        assert val is not None, "its section names it"
        truths = read_ground_truth(as_path(config.data.truth), train, val)
        queries = Cropped(val, {truth.query: truth.box for truth in truths if truth.box is not None})
        own = replace(context, images=Images(train, queries), _cache={})
        ids, self.database = own.features("train", len(train))
        query_ids, self.queries = own.features("val", len(val))
        self.rows, self.query_rows = _rows(ids, len(train)), _rows(query_ids, len(val))
        self.truths = [truth for truth in truths if self.query_rows[truth.query] >= 0]

    @classmethod
    def check(cls, config: RevisitedConfig, images: Images) -> None:
        assert images.val is not None, "its section names it"
        try:
            read_ground_truth(as_path(config.data.truth), images.train, images.val)
        except InputError as error:
            raise InputError(f"data.truth: {error}") from error

    def measure(self, layer: int) -> dict[str, float]:
        names = np.flatnonzero(self.rows >= 0)  # a broken image has no place
        bank = F.normalize(self.database[layer][torch.from_numpy(self.rows[names])].float(), dim=1)
        queries = F.normalize(self.queries[layer].float(), dim=1)
        found: dict[str, list[float]] = {f"revisited_{name}{end}": [] for name in PROTOCOLS for end in ("", "_p10")}
        for truth in self.truths:
            similar = bank @ queries[self.query_rows[truth.query]]
            ranking = names[similar.argsort(descending=True, stable=True).numpy()]
            for name in PROTOCOLS:
                right, junk = protocol(truth, name)
                if len(right):
                    places = places_of(ranking, right, junk)
                    found[f"revisited_{name}"].append(average_precision(places, len(right)))
                    found[f"revisited_{name}_p10"].append(precision_at(places, NEAREST))
        self.outcomes[layer] = np.array(found["revisited_medium"])
        return {name: float(np.mean(values)) for name, values in found.items() if values}


class Cropped(Source):
    """A source's images, of some of them what is in a box, (left, top, right, bottom) in pixels."""

    def __init__(self, source: Source, boxes: Mapping[int, Box]):
        self.source, self.boxes = source, dict(boxes)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        image = self.source.read(index)
        return image.crop(_whole(self.boxes[index])) if index in self.boxes else image

    def where(self, index: int) -> str:
        return self.source.where(index)


def _whole(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = map(round, box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def protocol(truth: Truth, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which images of the database are right for a query by a protocol, and which are passed over (Sec. 2.2)."""
    if name == "easy":
        return truth.easy, np.concatenate([truth.junk, truth.hard])
    if name == "hard":
        return truth.hard, np.concatenate([truth.junk, truth.easy])
    return np.concatenate([truth.easy, truth.hard]), truth.junk


def places_of(ranking: np.ndarray, right: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """The places (from 0) of right images in a ranking (N,) of the database that junk was taken out of."""
    return np.flatnonzero(np.isin(ranking[~np.isin(ranking, junk)], right))


def average_precision(places: np.ndarray, right: int) -> float:
    """Area under precision over recall, by trapezoids, from the places (from 0) of right images, of `right` in all."""
    found = np.arange(len(places))
    before = np.where(places == 0, 1.0, found / np.maximum(places, 1))
    after = (found + 1) / (places + 1)
    return float((before + after).sum() / (2 * right))


def precision_at(places: np.ndarray, k: int) -> float:
    """The share of right images among the `k` nearest; of fewer, where the last right one comes earlier."""
    if not len(places):
        return 0.0
    k = min(int(places.max()) + 1, k)
    return float((places < k).sum() / k)


def _rows(ids: np.ndarray, count: int) -> np.ndarray:
    """Of `count` images the row that each has; −1 for one that could not be read, in whose place another stands."""
    rows = np.full(count, -1, np.int64)
    rows[ids[::-1]] = np.arange(len(ids))[::-1]
    return rows
