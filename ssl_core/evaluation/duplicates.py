"""Near-duplicates: images that are in train twice, and images of val that train has too (leaks).

Two images are near-duplicates where their features are as alike as an image's and its own light copies': see
`threshold_of`. What is linked by such pairs is a group.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.distortions import LIGHT_KINDS, Distorted, lightly
from ssl_core.data.sources.base import Images, Subset
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import DuplicatesConfig
from ssl_core.search import nearest
from ssl_core.seeds import Use

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBED = 200  # images that light copies are made of
FEWEST = 10  # images that say how alike neighbours are
NEIGHBOURS = 20  # of an image that may be its duplicates
RECOGNISED = 0.95  # share of light copies that are to count as duplicates
QUARTILE = 0.6745  # deviations of a normal distribution from its median to its upper quartile
DEVIATIONS = 4.0  # that a duplicate is nearer than neighbours usually are
CERTAIN = 0.9999  # similarity from which on two images are duplicates in any case


@dataclass(frozen=True)
class Member:
    """An image of a group: `split` (train or val), its index there, its similarity to the most similar other one."""

    split: str
    index: int
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found.

    Attributes:
        groups: each of two images or more, the largest first; members by split and index.
        threshold: cosine similarity of centred features from which on two images are near-duplicates.
    """

    groups: list[list[Member]]
    threshold: float

    @property
    def superfluous(self) -> int:
        """Images of train that another one of train stands for."""
        return sum(max(0, sum(member.split == "train" for member in group) - 1) for group in self.groups)

    @property
    def leaks(self) -> list[list[Member]]:
        """The groups that have images of train and of val."""
        return [group for group in self.groups if len({member.split for member in group}) == 2]

    @property
    def leaked(self) -> int:
        """Images of val in such groups."""
        return sum(member.split == "val" for group in self.leaks for member in group)


class DuplicatesFound(Evaluator[DuplicatesConfig]):
    def __init__(self, config: DuplicatesConfig, context: Context):
        super().__init__(config, context)
        layer = layers_measured(config, context.depth)[-1] - 1
        found = find_duplicates(context, layer, config.max_train, config.max_val)
        if found is not None:
            self.found = found

    @classmethod
    def check(cls, config: DuplicatesConfig, images: Images) -> None:
        if min(len(images.train), config.max_train) < FEWEST:
            raise InputError(f"duplicates needs {FEWEST} images of train at least; got {len(images.train)}")

    def whole(self) -> dict[str, float]:
        found = {
            "duplicates": float(self.found.superfluous),
            "duplicate_groups": float(len(self.found.groups)),
            "duplicates_threshold": self.found.threshold,
        }
        return found if self.context.images.val is None else found | {"leaks": float(self.found.leaked)}

    def pictures(self) -> dict[str, "Figure"]:
        from ssl_core.pictures.duplicates import group_picture

        images = self.context.images
        title = f"near-duplicates: cosine similarity from {self.found.threshold:.3f} on"
        pictures = {}
        for name, groups in {"groups": self.found.groups, "leaks": self.found.leaks}.items():
            if groups:
                shown = [[(m.split, m.index, m.similarity) for m in group] for group in groups]
                pictures[name] = group_picture(images, shown, title)
        return pictures


def find_duplicates(context: Context, layer: int, max_train: int, max_val: int) -> Duplicates | None:
    """Near-duplicates among at most `max_train` images of train and `max_val` of val, by a layer (from 0).

    All ranks call it together; rank 0 has the answer, the others None.

    Raises:
        InputError: fewer than ten images of train can be decoded.
    """
    limits = {"train": max_train} | ({} if context.images.val is None else {"val": max_val})
    parts, names = [], list[tuple[str, int]]()
    for split, limit in limits.items():
        ids, features = context.features(split, limit, on_rank_0=[layer])
        if distributed.rank() == 0:
            kept, first = np.unique(ids, return_index=True)  # an image stands in for a broken one: once is enough
            parts.append(features[layer][torch.from_numpy(first)].float())
            names += [(split, int(index)) for index in kept]
    if distributed.rank() != 0:
        return None
    if len(parts[0]) < FEWEST:
        raise InputError(f"duplicates needs {FEWEST} images of train that can be decoded; got {len(parts[0])}")
    mean = parts[0].mean(dim=0)
    x = F.normalize(torch.cat(parts) - mean, dim=1).to(context.device)
    similar = neighbours(x)
    train = len(parts[0])
    threshold = threshold_of(_light_copies(context, layer, mean), similar[1][:train, 0])
    groups = [[Member(*names[row], similarity) for row, similarity in group] for group in grouped(*similar, threshold)]
    return Duplicates(groups, threshold)


