"""Which image when, and its views: the datasets, the order of an epoch, the loaders.

Everything random is a function of (seed, epoch, image), so the same run sees the same views whatever
the number of workers and loader processes, and resuming needs no generator's state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_core import distributed
from ssl_core.data.sources import BROKEN, Source
from ssl_core.data.views import centre_view, local_view, random_view, to_channels, to_tensor
from ssl_core.errors import DataError
from ssl_core.schema.run import RunConfig
from ssl_core.schema.views import ViewsConfig
from ssl_core.seeds import Use, derive_seed

MAX_BROKEN_RUN = 100  # broken images in a row that others may stand in for
EVAL_BATCH = 128


@dataclass
class Batch:
    """Images of one step in one worker.

    Attributes:
        ids: (B,) index of each image in its source.
        views: (V, B, C, H, W) uint8.
        broken: indices that could not be decoded; others stand in for them.
        local_views: (M, B, C, h, w) uint8, with multi-crop.
    """

    ids: Tensor
    views: Tensor
    broken: list[int]
    local_views: Tensor | None = None

    def pin_memory(self) -> "Batch":
        """What a loader with `pin_memory` calls, so that copying to a GPU does not wait."""
        local = None if self.local_views is None else self.local_views.pin_memory()
        return Batch(self.ids, self.views.pin_memory(), self.broken, local)


Item = tuple[int, Tensor, list[int], Tensor | None]
"""One image of a batch: its index, views (V, C, H, W), what was broken, local views (M, C, h, w)."""


def read_or_replace(source: Source, index: int, channels: int) -> tuple[Image.Image, int, list[int]]:
    """The image at `index`, or the next one that can be decoded; the index used; the broken ones passed over.

    Raises:
        DataError: too many broken images in a row.
    """
    broken: list[int] = []
    error: Exception | None = None
    for step in range(min(MAX_BROKEN_RUN, len(source))):
        at = (index + step) % len(source)
        try:
            return to_channels(source.read(at), channels), at, broken
        except BROKEN as e:
            error = error or e
            broken.append(at)
    raise DataError(f"{len(broken)} images in a row cannot be decoded, from {source.where(index)}: {error}")


class TrainImages(Dataset):
    """(epoch, index, partner) → a random view of image `index`, one of `partner`, and local crops of the first.

    With a `count` of 1 the first alone.
    """

    def __init__(self, source: Source, views: ViewsConfig, image_size: int, channels: int, seed: int, count: int = 2):
        self.source, self.channels, self.seed = source, channels, seed
        self.views = [random_view(views, view, image_size, channels) for view in range(count)]
        self.local_view = local_view(views, image_size, channels) if views.local_crops else None
        self.local_count = views.local_crops.count if views.local_crops else 0

    def __getitem__(self, item: tuple[int, int, int]) -> Item:
        epoch, index, partner = item
        image, used, broken = read_or_replace(self.source, index, self.channels)
        other = image
        if partner != index:
            other, _, more = read_or_replace(self.source, partner, self.channels)
            broken += more
        state = torch.get_rng_state()  # in a loader process of its own, or in the training process
        torch.default_generator.manual_seed(derive_seed(Use.VIEWS, self.seed, epoch, used))
        views = torch.stack([to_tensor(view(of)) for view, of in zip(self.views, (image, other), strict=False)])
        local = None
        if self.local_view is not None:
            local = torch.stack([to_tensor(self.local_view(image)) for _ in range(self.local_count)])
        torch.set_rng_state(state)
        return used, views, broken, local


class EvalImages(Dataset):
    """index → the fixed crop of an image, as a single view."""

    def __init__(self, source: Source, image_size: int, channels: int):
        self.source, self.channels = source, channels
        self.view = centre_view(image_size)

    def __getitem__(self, index: int) -> Item:
        image, index, broken = read_or_replace(self.source, index, self.channels)
        return index, to_tensor(self.view(image))[None], broken, None


class EpochOrder(Sampler):
    """This worker's (epoch, index, partner) batches of one epoch: shuffled, without overlap, incomplete steps dropped.

    A step's global batch is the same for any number of workers; worker r takes its r-th slice. A set
    larger than the memory budget is shuffled in blocks that are read together.

    Attributes:
        epoch: which one; set it before iterating.
        start: how many of the epoch's batches were used already.
        partners: (images,) which image the second view of each is of; None: of itself.
    """

    def __init__(self, source: Source, micro_batch: int, seed: int, budget_bytes: int):
        self.images, self.micro_batch, self.seed = len(source), micro_batch, seed
        self.blocks = source.block_ends if source.total_bytes > budget_bytes else None
        if self.blocks is not None:  # half of the budget, because the next window is read while this one is used
            self.per_window = max(1, len(self.blocks) * budget_bytes // (2 * source.total_bytes))
        self.epoch = self.start = 0
        self.partners: np.ndarray | None = None

    def __len__(self) -> int:
        return self.images // (self.micro_batch * distributed.world_size())

    def order(self) -> np.ndarray:
        """The epoch's permutation of all images."""
        generator = np.random.default_rng(derive_seed(Use.ORDER, self.seed, self.epoch))
        if self.blocks is None:
            return generator.permutation(self.images)
        starts = np.concatenate([[0], self.blocks[:-1]])
        shuffled = generator.permutation(len(starts))
        windows = [shuffled[i : i + self.per_window] for i in range(0, len(shuffled), self.per_window)]
        return np.concatenate(
            [
                generator.permutation(np.concatenate([np.arange(starts[b], self.blocks[b]) for b in window]))
                for window in windows
            ]
        )

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        world, rank = distributed.world_size(), distributed.rank()
        order = self.order()[: len(self) * world * self.micro_batch].reshape(len(self), world, self.micro_batch)
        for batch in order[self.start :, rank]:
            partners = batch if self.partners is None else self.partners[batch]
            yield [(self.epoch, int(index), int(partner)) for index, partner in zip(batch, partners, strict=True)]


def _collate(items: list[Item]) -> Batch:
    ids, views, broken, local = zip(*items, strict=True)
    local_views = None if local[0] is None else torch.stack(local, dim=1)
    return Batch(torch.tensor(ids), torch.stack(views, dim=1), [i for some in broken for i in some], local_views)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def view_pairs(source: Source, config: RunConfig) -> TrainImages:
    """Two views of each image, as a method that compares views sees them; no local crops."""
    views = config.views.model_copy(update={"local_crops": None})
    return TrainImages(source, views, config.backbone.image_size, config.backbone.channels, config.seed)


def train_images(source: Source, config: RunConfig) -> TrainImages:
    """The views that the method wants."""
    backbone, count = config.backbone, 1 if config.masked else 2
    return TrainImages(source, config.views, backbone.image_size, backbone.channels, config.seed, count)


def train_loader(source: Source, config: RunConfig, workers: int) -> DataLoader:
    """Batches of this worker; set `epoch`, `start` and `partners` of `loader.batch_sampler` before iterating."""
    return DataLoader(
        train_images(source, config),
        batch_sampler=EpochOrder(source, config.micro_batch, config.seed, config.data.cache_mb << 20),
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )


def eval_loader(dataset: Dataset, keys: list, workers: int) -> DataLoader:
    """Batches of `dataset[key]` for every key, in order."""
    return DataLoader(
        dataset,
        sampler=keys,
        batch_size=EVAL_BATCH,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
    )
