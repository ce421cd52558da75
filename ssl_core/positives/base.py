"""Where a positive comes from: for every image of an epoch, the image that the second view is of.

`augment`: the image itself. `labels`: one of its class (the oracle of AdaSim's Table 1). `nearest` and
`adasim`: a neighbour in feature space; each step's features go to an index, and what it found in an
epoch decides the partners of the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.positives.neighbors.index import NeighborIndex
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SIGNIFICANT = 6  # digits of the spread that count: sums over shards differ in the last bits


@dataclass(frozen=True)
class Found:
    """What one part of the index (a range of images) has found when an epoch ends.

    Attributes:
        partners: (n,) int32, for the next epoch.
        gate_open: how many of the n images may have another partner than themselves.
        nearest: (n, 2) int32: first and second of each list, the image itself included; −1 for none.
    """

    partners: np.ndarray
    gate_open: int
    nearest: np.ndarray


@dataclass(frozen=True)
class Signals:
    """Sums over images that the epoch's searches leave, to be added over shards: each (sum, count)."""

    self_similarity: tuple[float, int]
    spread: tuple[float, int]
    recall: tuple[float, int] = (0.0, 0)

    @staticmethod
    def means(parts: Sequence["Signals"]) -> dict[str, float]:
        """The mean of each signal over all parts; without those that nothing was counted for."""
        means = {}
        for name in ("self_similarity", "spread", "recall"):
            totals = [getattr(part, name) for part in parts]
            if count := sum(n for _, n in totals):
                means[name] = float(f"{sum(total for total, _ in totals) / count:.{_SIGNIFICANT}g}")
        return means


def signals(index: NeighborIndex) -> Signals:
    """What `index` counted in its last finished epoch."""
    return Signals(index.self_similarity_total, index.spread_total, index.recall_total)


def find_partners(index: NeighborIndex, config: PositivesConfig, means: dict[str, float], seed: int) -> Found:
    """The next epoch's partners of the images that `index` holds.

    Args:
        means: `Signals.means` over all shards.
        seed: of the draw; the same on all shards.
    """
    ids = np.arange(index.rows.start, index.rows.stop, dtype=np.int32)
    nearest = np.full((len(ids), 2), -1, np.int32)
    if index.epoch:
        first = index.lists()[0][:, :2]
        nearest[:, : first.shape[1]] = first
    if config.kind == "nearest":
        other = index.nearest()[:, 0] if index.epoch else np.full(len(ids), -1, np.int32)
        return Found(np.where(other < 0, ids, other), int((other >= 0).sum()), nearest)
    draw = index.draw(tau_of(config, means), seed)
    return Found(draw.partners, int(draw.gate.sum()), nearest)


def tau_of(config: PositivesConfig, means: dict[str, float]) -> float:
    """The temperature of a draw; by `tau_scale`, τ counts in units of the spread that `Signals.means` gives."""
    return config.tau * (means.get("spread", 1.0) if config.tau_scale == "spread" else 1.0)


def index_options(config: PositivesConfig) -> dict[str, object]:
    """What `positives` says about a `NeighborIndex`. The nearest neighbour needs a list of two, of one epoch."""
    nearest = config.kind == "nearest"
    return {
        "top_k": max(config.top_k, 2) if nearest else config.top_k,
        "window": 1 if nearest else config.window,
        "support": config.support,
        "unvisited": config.unvisited,
        "stale": config.stale,
        "search": config.search,
        "probes": config.probes,
        "dtype": PRECISIONS[config.cache.precision],
    }


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
        means = Signals.means([signals(self.index)])
        return find_partners(self.index, self.config, means, self._seed), means

    def settle(self) -> None: ...

    def save(self, folder: Path, epoch: int, step: int) -> None:
        if step:
            self.index.save_steps(folder, step)
        elif epoch:
            self.index.save(folder)

    def load(self, folder: Path, epoch: int, step: int, seed: int) -> None:
        self.index.load(folder, epoch, step)
        self._seed = seed


class Positives:
    """`augment`: every image is its own partner. The base of the others."""

    def __init__(self, config: RunConfig, images: Images):
        self.config, self.labels = config, images.train.labels
        self.num_images = len(images.train)

    def partners(self, epoch: int) -> np.ndarray | None:
        """(N,) int32: each image's partner in `epoch` (from 1); None: itself."""
        return None

    def send(self, ids: Tensor, features: Tensor | None) -> None:
        """A step of this rank: ids (B,), and what stands for each image (B, D)."""

    def end_epoch(self, epoch: int) -> None:
        """All ranks have sent their last step of `epoch`."""

    def figures(self, epoch: int) -> dict[str, float]:
        """The epoch's `positives/…` metrics, the same on every rank. Waits for what `end_epoch` began."""
        return {}

    def settle(self) -> None:
        """Wait until all that the ranks have sent is taken. Called on all of them."""

    def save(self, folder: Path, epoch: int, step: int = 0) -> None:
        """Write what `load` needs after `epoch` finished epochs and `step` steps.

        Called on rank 0: at the end of each epoch, and at some steps between two ends.
        """

    def load(self, folder: Path, epoch: int, step: int = 0) -> None:
        """Go on after `epoch` finished epochs and `step` steps."""

    def _about(self, partners: np.ndarray | None) -> dict[str, float]:
        """How many pairs are of two images, and how many of those are of one class."""
        if partners is None:
            return {"positives/bootstrap_ratio": 0.0}
        drawn = np.flatnonzero(partners != np.arange(self.num_images, dtype=partners.dtype))
        figures = {"positives/bootstrap_ratio": len(drawn) / self.num_images}
        if self.labels is not None:
            known = drawn[(self.labels[drawn] >= 0) & (self.labels[partners[drawn]] >= 0)]
            if len(known):
                same = self.labels[known] == self.labels[partners[known]]
                figures["positives/same_class"] = float(same.mean())
        return figures