def neighbours(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each of the unit vectors (N, D): rows (N, k) and similarities (N, k), the nearest first."""
    count = min(NEIGHBOURS, len(x) - 1)
    rows, similarities = nearest(x, x, np.arange(len(x)), count + 1)
    others = rows != np.arange(len(x))[:, None]
    others[others.all(axis=1), -1] = False  # itself is not among those that are equal to it
    shape = len(x), count
    return rows[others].reshape(shape), similarities[others].reshape(shape)


def threshold_of(copies: np.ndarray, neighbour: np.ndarray) -> float:
    """From which similarity on two images are near-duplicates.

    As alike as an image is to 95 % of its own light copies, and clearly nearer than neighbours usually are: four
    deviations below the median of the logarithm of their distances, 1 − similarity. So a network that tells little
    apart takes little for duplicates. The deviation is that of the upper quartile, because duplicates lie below.

    Args:
        copies: (M,) similarities of images and their own light copies.
        neighbour: (N,) similarity of each image to the nearest other one.
    """
    median, upper = np.quantile(np.log(np.maximum(1.0 - neighbour, 1.0 - CERTAIN)), (0.5, 0.75))
    usual = 1.0 - np.exp(median - DEVIATIONS * (upper - median) / QUARTILE)
    return float(min(CERTAIN, max(np.quantile(copies, 1 - RECOGNISED), usual)))


def grouped(rows: np.ndarray, similarities: np.ndarray, threshold: float) -> list[list[tuple[int, float]]]:
    """What is linked by pairs of at least `threshold`, the largest group first: (row, similarity to its nearest) each.

    Args:
        rows, similarities: (N, k) neighbours of each row, the nearest first.
    """
    count = len(rows)
    source, place = np.nonzero(similarities >= threshold)
    links = coo_array((np.ones(len(source)), (source, rows[source, place])), shape=(count, count))
    _, group = connected_components(links, directed=False)
    best = np.full(count, -np.inf)
    np.maximum.at(best, source, similarities[source, place])
    np.maximum.at(best, rows[source, place], similarities[source, place])
    found: dict[int, list[tuple[int, float]]] = {}
    for row in np.flatnonzero(np.bincount(group)[group] > 1):
        found.setdefault(int(group[row]), []).append((int(row), float(best[row])))
    return sorted(found.values(), key=lambda members: (-len(members), members[0][0]))


@torch.no_grad()
def _light_copies(context: Context, layer: int, mean: Tensor) -> np.ndarray:
    """Similarities of some images of train and their light copies."""
    names = chosen(context.images.train, PROBED)
    originals = Subset(context.images.train, names)
    copies = Distorted(originals, names, LIGHT_KINDS, lightly, Use.LIGHT_COPIES)
    looking = replace(context, images=Images(originals, copies), broken=set(), place="light copies of ")
    found = {}
    for split, source in (("train", originals), ("val", copies)):
        parts, used = [], []
        for ids, _, seen in looking.batches(split, np.arange(len(source)), Want(pooled=(layer + 1,))):
            parts.append(seen.pooled[layer + 1].float().cpu())
            used.append(ids)
        found[split] = F.normalize(torch.cat(parts) - mean, dim=1), np.concatenate(used)
    (first, there), (second, copied) = found["train"], found["val"]
    pairs = (first[:, None] * second.unflatten(0, (-1, len(LIGHT_KINDS)))).sum(dim=2).flatten()
    sound = np.repeat(there == np.arange(len(there)), len(LIGHT_KINDS)) & (copied == np.arange(len(copied)))
    return pairs.numpy()[sound] if sound.any() else np.ones(1)
