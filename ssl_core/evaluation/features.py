"""Features of every layer of some images, extracted once for all evaluators, and shared among ranks."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssl_core import distributed
from ssl_core.data.loading import EvalImages, eval_loader, view_pairs
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images, Source
from ssl_core.data.views import normalise
from ssl_core.networks import layers
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.data import DataConfig
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed

Layers = dict[int, Tensor]
"""Features of those layers (from 0) that this rank measures: (N, D) each, in main memory."""


@dataclass
class Context:
    """What an evaluator may look at.

    Attributes:
        look: normalised images (B, C, H, W) and a `Want` → the encoder's `Layers`, on `device`, without gradient.
        encoder: the network itself, in evaluation mode; nobody changes it.
        images: what is looked at.
        device: where features are compared.
        loaders: loader processes.
        broken: images met that could not be decoded, as (set, index).
        place: what goes before the names of the sets there; the run's own are `train` and `val`.
        tell: hears what is being done, and how much of it: (what, done, of how many).
    """

    look: Callable[[Tensor, Want], layers.Layers]
    encoder: Encoder
    images: Images
    config: RunConfig
    device: torch.device
    loaders: int
    broken: set[tuple[str, int]] = field(default_factory=set)
    place: str = ""
    tell: Callable[[str, int, int], None] = lambda what, done, total: None
    _cache: dict[str, tuple[np.ndarray, Layers]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return self.encoder.depth

    @property
    def own_layers(self) -> list[int]:
        """The layers (from 0) that this rank measures."""
        return [layer for layer in range(self.depth) if owner_of(layer) == distributed.rank()]

    def chosen(self, split: str, limit: int, labelled: bool = False) -> np.ndarray:
        """Indices (N,) of at most `limit` images of a split, always the same ones, of those with a label if asked."""
        return chosen(getattr(self.images, split), limit, labelled)

    def features(
        self, split: str, limit: int, labelled: bool = False, on_rank_0: Collection[int] = ()
    ) -> tuple[np.ndarray, Layers]:
        """At most `limit` images of a split, always the same ones: their indices (N,), and features.

        Args:
            labelled: of those that have a label.
            on_rank_0: layers (from 0) that rank 0 gets besides its own: of who compares layers, or measures a network
                as a whole. All ranks say the same.
        """
        source: Source = getattr(self.images, split)
        chosen = self.chosen(split, limit, labelled)
        some = labelled and source.labels is not None and bool((source.labels < 0).any())
        kind = f"{split} labelled" if some else split
        if kind not in self._cache or len(self._cache[kind][0]) < len(chosen):
            used, found = self._extract(split, self._fixed_crops(source), chosen.tolist())
            self._cache[kind] = used, {layer: x[0] for layer, x in found.items()}
        used, found = self._cache[kind]
        count = len(chosen)
        own = {layer: x[:count] for layer, x in found.items()}
        return used[:count], self._with_others(own, count, on_rank_0)

    def _with_others(self, own: Layers, count: int, on_rank_0: Collection[int]) -> Layers:
        """Features (`count`, D) of a rank's own layers, on rank 0 of the others' too."""
        found = dict(own)
        for layer in sorted(on_rank_0):
            owner = owner_of(layer)
            if owner == 0:
                continue
            sent = own[layer] if layer in own else torch.empty(count, self.encoder.widths[layer])
            received = distributed.send(sent.to(self.device), owner, 0)
            if received is not None:
                found[layer] = received.cpu()
        return dict(sorted(found.items()))

    def labelled(self, split: str, limit: int) -> tuple[Layers, np.ndarray]:
        """Features and labels (N,) of at most `limit` images of a split that have a label, each image once.

        An image that stands in for a broken one may have no label, or be there already.
        """
        ids, layers = self.features(split, limit, labelled=True)
        source: Source = getattr(self.images, split)
        assert source.labels is not None, "only such are due"
        labels = source.labels[ids]
        kept = once_labelled(ids, source.labels)
        if kept.all():
            return layers, labels
        return {layer: x[torch.from_numpy(kept)] for layer, x in layers.items()}, labels[kept]

    def pairs(self, split: str, limit: int) -> Layers:
        """Features of two random views of at most `limit` images of a split: (2, N, D) each."""
        source = getattr(self.images, split)
        keys = [(0, index, index) for index in _pick(len(source), limit).tolist()]
        return self._extract(split, view_pairs(source, self.config), keys)[1]

    def of(self, split: str, images: Dataset, keys: list) -> tuple[np.ndarray, Layers]:
        """Indices used (N,), and features of what a data set makes of images of a split; they are not kept."""
        used, found = self._extract(split, images, keys)
        return used, {layer: x[0] for layer, x in found.items()}

    def views(self, split: str, limit: int, count: int) -> Layers:
        """Features of `count` random views of at most `limit` images of a split: (count, N, D) each."""
        source = getattr(self.images, split)
        images, rounds = _pick(len(source), limit).tolist(), -(-count // 2)
        keys = [(number, index, index) for number in range(rounds) for index in images]
        found = self._extract(split, view_pairs(source, self.config), keys)[1]
        return {
            layer: x.unflatten(1, (rounds, len(images))).transpose(0, 1).flatten(0, 1)[:count]
            for layer, x in found.items()
        }

    def batches(
        self, split: str, indices: np.ndarray, want: Want
    ) -> Iterator[tuple[np.ndarray, Tensor, layers.Layers]]:
        """Whatever of chosen images' fixed crops, a batch at a time, in this process alone and in their order.

        Patch tokens of many layers and images are more than a machine holds: who wants them takes them as they come.

        Yields:
            Indices of the images used (B,), the normalised images (B, C, H, W), and what was asked of them.
        """
        source: Source = getattr(self.images, split)
        done = 0
        for batch in eval_loader(self._fixed_crops(source), indices.tolist(), self.loaders):
            self.broken.update((f"{self.place}{split}", index) for index in batch.broken)
            images = normalise(batch.views["global"][0].to(self.device))
            with torch.no_grad():
                found = self.look(images, want)
            yield batch.ids.numpy(), images, found
            done += len(batch.ids)
            self.tell(f"looking at {self.place}{split}", done, len(indices))

    def _fixed_crops(self, source: Source) -> EvalImages:
        backbone = self.config.backbone
        return EvalImages(source, backbone.image_size, backbone.channels)

    @torch.no_grad()
    def _extract(self, split: str, dataset: Dataset, keys: list) -> tuple[np.ndarray, Layers]:
        """Indices used (N,) and features (V, N, D) for the N keys, whatever the number of ranks."""
        world, rank = distributed.world_size(), distributed.rank()
        share = keys[rank::world] or keys[:1]
        rows = -(-len(keys) // world)
        ids: list[Tensor] = []
        chunks: list[list[Tensor]] = []
        want = Want(pooled=tuple(range(1, self.depth + 1)))
        for batch in eval_loader(dataset, share, self.loaders):
            self.broken.update((f"{self.place}{split}", index) for index in batch.broken)
            views = normalise(batch.views["global"].to(self.device))
            pooled = self.look(views.flatten(0, 1), want).pooled
            # Off the device at once: all layers of all images may be more than it holds.
            of_layers = (pooled[layer].float() for layer in want.pooled)
            chunks.append([x.unflatten(0, views.shape[:2]).transpose(0, 1).cpu() for x in of_layers])
            ids.append(batch.ids)
            self.tell(f"looking at {self.place}{split}", sum(map(len, ids)), len(share))

        def padded(parts: Sequence[Tensor]) -> Tensor:
            x = torch.cat(list(parts))
            return torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])]).to(self.device)

        def in_order(x: Tensor) -> Tensor:
            """Rows of all ranks in the order of keys."""
            return x.unflatten(0, (world, rows)).transpose(0, 1).flatten(0, 1)[: len(keys)].cpu()

        found = {}
        for layer, parts in enumerate(zip(*chunks, strict=True)):
            gathered = distributed.gather_to(padded(parts), owner_of(layer))
            if gathered is not None:
                found[layer] = in_order(gathered).transpose(0, 1)
        return in_order(distributed.all_gather(padded(ids))).numpy(), found


def once_labelled(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which of these images (N,) are there for the first time, and have a label.

    What stands in for a broken image may have none, or be there already.
    """
    first = np.zeros(len(ids), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first & (labels[ids] >= 0)


def owner_of(layer: int) -> int:
    """The rank that measures a layer."""
    return layer % distributed.world_size()


@lru_cache(maxsize=8)
def own_images(data: str) -> Images:
    """The images of an evaluator that names its own, by the JSON of a `data` section."""
    return open_images(DataConfig.model_validate_json(data))


def chosen(source: Source, limit: int, labelled: bool = False) -> np.ndarray:
    """Indices (N,) of at most `limit` images, always the same ones, of those with a label if asked."""
    if not labelled or source.labels is None or not (source.labels < 0).any():
        return _pick(len(source), limit)
    indices = _pick(len(source), len(source))
    return indices[source.labels[indices] >= 0][:limit]


def chosen_labels(source: Source | None, limit: int) -> np.ndarray:
    """The labels (N,) of at most `limit` labelled images, always the same ones; none where there are none."""
    if source is None or source.labels is None:
        return np.empty(0, np.int64)
    return source.labels[chosen(source, limit, labelled=True)]


def _pick(images: int, limit: int) -> np.ndarray:
    """`limit` of `images` indices; a smaller limit picks a prefix of a larger one's."""
    return np.random.default_rng(derive_seed(Use.PICK)).permutation(images)[:limit]
