"""Images for validation, taken out of those to train on."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ssl_core.data.sources.base import Source, Subset
from ssl_core.errors import InputError
from ssl_core.schema.data import SplitConfig


def split(
    source: Source, config: SplitConfig, column: Callable[[str], Sequence[str | None]]
) -> tuple[Subset, Subset, tuple[str, ...]]:
    """Images to train on, and images for validation, each in the order of the source; and what is odd about them.

    Args:
        column: what a column says of every image.

    Raises:
        InputError: one of the two would be empty.
    """
    remarks: tuple[str, ...] = ()
    if config.share is not None:
        if len(source) < 2:
            raise InputError(f"data.split.share: {len(source)} image cannot be split")
        val = draw_share(source.labels, len(source), config.share, config.seed)
        if not val.any():
            raise InputError("data.split.share: every class has one image alone; data.labels=none splits without them")
        train = ~val
    else:
        assert config.column is not None
        train, val, remarks = _by_column(config, [word.strip() if word else None for word in column(config.column)])
    return Subset(source, np.flatnonzero(train)), Subset(source, np.flatnonzero(val)), remarks


def draw_share(labels: np.ndarray | None, count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` images are for validation: (count,) bool.

    About `share` of each class, and of the images without a label; a class of two or more has one on either side.
    """
    groups = np.zeros(count, np.int64) if labels is None else labels
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    taken = _quotas(sizes, share)
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(groups[order], kind="stable")]  # by group, at random within
    place = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(count, bool)
    chosen[order] = place < taken[groups[order]]
    return chosen


def _quotas(sizes: np.ndarray, share: float) -> np.ndarray:
    """How many of each group: together `share` of all, as far as each may have one and must leave one."""
    least, most = np.minimum(1, sizes - 1), np.maximum(sizes - 1, 0)
    exact = share * sizes
    quotas = np.clip(np.floor(exact).astype(np.int64), least, most)
    lacking = round(share * int(sizes.sum())) - int(quotas.sum())
    for group in np.argsort(quotas - exact, kind="stable")[: max(lacking, 0)]:  # those cut by most
        quotas[group] = min(quotas[group] + 1, most[group])
    return quotas


def _by_column(config: SplitConfig, words: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Which images the column says are to train on, and for validation; and what else it says."""
    counts = Counter(words)
    for key, wanted in (("val", config.val), ("train", config.train)):
        if wanted is not None and wanted not in counts:
            there = ", ".join(repr(word) for word, _ in counts.most_common(10) if word is not None) or "nothing"
            raise InputError(f"data.split.{key}: column {config.column!r} says {wanted!r} of no image; it says {there}")
    val = np.array([word == config.val for word in words])
    train = ~val if config.train is None else np.array([word == config.train for word in words])
    if not (train & ~val).any() or (train & val).any():
        raise InputError(f"data.split: column {config.column!r} leaves no image to train on beside {config.val!r}")
    known = [word for word in (config.val, config.train) if word is not None]
    others = [word for word, _ in counts.most_common() if word not in known]
    remarks: tuple[str, ...] = ()
    if len(others) > (config.train is None):
        fate = "trained on; data.split.train says which alone" if config.train is None else "left out"
        listed = ", ".join(f"{'nothing' if word is None else repr(word)} ({counts[word]})" for word in others[:5])
        remarks = (f"column {config.column!r} also says {listed} of images, which are {fate}",)
    return train, val, remarks
