"""Independent seeds for everything that is random in a run."""

from enum import IntEnum

import numpy as np


class Use(IntEnum):
    """What a derived seed is for: no two uses share one."""

    ORDER = 1
    VIEWS = 2
    PICK = 3
    STEP = 4
    PARTNERS = 5
    MASKS = 6
    MASK_SIZES = 7
    SPLITS = 8
    EPISODES = 9
    PROBE = 10
    HEADS = 21
    HEADS_ORDER = 22
    FINETUNE = 23
    CORRUPTIONS = 24
    COPIES = 30
    PATCHES = 31
    LIGHT_COPIES = 32


def derive_seed(use: Use, *parts: int) -> int:
    """An independent 64-bit seed for each use and tuple of non-negative integers."""
    return int(np.random.SeedSequence((use, *parts)).generate_state(1, np.uint64)[0])
