"""Which patches of an image are hidden: a function of (seed, epoch, image), drawn by the loaders as views are.

Blocks have one size a batch, and tensors are dense: a batch's images show as many patches as the poorest of them, the
others leave out some at random. So every image's mask is the same for any number of workers and loaders.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ssl_core.batch import Masks
from ssl_core.schema.objectives import BlockMaskConfig, RandomMaskConfig
from ssl_core.seeds import Use, derive_seed

TRIES = 20  # places drawn for blocks that hide too much of an image, before all are put in one

Mask = tuple[np.ndarray, np.ndarray]
"""Of one image: patches that can be seen (V,), in random order, and those to be predicted (T, P), block by block."""
Grid = tuple[int, int]
"""Patches of an image: rows, columns."""


class MaskDrawer:
    """Masks of a run's images.

    Args:
        config: the kind; its `check` has nothing to say of `grid`.
        seed: the run's.
    """

    def __init__(self, config: BlockMaskConfig | RandomMaskConfig, grid: Grid, seed: int):
        self.config, self.grid, self.seed = config, grid, seed

    def draw(self, epoch: int, batch: int, image: int) -> Mask:
        """The mask of an image in an epoch, which it goes through in batches numbered from 0."""
        generator = np.random.default_rng(derive_seed(Use.MASKS, self.seed, epoch, image))
        if isinstance(self.config, RandomMaskConfig):
            return _draw_random(self.config, self.grid, generator)
        sizes = _block_sizes(
            self.config, self.grid, np.random.default_rng(derive_seed(Use.MASK_SIZES, self.seed, epoch, batch))
        )
        return _draw_blocks(self.config, self.grid, *sizes, generator)


def stack(masks: Sequence[Mask]) -> Masks:
    """Masks of a batch. Contexts keep their random order until `Masks.even` has cut them to one length."""
    fewest = min(len(seen) for seen, _ in masks)
    context = np.stack([seen[:fewest] for seen, _ in masks])
    return Masks(torch.from_numpy(context), torch.from_numpy(np.stack([targets for _, targets in masks])))


def draw(drawer: MaskDrawer, epoch: int, images: Sequence[int]) -> Masks:
    """Masks of some images as one batch."""
    masks = stack([drawer.draw(epoch, 0, image) for image in images])
    return masks.even(masks.context.shape[1])


def _draw_random(config: RandomMaskConfig, grid: Grid, generator: np.random.Generator) -> Mask:
    """A share of the patches, each as likely as any other (MAE, Sec. 3)."""
    order, hidden = generator.permutation(grid[0] * grid[1]), config.hidden(grid)
    return order[hidden:], np.sort(order[:hidden])[None]


def _draw_blocks(
    config: BlockMaskConfig, grid: Grid, size: Grid, context_size: Grid, generator: np.random.Generator
) -> Mask:
    """Target blocks anywhere, and a large context block without them (I-JEPA, Sec. 3)."""
    patches = grid[0] * grid[1]
    least = max(1, round(config.least_context * patches))
    for attempt in range(TRIES + 1):
        if attempt < TRIES:
            targets = _place(size, grid, config.targets, generator)
            visible = np.zeros(patches, dtype=bool)
            visible[_place(context_size, grid, 1, generator)[0]] = True
        else:
            targets = np.repeat(_place(size, grid, 1, generator), config.targets, axis=0)
            visible = np.ones(patches, dtype=bool)
        visible[targets.reshape(-1)] = False
        if visible.sum() >= least:
            break
    return generator.permutation(np.flatnonzero(visible)), targets


def _block_sizes(config: BlockMaskConfig, grid: Grid, generator: np.random.Generator) -> tuple[Grid, Grid]:
    """Height and width, in patches, of target blocks and of the context block."""

    def size(scale: tuple[float, float], aspect: tuple[float, float]) -> Grid:
        share, ratio = generator.uniform(*scale), generator.uniform(*aspect)
        area = share * grid[0] * grid[1]
        height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])

    return size(config.target_scale, config.target_aspect), size(config.context_scale, (1.0, 1.0))


def _place(size: Grid, grid: Grid, count: int, generator: np.random.Generator) -> np.ndarray:
    """Patches of `count` blocks of one size at random places: (count, height · width)."""
    top = generator.integers(grid[0] - size[0] + 1, size=count)
    left = generator.integers(grid[1] - size[1] + 1, size=count)
    within = (np.arange(size[0])[:, None] * grid[1] + np.arange(size[1])).reshape(-1)
    return (top * grid[1] + left)[:, None] + within
