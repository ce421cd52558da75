"""Features of every layer of some images, extracted once for all evaluators, and shared among ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssl_core import distributed
from ssl_core.data.loading import EvalImages, eval_loader, view_pairs
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.data.views import normalise
from ssl_core.schema.data import DataConfig
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed

Layers = dict[int, Tensor]
"""Features of those layers (from 0) that this rank measures: (N, D) each, in main memory."""


@dataclass
class Context:
    """What an evaluator may look at.

    Attributes:
        layer_features: normalised images (B, C, H, W) → features of every layer, each (B, D).
        depth: how many layers.
        images: what is looked at.
        device: where features are compared.
        loaders: loader processes.
        broken: images met that could not be decoded, as (set, index).
        place: what goes before the names of the sets there; the run's own are `train` and `val`.
    """

    layer_features: Callable[[Tensor], list[Tensor]]
    depth: int
    images: Images
    config: RunConfig
    device: torch.device
    loaders: int
    broken: set[tuple[str, int]] = field(default_factory=set)
    place: str = ""
    _cache: dict[str, tuple[np.ndarray, Layers]] = field(default_factory=dict)

    @property
    def own_layers(self) -> list[int]:
        """The layers (from 0) that this rank measures."""
        return [layer for layer in range(self.depth) if owner_of(layer) == distributed.rank()]

    def features(self, split: str, limit: int, labelled: bool = False) -> tuple[np.ndarray, Layers]:
        """At most `limit` images of a split, always the same ones: their indices (N,), and features.

        Args:
            labelled: of those that have a label.
        """
        source = getattr(self.images, split)
        chosen = _pick(len(source), len(source) if labelled else limit)
        kept = "" if not labelled or (source.labels >= 0).all() else " labelled"
        chosen = (chosen[source.labels[chosen] >= 0] if kept else chosen)[:limit]
        kind = f"{split}{kept}"
        if kind not in self._cache or len(self._cache[kind][0]) < len(chosen):
            backbone = self.config.backbone
            dataset = EvalImages(source, backbone.image_size, backbone.channels)
            used, layers = self._extract(split, dataset, chosen.tolist())
            self._cache[kind] = used, {layer: x[0] for layer, x in layers.items()}
        used, layers = self._cache[kind]
        count = len(chosen)
        return used[:count], {layer: x[:count] for layer, x in layers.items()}

    def pairs(self, split: str, limit: int) -> Layers:
        """Features of two random views of at most `limit` images of a split: (2, N, D) each."""
        source = getattr(self.images, split)
        keys = [(0, index, index) for index in _pick(len(source), limit).tolist()]
        return self._extract(split, view_pairs(source, self.config), keys)[1]

    @torch.no_grad()
    def _extract(self, split: str, dataset: Dataset, keys: list) -> tuple[np.ndarray, Layers]:
        """Indices used (N,) and features (V, N, D) for the N keys, whatever the number of ranks."""
        world, rank = distributed.world_size(), distributed.rank()
        share = keys[rank::world] or keys[:1]
        rows = -(-len(keys) // world)
        ids: list[Tensor] = []
        chunks: list[list[Tensor]] = []
        for batch in eval_loader(dataset, share, self.loaders):
            self.broken.update((f"{self.place}{split}", index) for index in batch.broken)
            views = normalise(batch.views["global"].to(self.device))
            layers = self.layer_features(views.flatten(0, 1))
            # Off the device at once: all layers of all images may be more than it holds.
            chunks.append([layer.float().unflatten(0, views.shape[:2]).transpose(0, 1).cpu() for layer in layers])
            ids.append(batch.ids)

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


def owner_of(layer: int) -> int:
    """The rank that measures a layer."""
    return layer % distributed.world_size()


@lru_cache(maxsize=8)
def own_images(data: str) -> Images:
    """The images of an evaluator that names its own, by the JSON of a `data` section."""
    return open_images(DataConfig.model_validate_json(data))


def _pick(images: int, limit: int) -> np.ndarray:
    """`limit` of `images` indices; a smaller limit picks a prefix of a larger one's."""
    return np.random.default_rng(derive_seed(Use.PICK)).permutation(images)[:limit]
