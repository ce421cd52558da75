"""Which patches are hidden: shares and blocks as asked for, of each image by itself, with something left to see."""

import numpy as np
import pytest
import torch

from ssl_core.batch import Masks
from ssl_core.data.masks import MaskDrawer, draw, stack
from ssl_core.errors import InputError
from ssl_core.schema.objectives import BlockMaskConfig, RandomMaskConfig


def drawn(config: BlockMaskConfig | RandomMaskConfig, grid: tuple[int, int], images: int, seed: int = 0) -> Masks:
    return draw(MaskDrawer(config, grid, seed), 1, range(images))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
def test_random_masks_hide_their_share(share: float) -> None:
    masks = drawn(RandomMaskConfig(share=share), (7, 5), 200)
    hidden = round(share * 35)
    assert masks.targets.shape == (200, 1, hidden)
    assert masks.context.shape == (200, 35 - hidden)
    together = torch.cat([masks.context, masks.targets[:, 0]], dim=1).sort(dim=1).values
    assert (together == torch.arange(35)).all()
    seen = torch.zeros(35).index_add_(0, masks.context.flatten(), torch.ones(masks.context.numel()))
    assert seen.min() > 0, "some patch is always hidden"


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (4, 6), (3, 3)])
def test_block_masks_are_blocks_and_leave_context(grid: tuple[int, int]) -> None:
    config = BlockMaskConfig()
    for seed in range(40):
        masks = drawn(config, grid, 16, seed)
        assert masks.context.shape[1] >= 1
        for context, targets in zip(masks.context, masks.targets, strict=True):
            assert not set(context.tolist()) & set(targets.flatten().tolist()), "what is predicted was seen"
            assert len(set(context.tolist())) == len(context)
            for block in targets:
                rows, columns = block // grid[1], block % grid[1]
                height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
                assert height * width == len(block), "no rectangle"
    share = len(targets[0]) / (grid[0] * grid[1])
    if grid == (14, 14):
        assert 0.12 < share < 0.23


KINDS = [BlockMaskConfig(), RandomMaskConfig()]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_an_images_mask_does_not_depend_on_its_batch(config: BlockMaskConfig | RandomMaskConfig) -> None:
    drawer = MaskDrawer(config, (8, 8), seed=0)
    whole = [drawer.draw(2, 5, image) for image in range(6)]
    for image in (4, 1):
        for part, again in zip(drawer.draw(2, 5, image), whole[image], strict=True):
            assert np.array_equal(part, again)
    others = [drawer.draw(3, 5, 1), MaskDrawer(config, (8, 8), seed=1).draw(2, 5, 1), drawer.draw(2, 5, 2)]
    assert not any(np.array_equal(other[1], whole[1][1]) for other in others), "another epoch, run or image"


def test_all_images_of_a_batch_have_blocks_of_one_size() -> None:
    drawer = MaskDrawer(BlockMaskConfig(), (14, 14), seed=0)
    sizes = [{drawer.draw(1, batch, image)[1].shape for image in range(20)} for batch in range(12)]
    assert all(len(size) == 1 for size in sizes)
    assert len(set.union(*sizes)) > 1


def test_batches_show_as_many_patches_as_the_poorest_image() -> None:
    drawer = MaskDrawer(BlockMaskConfig(), (8, 8), seed=0)
    each = [drawer.draw(1, 0, image) for image in range(32)]
    whole = stack(each)
    fewest = min(len(seen) for seen, _ in each)
    assert max(len(seen) for seen, _ in each) > fewest == whole.context.shape[1]
    half = stack(each[:16]).even(fewest)
    assert torch.equal(half.context, whole.even(fewest).context[:16]), "on two ranks as on one"


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (2, 5), (8, 8)])
def test_what_is_not_refused_always_leaves_something_to_see(grid: tuple[int, int]) -> None:
    allowed = 0
    for share in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        config = BlockMaskConfig(target_scale=(share, share), targets=8)
        try:
            config.check(grid, "framework.mask")
        except InputError:
            continue
        allowed += 1
        for seed in range(20):
            masks = drawn(config, grid, 32, seed)
            assert masks.context.shape[1] >= 1
            for context, targets in zip(masks.context, masks.targets, strict=True):
                assert not set(context.tolist()) & set(targets.flatten().tolist())
    assert allowed >= 2
