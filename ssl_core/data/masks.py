"""Which patches of an image are hidden: drawn for a step's images at once, in equal numbers: tensors stay dense.

Every rank draws the masks of all ranks' images from the same seed and takes its own, so a step's masks are the same
for any number of workers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_core.errors import InputError
from ssl_core.schema.objectives import BlockMaskConfig, RandomMaskConfig

TRIES = 20  # places drawn for blocks that hide too much of an image, before all are put in one


@dataclass(frozen=True)
class Masks:
    """Patches by number, row by row.

    Attributes:
        context: (B, V) what the student sees, ascending.
        targets: (B, T, P) what it predicts from that, block by block.
    """

    context: Tensor
    targets: Tensor

    def rows(self, start: int, stop: int, device: torch.device) -> "Masks":
        """Those of some images."""
        return Masks(self.context[start:stop].to(device), self.targets[start:stop].to(device))


def check(config: BlockMaskConfig | RandomMaskConfig, grid: tuple[int, int]) -> None:
    """Whether masks of `grid` patches (rows, columns) can be drawn.

    Raises:
        InputError: they would hide nothing, or everything.
    """
    rows, columns = grid
    if isinstance(config, RandomMaskConfig):
        if not 0 < (hidden := _hidden(config, grid)) < rows * columns:
            raise InputError(
                f"framework.mask.share: {config.share:g} of {rows} × {columns} patches hides {hidden} of "
                f"{rows * columns}; some must be hidden and some seen"
            )
        return
    # The aspects at which the largest block is as high as the image, and those at which it is as wide.
    area, (lowest, highest) = config.target_scale[1] * rows * columns, config.target_aspect
    if max(lowest, (rows - 0.5) ** 2 / area) <= min(highest, area / (columns - 0.5) ** 2):
        raise InputError(
            f"framework.mask.target_scale: a block of {config.target_scale[1]:g} of the image can hide all of "
            f"{rows} × {columns} patches; use a smaller scale, or smaller patches"
        )


def draw(
    config: BlockMaskConfig | RandomMaskConfig, grid: tuple[int, int], images: int, generator: torch.Generator
) -> Masks:
    """Masks of `images` images of `grid` patches (rows, columns), for which `check` has nothing to say."""
    if isinstance(config, RandomMaskConfig):
        return _draw_random(config, grid, images, generator)
    return _draw_blocks(config, grid, images, generator)


def _draw_random(config: RandomMaskConfig, grid: tuple[int, int], images: int, generator: torch.Generator) -> Masks:
    """A share of the patches, each as likely as any other (MAE, Sec. 3)."""
    hidden = _hidden(config, grid)
    order = torch.rand(images, grid[0] * grid[1], generator=generator).argsort(dim=1)
    return Masks(order[:, hidden:].sort(dim=1).values, order[:, None, :hidden].sort(dim=2).values)


def _hidden(config: RandomMaskConfig, grid: tuple[int, int]) -> int:
    return round(config.share * grid[0] * grid[1])


def _draw_blocks(config: BlockMaskConfig, grid: tuple[int, int], images: int, generator: torch.Generator) -> Masks:
    """Target blocks anywhere, and a large context block without them (I-JEPA, Sec. 3).

    Blocks have one size a step. A step's context has as many patches as its poorest image has; the others leave out
    some at random.
    """
    rows, columns = grid
    size = _block_size(config.target_scale, config.target_aspect, grid, generator)
    context_size = _block_size(config.context_scale, (1.0, 1.0), grid, generator)
    least = max(1, round(config.least_context * rows * columns))
    targets = torch.empty(images, config.targets, size[0] * size[1], dtype=torch.long)
    visible = torch.zeros(images, rows * columns, dtype=torch.bool)
    poor = torch.arange(images)
    for attempt in range(TRIES + 1):
        if attempt < TRIES:
            targets[poor] = _place(size, grid, (len(poor), config.targets), generator)
            seen = torch.zeros(len(poor), rows * columns, dtype=torch.bool)
            seen.scatter_(1, _place(context_size, grid, (len(poor), 1), generator)[:, 0], True)
        else:
            targets[poor] = _place(size, grid, (len(poor), 1), generator)
            seen = torch.ones(len(poor), rows * columns, dtype=torch.bool)
        visible[poor] = seen.scatter_(1, targets[poor].flatten(1), False)
        poor = (visible.sum(dim=1) < least).nonzero().flatten()
        if not len(poor):
            break
    count = int(visible.sum(dim=1).min())
    order = torch.rand(images, rows * columns, generator=generator).masked_fill(~visible, 2.0).argsort(dim=1)
    return Masks(order[:, :count].sort(dim=1).values, targets)


def _block_size(
    scale: tuple[float, float], aspect: tuple[float, float], grid: tuple[int, int], generator: torch.Generator
) -> tuple[int, int]:
    """Height and width of a block, in patches: its share of the image and its height to width, uniform in ranges."""
    share, ratio = (low + (high - low) * float(torch.rand((), generator=generator)) for low, high in (scale, aspect))
    area = share * grid[0] * grid[1]
    height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


def _place(size: tuple[int, int], grid: tuple[int, int], shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Patches of blocks of one size at random places: (*shape, height · width)."""
    top = torch.randint(grid[0] - size[0] + 1, shape, generator=generator)
    left = torch.randint(grid[1] - size[1] + 1, shape, generator=generator)
    within = (torch.arange(size[0])[:, None] * grid[1] + torch.arange(size[1])).flatten()
    return (top * grid[1] + left)[..., None] + within