class LabelPositives(Positives):
    """A random image of the same class, ever more often (AdaSim, Sec. 4.4): an upper bound, for labelled sets."""

    def __init__(self, config: RunConfig, images: Images):
        super().__init__(config, images)
        labels = np.array(self.labels)
        bare = labels < 0  # each is a class of its own: its partner is itself
        labels[bare] = labels.max() + 1 + np.arange(bare.sum())
        self._class_of = labels
        self._by_class = np.argsort(labels, kind="stable")
        self._sizes = np.bincount(labels)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def partners(self, epoch: int) -> np.ndarray:
        share = self.config.positives.label_share * (epoch - 1) / max(self.config.optim.epochs - 1, 1)
        generator = np.random.default_rng(derive_seed(Use.PARTNERS, self.config.seed, epoch))
        chosen, place = generator.random((2, self.num_images))
        within = (place * self._sizes[self._class_of]).astype(np.int64)
        same = self._by_class[self._starts[self._class_of] + within]
        return np.where(chosen < share, same, np.arange(self.num_images)).astype(np.int32)

    def figures(self, epoch: int) -> dict[str, float]:
        return self._about(self.partners(epoch))


class NeighborPositives(Positives):
    """Neighbours in feature space: `nearest` and `adasim`."""

    def __init__(self, config: RunConfig, images: Images, index: Index):
        super().__init__(config, images)
        self.index = index
        self._found: Found | None = None  # decides the partners of `_epoch`
        self._epoch = 1

    def partners(self, epoch: int) -> np.ndarray | None:
        return None if self._found is None else self._found.partners

    def send(self, ids: Tensor, features: Tensor | None) -> None:
        self.index.send(ids.numpy(), features)

    def end_epoch(self, epoch: int) -> None:
        self.index.end_epoch(self._seed(epoch + 1))

    def figures(self, epoch: int) -> dict[str, float]:
        used = self._found
        figures = self._about(None if used is None else used.partners)
        figures["positives/gate_open"] = 0.0 if used is None else used.gate_open / self.num_images
        self._found, means = self.index.collect()
        figures |= {f"positives/{name}": value for name, value in means.items()}
        if self.labels is not None:
            for place in range(2):
                near = self._found.nearest[:, place]
                there = (near >= 0) & (self.labels >= 0) & (self.labels[near] >= 0)
                if there.any():
                    right = self.labels[near[there]] == self.labels[there]
                    figures[f"positives/nn_top{place + 1}"] = float(right.mean())
        return figures

    def settle(self) -> None:
        self.index.settle()

    def save(self, folder: Path, epoch: int, step: int = 0) -> None:
        self.index.save(folder, epoch, step)

    def load(self, folder: Path, epoch: int, step: int = 0) -> None:
        if epoch or step:
            self.index.load(folder, epoch, step, self._seed(epoch + 1))
        if epoch:
            self._found, _ = self.index.collect()

    def _seed(self, epoch: int) -> int:
        return derive_seed(Use.PARTNERS, self.config.seed, epoch)


def build(config: RunConfig, images: Images, dim: int, device: torch.device, index: Index | None = None) -> Positives:
    """What `config.positives` describes.

    Args:
        dim: width of the features that will be sent.
        index: where they go; default: an index in this process.
    """
    kind = config.positives.kind
    if kind == "augment":
        return Positives(config, images)
    if kind == "labels":
        return LabelPositives(config, images)
    return NeighborPositives(config, images, index or LocalIndex(config.positives, len(images.train), dim, device))


def check(config: RunConfig, images: Images) -> None:
    """Whether the images allow these positives.

    Raises:
        InputError: labels where there are none; more neighbours than images.
    """
    positives, count = config.positives, len(images.train)
    if positives.kind == "labels" and images.train.labels is None:
        raise InputError("positives.kind: labels needs a labelled data.train (class folders, or a label column)")
    if positives.searches and positives.top_k > count:
        raise InputError(f"positives.top_k: {positives.top_k} neighbours of {count} images; at most {count}")
    if positives.kind == "nearest" and count < 2:
        raise InputError("positives.kind: nearest needs at least 2 images")


def metric_names(config: RunConfig, images: Images) -> dict[str, bool]:
    """What `Positives.figures` gives in some epoch; whether that is sure, or depends on what is found and drawn."""
    given, labelled = config.positives, images.train.labels is not None
    if given.kind == "augment":
        return {}
    names = {"bootstrap_ratio": True} | ({"same_class": False} if labelled else {})
    if given.searches:
        second = given.kind == "nearest" or given.top_k > 1  # lists are of more than the image itself
        names |= {"gate_open": True, "self_similarity": False} | ({"spread": False} if second else {})
        names |= {"recall": False} if given.search == "ivf" else {}
        names |= ({"nn_top1": True} | ({"nn_top2": False} if second else {})) if labelled else {}
    return {f"positives/{name}": sure for name, sure in names.items()}


def remarks(config: RunConfig) -> list[str]:
    """What is allowed, but can hardly be meant."""
    positives, epochs = config.positives, config.optim.epochs
    if positives.kind != "adasim":
        return []
    found = []
    if positives.window >= epochs:
        found.append(
            f"positives.window={positives.window}: no neighbour is drawn before {positives.window} epochs are "
            f"finished, and the run has {epochs}: it trains as positives.kind=augment"
        )
    if positives.tau == 0:
        found.append("positives.tau=0: no neighbour is ever drawn: it trains as positives.kind=augment")
    if positives.top_k == 1 and positives.support == "topk":
        found.append("positives.top_k=1: the only neighbour is the image itself: it trains as positives.kind=augment")
    return found
