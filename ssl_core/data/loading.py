"""Which image when, and its views: the datasets, the order of an epoch, the loaders.

Everything random is a function of (seed, epoch, image), so the same run sees the same views whatever
the number of workers and loader processes, and resuming needs no generator's state.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_core import distributed
from ssl_core.batch import Batch
from ssl_core.data.masks import Grid, Mask, MaskDrawer, stack
from ssl_core.data.sources.base import BrokenImage, Source, read_image
from ssl_core.data.views import CentreView, local_view, random_view, to_channels, to_tensor
from ssl_core.errors import DataError
from ssl_core.schema.objectives import BlockMaskConfig, RandomMaskConfig
from ssl_core.schema.run import RunConfig
from ssl_core.schema.views import ViewsConfig
from ssl_core.seeds import Use, derive_seed

MAX_BROKEN_RUN = 100  # broken images in a row that others may stand in for
EVAL_BATCH = 128


class Key(NamedTuple):
    """What is asked of a data set.

    Attributes:
        image, partner: the image, and the one that its second view is of.
        batch: number of the batch in its epoch.
    """

    epoch: int
    image: int
    partner: int
    batch: int = 0


@dataclass
class Item:
    """One image of a batch.

    Attributes:
        index: of the image that was used.
        partner: of the one that the second view is of.
        views: kind of view → (V, C, H, W).
        broken: indices that could not be decoded.
        masks: what is hidden of the first view, by objective.
    """

    index: int
    partner: int
    views: dict[str, Tensor]
    broken: list[int]
    masks: dict[str, Mask] = field(default_factory=dict)


def read_or_replace(source: Source, index: int, channels: int) -> tuple[Image.Image, int, list[int]]:
    """The image at `index`, or the next one that can be decoded; the index used; the broken ones passed over.

    Raises:
        DataError: too many broken images in a row, or one that the system does not let be read.
    """
    broken: list[int] = []
    error: Exception | None = None
    for step in range(min(MAX_BROKEN_RUN, len(source))):
        at = (index + step) % len(source)
        try:
            return read_image(source, at, partial(to_channels, channels=channels)), at, broken
        except BrokenImage as e:
            error = error or e
            broken.append(at)
    raise DataError(f"{len(broken)} images in a row cannot be decoded, from {source.where(index)}: {error}")


class Hiding(Protocol):
    """The section of an objective that hides patches."""

    name: str
    mask: BlockMaskConfig | RandomMaskConfig


class TrainImages(Dataset):
    """A `Key` → a random view of its image, one of its partner, local crops of the first, and masks.

    With a `count` of 1 the first view alone.
    """

    def __init__(
        self,
        source: Source,
        views: ViewsConfig,
        image_size: int,
        channels: int,
        seed: int,
        count: int = 2,
        masks: Mapping[str, MaskDrawer] | None = None,
    ):
        self.source, self.channels, self.seed, self.masks = source, channels, seed, masks or {}
        self.views = [random_view(views, view, image_size, channels) for view in range(count)]
        self.local_view = local_view(views, views.local_crops, image_size, channels) if views.local_crops else None
        self.local_count = views.local_crops.count if views.local_crops else 0

    def __getitem__(self, item: tuple[int, ...]) -> Item:
        key = Key(*item)
        image, used, broken = read_or_replace(self.source, key.image, self.channels)
        other, partner = image, used
        if key.partner != key.image:
            other, partner, more = read_or_replace(self.source, key.partner, self.channels)
            broken += more
        state = torch.get_rng_state()  # in a loader process of its own, or in the training process
        torch.default_generator.manual_seed(derive_seed(Use.VIEWS, self.seed, key.epoch, used))
        pairs = zip(self.views, (image, other), strict=False)
        views = {"global": torch.stack([to_tensor(view(of)) for view, of in pairs])}
        if self.local_view is not None:
            views["local"] = torch.stack([to_tensor(self.local_view(image)) for _ in range(self.local_count)])
        torch.set_rng_state(state)
        masks = {name: drawer.draw(key.epoch, key.batch, used) for name, drawer in self.masks.items()}
        return Item(used, partner, views, broken, masks)


class EvalImages(Dataset):
    """index → the fixed crop of an image, as a single view."""

    def __init__(self, source: Source, image_size: int, channels: int):
        self.source, self.channels = source, channels
        self.view = CentreView(image_size)

    def __getitem__(self, index: int) -> Item:
        image, index, broken = read_or_replace(self.source, index, self.channels)
        return Item(index, index, {"global": to_tensor(self.view(image))[None]}, broken)


class EpochOrder(Sampler):
    """This worker's batches of one epoch, a `Key` an image: shuffled, without overlap, incomplete steps dropped.

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

    def __iter__(self) -> Iterator[list[Key]]:
        world, rank = distributed.world_size(), distributed.rank()
        order = self.order()[: len(self) * world * self.micro_batch].reshape(len(self), world, self.micro_batch)
        for number in range(self.start, len(self)):
            batch = order[number, rank]
            partners = batch if self.partners is None else self.partners[batch]
            pairs = zip(batch.tolist(), partners.tolist(), strict=True)
            yield [Key(self.epoch, index, partner, number) for index, partner in pairs]


def _collate(items: list[Item]) -> Batch:
    return Batch(
        torch.tensor([item.index for item in items]),
        {kind: torch.stack([item.views[kind] for item in items], dim=1) for kind in items[0].views},
        {name: stack([item.masks[name] for item in items]) for name in items[0].masks},
        [index for item in items for index in item.broken],
        torch.tensor([item.partner for item in items]),
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def view_pairs(source: Source, config: RunConfig) -> TrainImages:
    """Two views of each image, as a method that compares views sees them; no local crops."""
    views = config.views.model_copy(update={"local_crops": None})
    return TrainImages(source, views, config.backbone.image_size, config.backbone.channels, config.seed)


def train_images(source: Source, config: RunConfig, grid: Grid | None = None) -> TrainImages:
    """The views and masks that the objectives want.

    Args:
        grid: patches of an image, where some objective hides any.
    """
    backbone, views = config.backbone, config.views_per_image
    masks = {}
    for objective in cast("list[Hiding]", config.hides):
        assert grid is not None, "the patches that are hidden"
        masks[objective.name] = MaskDrawer(objective.mask, grid, config.seed)
    return TrainImages(source, config.views, backbone.image_size, backbone.channels, config.seed, views, masks)


def train_loader(source: Source, config: RunConfig, workers: int, grid: Grid | None = None) -> DataLoader:
    """Batches of this worker; set `epoch`, `start` and `partners` of `loader.batch_sampler` before iterating."""
    return DataLoader(
        train_images(source, config, grid),
        batch_sampler=EpochOrder(source, config.micro_batch, config.seed, config.data.cache_mb << 20),
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )


def loader_count(wanted: int | None) -> int:
    """Loader processes: as many as `data.workers` wants, else this process's threads less one, at most eight."""
    return min(torch.get_num_threads() - 1, 8) if wanted is None else wanted


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


def batch_loader(dataset: Dataset, batches: Iterable[list], workers: int) -> DataLoader:
    """`dataset[key]` for the keys of every batch, in order; who asks says which are together."""
    return DataLoader(
        dataset,
        batch_sampler=cast("Sampler[list]", batches),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
    )
